"""Payloads to predictions: in slices beside everybody else, through the room that there is."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.predictions import Record
from aiaas_server.core.errors import InvalidInput, ModelUnavailable, QueueFull
from aiaas_server.core.events import NOBODY, Caller
from aiaas_server.core.predict import GROUPS_AT_ONCE, LOOPS_AT_ONCE, SLICE, Predictor
from aiaas_server.core.runs import RUNS_AT_ONCE, Runs
from aiaas_server.core.task import Params, Prepared
from aiaas_server.garbage import settle, unsettle

DEADLINE = 60.0


class Model:
    """A loaded model whose queue has room for `queue_size` requests.

    Attributes:
        most: Requests that stood in the queue at a time; `refused` those that found no room.
    """

    def __init__(self, name="m", task=None, queue_size=10**6, max_batch_size=8):
        self.name = name
        self.task = task
        self.signature = SimpleNamespace(max_batch_size=max_batch_size)
        self.owner = "default"
        self.in_use = 0
        self.watch: Any = None
        self.waiting = self.most = self.refused = 0
        self.rows = []
        self._queue_size = queue_size

    async def infer(self, inputs, outputs=(), *, deadline=None):
        if self.waiting >= self._queue_size:
            self.refused += 1
            raise QueueFull("no room", retry_after=1.0)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            self.waiting -= 1
        self.rows.append(inputs["x"].shape[0])
        return SimpleNamespace(outputs={"y": inputs["x"] * 2})


class Doubling:
    """Twice the number; -1 is refused."""

    input = "any"
    predictions = (Record,)
    params = Params
    costs = False

    def preprocess(self, payload, params):
        if payload == -1:
            raise InvalidInput("minus one")
        return Prepared({"x": np.array([[payload]])}, context=payload)

    def postprocess(self, tensors, prepared, params):
        return Record(values={"y": int(tensors["y"][0, 0])})


class Looping:
    """A task of several runs: `body(payload, run)`."""

    input = "any"
    predictions = (Record,)
    params = Params

    def __init__(self, body):
        self.body = body

    async def predict(self, payload, params, run):
        return Record(values={"y": await self.body(payload, run)})


def predictor(*models):
    """Finds `models` by name; `asked` tells who asked for what."""
    asked = []

    async def obtain(name, version, caller, deadline):
        asked.append((name, version, caller, deadline))
        await asyncio.sleep(0)
        found = {model.name: model for model in models}.get(name)
        if found is None:
            raise ModelUnavailable(f"'{name}' is away", retry_after=1.0)
        return found

    made: Any = Predictor(obtain)
    made.asked = asked
    return made


async def predict(model, payloads, *others, caller=NOBODY):
    made = predictor(model, *others)
    deadline = asyncio.get_running_loop().time() + DEADLINE
    return made, await made.predict(model, payloads, {}, deadline, caller)


async def test_answers_keep_their_order_over_many_slices_and_each_fault_is_its_own():
    numbers = list(range(3 * SLICE + 7))
    numbers[5] = numbers[SLICE] = numbers[-1] = -1
    model = Model(task=Doubling())
    _, answers = await predict(model, numbers)
    told = [a.values["y"] if isinstance(a, Record) else str(a) for a in answers]
    assert told == [2 * n if n >= 0 else "minus one" for n in numbers]
    assert max(model.rows) == 8, "they run together"
    assert model.most <= 2 * GROUPS_AT_ONCE


@pytest.fixture
def settled():
    """The collector as a serving process has it: this process holds far more objects."""
    settle()
    yield
    unsettle()


@pytest.mark.parametrize("payload", [1, -1], ids=["good", "bad"])
@pytest.mark.parametrize("looping", [False, True])
@pytest.mark.usefixtures("settled")
async def test_many_payloads_leave_the_loop_to_others(payload, looping):
    task: Any = Doubling()
    if looping:

        async def body(value, run):
            if value == -1:
                raise InvalidInput("minus one")
            return value

        task = Looping(body)
    longest, going = 0.0, True

    async def others():
        nonlocal longest
        while going:
            before = time.thread_time()  # not the clock: the machine may be busy with more
            await asyncio.sleep(0.005)  # leaves the interpreter to the threads
            longest = max(longest, time.thread_time() - before)

    watching = asyncio.create_task(others())
    _, answers = await predict(Model(task=task, max_batch_size=256), [payload] * 20_000)
    going = False
    await watching
    assert len(answers) == 20_000
    assert longest < 0.1


async def test_an_error_that_is_kept_holds_nothing_of_what_was_worked_on():
    _, answers = await predict(Model(task=Doubling()), [-1] * 50)
    assert all(answer.__traceback__ is None and not answer.__context__ for answer in answers)


async def test_what_one_call_fans_out_waits_for_room():
    other = Model("other", queue_size=10)

    async def body(payload, run):
        step = run.model("other")
        parts = [step({"x": np.array([[n]])}, ()) for n in range(100)]
        return sum(int(part["y"][0, 0]) for part in await asyncio.gather(*parts))

    _, answers = await predict(Model(task=Looping(body)), [1, 2, 3], other)
    assert [answer.values["y"] for answer in answers] == [9900] * 3
    assert other.most <= 10
    assert other.refused <= RUNS_AT_ONCE, "who was refused once is not in everybody's way again"


async def test_a_fan_out_takes_only_its_share_of_a_long_queue():
    other = Model("other")

    async def body(payload, run):
        step = run.model("other")
        await asyncio.gather(*(step({"x": np.array([[n]])}, ()) for n in range(300)))
        return 1

    await predict(Model(task=Looping(body)), [0] * 5, other)
    assert other.most <= RUNS_AT_ONCE
    assert other.refused == 0


async def test_where_others_fill_the_queue_the_first_run_is_refused():
    full = Model(queue_size=0)
    with pytest.raises(QueueFull):
        await Runs().infer(full, {"x": np.zeros((1, 1))}, (), DEADLINE)
    assert full.refused == 1


async def test_a_call_that_has_begun_waits_until_others_leave_room():
    model, runs = Model(queue_size=1), Runs(pause=0)
    x = {"x": np.ones((1, 1))}
    await runs.infer(model, x, (), DEADLINE)
    model.waiting += 1  # somebody else's
    later = asyncio.create_task(runs.infer(model, x, (), DEADLINE))
    for _ in iter(lambda: model.refused < 3, False):
        await asyncio.sleep(0)
    model.waiting -= 1
    assert (await later)["y"] == 2


async def test_a_step_is_found_when_it_runs_by_name_caller_and_deadline():
    other = Model("other", task=Doubling())
    caller = Caller("me")

    async def body(payload, run):
        step = run.model("other", 3)
        before = len(made.asked)
        await step.predict(payload)
        await step.predict(payload)
        return len(made.asked) - before

    model = Model(task=Looping(body))
    made = predictor(model, other)
    deadline = asyncio.get_running_loop().time() + DEADLINE
    (answer,) = await made.predict(model, [4], {}, deadline, caller)
    assert answer.values["y"] == 2, "each time, since it may have made room meanwhile"
    assert made.asked[0] == ("other", 3, caller, deadline)


async def test_a_run_of_a_step_is_of_one_version_and_holds_it_until_the_end():
    other = Model("other")

    async def body(payload, run):
        step = run.model("other")
        for _ in range(3):
            await step({"x": np.ones((1, 1))})
        return other.in_use

    model = Model(task=Looping(body))
    made, (answer,) = await predict(model, [1], other)
    assert answer.values["y"] == 1
    assert len(made.asked) == 1
    assert model.in_use == other.in_use == 0


async def test_a_step_that_is_away_fails_the_call_and_everything_is_let_go():
    async def body(payload, run):
        await run.model("nowhere").predict(payload)

    model = Model(task=Looping(body))
    with pytest.raises(ModelUnavailable, match="'nowhere' is away"):
        await predict(model, [1] * (LOOPS_AT_ONCE + 1))
    assert model.in_use == 0
