"""`preserve_ordering`: answers leave in order, and what is held back keeps its limits."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict

import pytest

from aiaas_server.core.errors import DeadlineExceeded, QueueFull

IN_ORDER = {"dynamic_batching": {"preserve_ordering": True}, "max_batch_size": 1}


def with_instances(count, **more):
    return {**IN_ORDER, "instance_group": [{"count": count}], **more}


@pytest.fixture
def gated(fake_session):
    """A session each of whose runs waits for the gate of its own value."""

    class Gated(fake_session):
        def __init__(self):
            super().__init__()
            self.gates = defaultdict(threading.Event)

        def run(self, inputs, outputs, stop=None):
            value = float(inputs["x"][0, 0])
            gate = self.gates[value]
            if stop is not None:
                stop.on_stop(gate.set)
            self._started.release()
            gate.wait(30)
            return [inputs["x"] * 2 for _ in outputs]

    return Gated()


@pytest.fixture
async def loop_errors():
    """What the event loop was told of, where nobody awaits."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    return errors


async def settled(bench, count):
    """Wait until so many runs are over."""
    while bench.statistics.execution_count < count:  # noqa: ASYNC110  # a run tells nobody
        await asyncio.sleep(0.001)


async def test_held_answer_past_its_deadline_does_not_kill_the_timer(bench, gated, loop_errors):
    b = bench(with_instances(3), session=gated)
    first = b.ask(1)
    await b.session.started()
    now = asyncio.get_running_loop().time()
    held = b.ask(2, deadline=now + 0.3)
    await b.session.started()
    gated.gates[2.0].set()
    await settled(b, 1)
    late = [b.ask(3, deadline=now + 0.4), b.ask(4, deadline=now + 0.5)]
    for task in (held, *late):
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(asyncio.shield(task), 120)
    assert not first.done()
    for value in (1.0, 3.0, 4.0):
        gated.gates[value].set()
    await first
    await b.scheduler.drain()
    assert loop_errors == []
    counts = b.statistics
    assert (counts.success_count, counts.fail_count, counts.failures["REJECTED"]) == (1, 3, 3)
    assert counts.pending == 0


async def test_what_ends_together_is_answered_once_each(bench, gated, loop_errors):
    """The first one's end lets the held one go, whose own time is up in the same moment."""
    b = bench(with_instances(2), session=gated)
    deadline = asyncio.get_running_loop().time() + 0.4
    both = [b.ask(1, deadline=deadline)]
    await b.session.started()
    both.append(b.ask(2, deadline=deadline))
    await b.session.started()
    gated.gates[2.0].set()
    await settled(b, 1)
    for task in both:
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(asyncio.shield(task), 120)
    assert loop_errors == []
    assert (b.statistics.failures["REJECTED"], b.statistics.pending) == (2, 0)
    gated.gates[1.0].set()


async def test_a_held_answer_is_counted_when_it_leaves(bench, gated):
    seen = []
    b = bench(with_instances(2), session=gated, observers=[seen.append])
    first = b.ask(1)
    await b.session.started()
    second = b.ask(2)
    await b.session.started()
    gated.gates[2.0].set()
    await settled(b, 1)
    assert (b.statistics.success_count, b.statistics.pending, seen) == (0, 2, [])
    gated.gates[1.0].set()
    await asyncio.gather(first, second)
    assert (b.statistics.success_count, b.statistics.pending) == (2, 0)
    assert [(record.batch_rows, record.failure) for record in seen] == [(1, None), (1, None)]
    assert seen[1].total_seconds > seen[1].compute_seconds


async def test_a_held_answers_caller_may_leave(bench, gated, loop_errors):
    b = bench(with_instances(2), session=gated)
    first = b.ask(1)
    await b.session.started()
    gone = b.ask(2)
    await b.session.started()
    gated.gates[2.0].set()
    await settled(b, 1)
    gone.cancel()
    await asyncio.wait([gone])
    third = b.ask(3)
    gated.gates[3.0].set()
    gated.gates[1.0].set()
    await asyncio.gather(first, third)
    assert b.done == [1, 3]
    assert (b.statistics.success_count, b.statistics.failures["CANCELED"]) == (2, 1)
    assert loop_errors == []


async def test_answers_held_back_are_bounded_as_those_that_wait(bench, gated):
    b = bench(with_instances(2), session=gated, queue_size=3)
    slow = b.ask(1)
    await b.session.started()
    for value in range(2, 10):
        gated.gates[float(value)].set()
    quick = [b.ask(value) for value in range(2, 6)]
    await settled(b, 4)
    with pytest.raises(QueueFull, match="5 waiting"):
        await b.ask(9)
    gated.gates[1.0].set()
    await asyncio.gather(slow, *quick)
    assert b.done == [1, 2, 3, 4, 5]
    assert float((await b.ask(9)).outputs["y"][0, 0]) == 18


async def test_order_is_that_of_acceptance_whatever_the_priorities(bench):
    b = bench(
        {
            "max_batch_size": 1,
            "dynamic_batching": {
                "preserve_ordering": True,
                "priority_levels": 2,
                "default_priority_level": 2,
            },
        }
    )
    first = await b.occupy()
    rest = [b.ask(value, priority=level) for value, level in ((1, 2), (2, 1), (3, 2), (4, 1))]
    await asyncio.sleep(0)
    b.session.release(10)
    await asyncio.gather(first, *rest)
    assert b.session.batches == [[100], [2], [4], [1], [3]]
    assert b.done == [100, 1, 2, 3, 4]


async def test_a_delayed_request_holds_the_answers_of_those_that_overtake_it(bench):
    policy = {"timeout_action": "DELAY"}
    b = bench(
        {
            "max_batch_size": 1,
            "dynamic_batching": {"preserve_ordering": True, "default_queue_policy": policy},
        }
    )
    first = await b.occupy()
    late = b.ask(1, timeout=0.005)
    with pytest.raises(DeadlineExceeded):  # by then the time to wait is over as well
        await b.ask(2, deadline=asyncio.get_running_loop().time() + 0.05)
    in_time = b.ask(3)
    await asyncio.sleep(0)
    b.session.release(10)
    await asyncio.gather(first, late, in_time)
    assert b.session.batches == [[100], [3], [1]]
    assert b.done == [100, 1, 3]
