"""Runs on the event loop: only what is known to be quick, and no later than its deadline."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from math import inf

import numpy as np
import pytest

from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelUnavailable,
    QueueFull,
)
from aiaas_server.core.schedule.cost import Placement

QUICK = 10**12  # every run of the fake session is quick against that


@pytest.fixture
def watched(fake_session):
    """A session that notes for each run its rows and whether it was on the event loop."""

    class Watched(fake_session):
        def __init__(self):
            super().__init__()
            self.runs = []

        def run(self, inputs, outputs, stop=None):
            on_loop = threading.current_thread() is threading.main_thread()
            self.runs.append((*inputs["x"].shape, on_loop))
            return super().run(inputs, outputs, stop)

    return Watched()


async def ask_each(b, shapes):
    """One request after another, so that each may be run the moment it comes."""
    for rows, width in shapes:
        await b.ask(1, rows=rows, width=width)


async def test_a_first_larger_one_never_runs_inline(bench, watched):
    b = bench(session=watched, placement=Placement(QUICK))
    shapes = [(1, 8), (1, 8), (1, 8), (2, 8), (1, 8), (2, 8), (2, 8), (4, 8), (3, 8)]
    await ask_each(b, shapes)
    assert [on_loop for *_, on_loop in watched.runs] == [
        False, True, True, False, True, True, True, False, True,
    ]  # fmt: skip


async def test_what_warm_up_measured_is_no_evidence_for_larger_ones(bench, watched):
    placement = Placement(QUICK)
    placement.measured(32, 10)
    placement.measured(64, 10)
    b = bench(session=watched, placement=placement)
    b.scheduler._dispatcher.varying = ()  # as of a model all of whose requests have one shape
    await ask_each(b, [(1, 8), (2, 8), (3, 8), (2, 8)])
    assert [on_loop for *_, on_loop in watched.runs] == [True, True, False, True]


async def test_a_batch_is_as_large_as_its_members_together(bench, watched):
    b = bench(session=watched, placement=Placement(QUICK))
    await ask_each(b, [(1, 8), (1, 8)])
    await asyncio.gather(b.ask(1, width=8), b.ask(2, width=8), b.ask(3, width=8))
    assert all(not on_loop or rows == 1 for rows, _, on_loop in watched.runs)


async def test_one_shape_is_no_evidence_for_another_of_the_same_size(bench, watched):
    b = bench(session=watched, placement=Placement(QUICK))
    await ask_each(b, [(1, 8), (1, 8), (4, 2), (4, 2), (2, 4), (1, 1)])
    assert [on_loop for *_, on_loop in watched.runs] == [False, True, False, True, False, False]


@pytest.mark.parametrize("ceiling", [-1, 2**62], ids=["unknown", "told to be quick"])
async def test_what_its_values_make_slow_never_runs_inline(bench, watched, ceiling):
    b = bench(session=watched, placement=Placement(QUICK, ceiling, never=True))
    await ask_each(b, [(1, 8)] * 4)
    await asyncio.gather(b.ask(1), b.ask(2))
    assert not any(on_loop for *_, on_loop in watched.runs)


async def test_a_run_that_is_slow_to_fail_leaves_the_loop_and_a_quick_failure_teaches_nothing(
    bench, watched
):
    b = bench(session=watched, placement=Placement(0, 2**62))
    b.scheduler._dispatcher.varying = ()  # as of a model all of whose requests have one shape
    for _ in range(4):
        with pytest.raises(InferenceFailed):
            await b.ask(-1, width=8)
    assert watched.runs[0][-1]
    assert not watched.runs[-1][-1]
    placement = Placement(QUICK)
    placement.failed(8, 1)
    assert not placement.is_inline(8)


# Deadlines


@pytest.fixture
def sluggish(fake_session):
    """A session whose runs end after the deadlines of the requests below."""

    class Sluggish(fake_session):
        until = 0.0
        loop = None

        def run(self, inputs, outputs, stop=None):
            while self.loop.time() < self.until:
                pass
            return super().run(inputs, outputs, stop)

    return Sluggish()


def soon(session):
    """A deadline that the next run of `session` will miss."""
    session.loop = asyncio.get_running_loop()
    deadline = session.loop.time() + 0.25
    session.until = deadline + 0.002
    return deadline


async def test_a_lone_run_that_ends_too_late_is_answered_so(bench, sluggish):
    seen = []
    b = bench(inline=True, session=sluggish, observers=[seen.append])
    soon(sluggish)
    await b.ask(1)
    with pytest.raises(DeadlineExceeded, match="before model 'm' answered"):
        await b.ask(2, deadline=soon(sluggish))
    counts = b.statistics
    assert (counts.success_count, counts.execution_count, counts.failures["REJECTED"]) == (1, 2, 1)
    assert [record.failure for record in seen] == [None, "REJECTED"]
    assert counts.pending == 0


@pytest.mark.parametrize("in_order", [False, True])
async def test_members_of_an_inline_batch_that_ends_too_late_are_answered_so(
    bench, sluggish, in_order
):
    batching = {"preserve_ordering": in_order}
    b = bench({"dynamic_batching": batching}, inline=True, session=sluggish)
    tasks = [b.ask(1, deadline=soon(sluggish)), b.ask(2)]
    late, other = await asyncio.gather(*tasks, return_exceptions=True)
    assert sluggish.batches == [[1, 2]]
    assert isinstance(late, DeadlineExceeded)
    assert float(other.outputs["y"][0, 0]) == 4
    counts = b.statistics
    assert (counts.success_count, counts.fail_count, counts.pending) == (1, 1, 0)


async def test_a_threads_run_whose_end_comes_after_the_deadline_is_answered_so(bench):
    b = bench()
    deadline = asyncio.get_running_loop().time() + 0.25
    task = b.ask(1, deadline=deadline)
    await b.session.started()
    b.session.release()
    while asyncio.get_running_loop().time() <= deadline:
        pass  # the loop is kept: the run's end and the timer come in one turn of it
    with pytest.raises(DeadlineExceeded):
        await task
    assert b.statistics.failures["REJECTED"] == 1


# Two features meet


async def test_a_queue_delay_holds_lone_requests_as_well(bench):
    delay = {"max_queue_delay_microseconds": 2_000}
    b = bench({"dynamic_batching": delay}, inline=True, held=False)
    for value in (1, 2, 3):
        assert (await b.ask(value)).queue_ns >= 2_000_000


async def test_a_model_that_gets_no_thread_says_so_and_serves_again_when_it_does(bench):
    b = bench(held=False)

    class NoThreads:
        def submit(self, work, batch):
            raise RuntimeError("can't start new thread")

        def shutdown(self, wait):
            raise AssertionError("replaced by then")

    b.scheduler._dispatcher._threads = NoThreads()
    errors = await asyncio.gather(b.ask(1), b.ask(2), return_exceptions=True)
    for error in errors:
        assert isinstance(error, ModelUnavailable)
        assert error.retry_after == 1
    assert (b.statistics.pending, b.budget.count) == (0, 0)
    b.scheduler._dispatcher._threads = None
    assert float((await b.ask(3)).outputs["y"][0, 0]) == 6


async def test_every_refusal_is_an_error_of_its_own(bench):
    b = bench(held=False)
    b.scheduler.refuse(InvalidInput("away"))
    caught = []
    for _ in range(3):
        with pytest.raises(InvalidInput, match="away") as error:
            await b.ask(1)
        caught.append(error.value)
    assert len({id(error) for error in caught}) == 3
    assert b.statistics.fail_count == 3


async def test_a_refusal_for_want_of_room_names_the_level_too(bench):
    b = bench(queue_size=1)
    first = await b.occupy()
    kept = b.ask(1)
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        b.scheduler.refuse_early(inf)
    b.session.release(2)
    await asyncio.gather(first, kept)
    b.scheduler.refuse_early(inf)


@pytest.mark.parametrize("inline", [True, False], ids=["inline", "thread"])
@pytest.mark.parametrize("broken", [False, True], ids=["told", "own error"])
async def test_tensors_of_a_request_that_failed_are_freed_without_the_collector(
    bench, fake_session, caplog, inline, broken
):
    class Failing(fake_session):
        def run(self, inputs, outputs, stop=None):
            try:
                raise ValueError("own")
            except ValueError as error:
                if broken:
                    raise
                raise InferenceFailed("told") from error

    caplog.set_level(logging.CRITICAL + 1, "aiaas_server")  # a record keeps its traceback
    b = bench(session=Failing(), inline=inline)

    async def fail():
        x = np.ones((1, 1), np.float32)
        gone = weakref.ref(x)
        with contextlib.suppress(InferenceFailed):
            await b.scheduler.submit({"x": x}, ("y",), 1)
        return gone

    gc.disable()
    try:
        gone = [await fail() for _ in range(3)]
        await b.scheduler.drain()
        if not inline:  # a thread holds its last batch until it comes back for another
            await asyncio.to_thread(b.scheduler._dispatcher._threads.shutdown)
        await asyncio.sleep(0)  # the turn of the loop that brought the error holds it
        assert [ref() is None for ref in gone] == [True] * 3
    finally:
        gc.enable()
