"""Predictions by plain calls: told once, whatever becomes of their runs, and the model let go."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.predictions import Record
from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelUnavailable,
    QueueFull,
)
from aiaas_server.core.light import may_be_light, start_light
from aiaas_server.core.payloads import INLINE_ITEMS
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.task import Params, Prepared
from tests.waiting import until

DEADLINE = 60.0


class Model:
    """A loaded model whose requests are answered by the test.

    Attributes:
        queued: Requests in the queue; `abandoned` those that left it.
        room: How many find room; `at_once` answers without a queue.
    """

    def __init__(self, task: Any, max_batch_size: int = 8) -> None:
        self.name = "m"
        self.task = task
        self.signature = SimpleNamespace(max_batch_size=max_batch_size)
        self.in_use = 0
        self.watch: Any = None
        self.successor: Any = None
        self.starts = True
        self.scheduler = SimpleNamespace(abandon=self._abandon)
        self.queued: list[Any] = []
        self.abandoned: list[Any] = []
        self.room = 100
        self.at_once = False
        self.refusal: Exception | None = None

    def start(self, waiter: Any, inputs: Any, outputs: Any = (), *, deadline: float) -> Any:
        if self.refusal is not None:
            raise self.refusal
        if len(self.queued) >= self.room:
            raise QueueFull("no room", retry_after=1.0)
        if self.at_once:
            return outcome(inputs)
        request = SimpleNamespace(waiter=waiter, inputs=inputs, settled=False)
        self.queued.append(request)
        return request

    def _abandon(self, request: Any) -> None:
        self.queued.remove(request)
        self.abandoned.append(request)

    def answer(self, error: Exception | None = None) -> None:
        """Answer the oldest request."""
        request = self.queued.pop(0)
        request.settled = True
        assert not request.waiter.done()
        if error is None:
            request.waiter.set_result(outcome(request.inputs))
        else:
            request.waiter.set_exception(error)


def outcome(inputs: Any) -> Outcome:
    return Outcome({"y": inputs["x"] * 2}, 0, 0, 0, 0, 1)


class Doubling:
    """Twice the numbers of a list, whose length is the shape; -1 is refused, "bug" is a bug."""

    input = "any"
    predictions = (Record,)
    params = Params
    costs = False

    def preprocess(self, payload: Any, params: Any) -> Prepared:
        if payload == [-1]:
            raise InvalidInput("minus one")
        return Prepared({"x": np.array([payload])}, outputs=("y",), context=payload)

    def postprocess(self, tensors: Any, prepared: Prepared, params: Any) -> Record:
        if prepared.context == [13]:
            raise RuntimeError("a bug")
        return Record.model_validate({"values": {"y": tensors["y"][0].tolist()}})


class Told:
    """Who waits."""

    def __init__(self) -> None:
        self.answers: list[Any] | None = None
        self.error: Exception | None = None
        self.gone = False

    def done(self) -> bool:
        return self.gone

    def set_result(self, answers: list[Any]) -> None:
        assert self.is_waiting
        self.answers = [getattr(a, "values", {}).get("y") or str(a) for a in answers]

    def set_exception(self, error: Exception) -> None:
        assert self.is_waiting
        self.error = error

    @property
    def is_waiting(self) -> bool:
        return self.answers is None and self.error is None


def start(model: Any, *payloads: list[int], params: Any = None) -> tuple[Told, Any]:
    told = Told()
    return told, start_light(told, model, payloads, params or {}, DEADLINE)


@pytest.fixture
def model() -> Model:
    return Model(Doubling())


def test_a_payload_waits_in_the_queue_and_is_told(model: Model) -> None:
    told, _ = start(model, [4])
    assert told.is_waiting
    assert model.in_use == 1
    model.answer()
    assert told.answers == [[8]]
    assert model.in_use == 0


@pytest.mark.parametrize("payloads", [([4],), ([4], [-1], [5, 6])])
def test_what_runs_at_once_is_told_at_once(model: Model, payloads: Any) -> None:
    model.at_once = True
    told, _ = start(model, *payloads)
    assert told.answers == [[8], "minus one", [10, 12]][: len(payloads)]
    assert model.in_use == 0


def test_payloads_of_one_shape_are_one_request_and_the_last_ends_the_call(model: Model) -> None:
    told, _ = start(model, [1], [2, 3], [4])
    assert [request.inputs["x"].shape for request in model.queued] == [(2, 1), (1, 2)]
    model.answer()
    assert told.is_waiting
    model.answer()
    assert told.answers == [[2], [4, 6], [8]]


def test_without_batches_each_payload_is_a_request() -> None:
    model = Model(Doubling(), max_batch_size=0)
    told, _ = start(model, [1], [2])
    assert len(model.queued) == 2
    model.answer()
    model.answer()
    assert told.answers == [[2], [4]]


@pytest.mark.parametrize("payloads", [([-1],), ([-1], [-1])])
def test_payloads_that_are_all_wrong_run_nothing(model: Model, payloads: Any) -> None:
    told, _ = start(model, *payloads)
    assert told.answers == ["minus one"] * len(payloads)
    assert model.in_use == 0


def test_no_payload_at_all_is_told_at_once(model: Model) -> None:
    told, _ = start(model)
    assert told.answers == []


def test_when_payloads_fail_together_each_is_run_by_itself(model: Model) -> None:
    told, _ = start(model, [1], [2], [3])
    model.answer(InferenceFailed("together"))
    assert [request.inputs["x"].tolist() for request in model.queued] == [[[1]], [[2]], [[3]]]
    model.answer()
    model.answer(InferenceFailed("alone"))
    model.answer()
    assert told.answers == [[2], "alone", [6]]
    assert model.in_use == 0


@pytest.mark.parametrize("payloads", [([1],), ([1], [2, 3])])
def test_what_concerns_the_call_ends_all_of_it(model: Model, payloads: Any) -> None:
    told, _ = start(model, *payloads)
    model.answer(ModelUnavailable("away", retry_after=1.0))
    assert isinstance(told.error, ModelUnavailable)
    assert model.in_use == len(model.queued) == 0


@pytest.mark.parametrize("payloads", [([1],), ([1], [2, 3])])
def test_a_deadline_is_told_of_the_prediction(model: Model, payloads: Any) -> None:
    told, _ = start(model, *payloads)
    model.answer(DeadlineExceeded("of the request"))
    assert isinstance(told.error, DeadlineExceeded)
    assert str(told.error) == "model 'm': the deadline passed before the prediction was ready"
    assert model.in_use == 0


@pytest.mark.parametrize("payloads", [([13],), ([13], [2, 3])])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_bug_in_a_task_is_told_and_lets_the_model_go(
    model: Model, payloads: Any, at_once: bool
) -> None:
    model.at_once = at_once
    told, _ = start(model, *payloads)
    if not at_once:
        model.answer()
    assert isinstance(told.error, RuntimeError)
    assert model.in_use == len(model.queued) == 0


@pytest.mark.parametrize("payloads", [([1],), ([1], [2, 3])])
def test_a_call_that_finds_no_room_is_refused(model: Model, payloads: Any) -> None:
    model.room = 0
    told, _ = start(model, *payloads)
    assert isinstance(told.error, QueueFull)
    assert model.in_use == 0


@pytest.mark.parametrize("payloads", [([1],), ([1], [2, 3])])
def test_what_the_model_refuses_is_the_payloads_own_fault(model: Model, payloads: Any) -> None:
    model.refusal = InvalidInput("shape")
    told, _ = start(model, *payloads)
    assert told.answers == ["shape"] * len(payloads)
    assert model.in_use == 0


async def test_a_call_that_has_begun_waits_for_room(model: Model) -> None:
    model.room = 1
    told, _ = start(model, [1], [2, 3])
    assert told.is_waiting
    model.answer()
    model.answer()
    assert told.answers == [[2], [4, 6]]


async def test_a_call_that_has_run_waits_for_others_to_leave_room(model: Model) -> None:
    model.room = 1
    told, _ = start(model, [1], [2, 3])
    request = model.queued.pop()
    others = object()
    model.queued.append(others)  # they were quicker
    request.waiter.set_result(outcome(request.inputs))
    assert told.is_waiting
    model.queued.remove(others)
    await until(lambda: bool(model.queued))
    model.answer()
    assert told.answers == [[2], [4, 6]]
    assert model.in_use == 0


async def test_who_has_gone_leaves_nothing_behind(model: Model) -> None:
    model.room = 1
    told, light = start(model, [1], [2, 3])
    told.gone = True
    assert model.queued[0].waiter.done()
    light.abandon()
    light.abandon()
    await asyncio.sleep(0)
    assert told.is_waiting
    assert len(model.abandoned) == 1
    assert model.in_use == len(model.queued) == 0


def test_a_run_that_begins_as_another_ends_the_call_is_not_left_behind(model: Model) -> None:
    begin = model.start

    def begin_and_fail(*args: Any, **options: Any) -> Any:
        request = begin(*args, **options)
        if len(model.queued) == 2:
            model.answer(ModelUnavailable("away", retry_after=1.0))
        return request

    model.start = begin_and_fail  # type: ignore[method-assign]
    told, _ = start(model, [1], [2, 3])
    assert isinstance(told.error, ModelUnavailable)
    assert model.in_use == len(model.queued) == 0


def test_a_lone_one_who_has_gone_leaves_the_queue(model: Model) -> None:
    told, light = start(model, [1])
    told.gone = True
    assert model.queued[0].waiter.done()
    light.abandon()
    assert told.is_waiting
    assert len(model.abandoned) == 1
    assert model.in_use == 0


def test_what_runs_again_after_a_reload_runs_where_the_model_is_now(model: Model) -> None:
    told, _ = start(model, [1], [2])
    model.successor = Model(Doubling())
    model.answer(InferenceFailed("together"))
    assert not model.queued
    model.successor.answer()
    model.successor.answer()
    assert told.answers == [[2], [4]]


class Looping(Doubling):
    async def predict(self, payload: Any, params: Any, run: Any) -> Record:
        raise AssertionError("it is not run")


class Costly(Doubling):
    costs = True


class Wide(Doubling):
    """A payload has more rows than fit into a batch."""

    def preprocess(self, payload: Any, params: Any) -> Prepared:
        return Prepared({"x": np.array([payload] * 9)}, rows=9)


@pytest.mark.parametrize(
    ("task", "payloads"),
    [
        pytest.param(Looping(), [[1]], id="several runs"),
        pytest.param(Costly(), [[1]], id="costs"),
        pytest.param(Wide(), [[1]], id="more rows than a batch"),
        pytest.param(Doubling(), [[1]] * (INLINE_ITEMS + 1), id="many"),
        pytest.param(Doubling(), [[1] * 5], id="a long list"),
        pytest.param(Doubling(), ["x" * 2001], id="a long text"),
        pytest.param(Doubling(), [{"a": b"x" * (65 << 10)}], id="a large file"),
    ],
)
def test_what_is_not_light_is_left_untouched(task: Any, payloads: Any) -> None:
    model = Model(task)
    _, light = start(model, *payloads)
    assert light is None
    assert model.in_use == len(model.queued) == 0


def test_a_model_that_answers_from_its_cache_is_left_untouched(model: Model) -> None:
    assert may_be_light(model)  # type: ignore[arg-type]
    model.starts = False
    assert start(model, [1])[1] is None
    assert not may_be_light(model)  # type: ignore[arg-type]


def test_params_are_checked_before_anything_is_done(model: Model) -> None:
    with pytest.raises(InvalidInput, match="unknown key 'topk'"):
        start(model, [1], params={"topk": 1})
    assert model.in_use == 0
