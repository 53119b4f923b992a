"""Runs in callers' threads: the same errors and the same counts as on the event loop."""

from __future__ import annotations

import asyncio
import sys
import threading

import numpy as np
import pytest

from aiaas_server.core.errors import InferenceFailed, InvalidInput, ModelUnavailable
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings

X = {"x": np.ones((1, 1), np.float32)}


@pytest.mark.parametrize(
    ("raised", "told", "reason"),
    [
        (KeyError("/secret/path"), InferenceFailed("model 'm': inference failed"), "BACKEND"),
        (MemoryError(), InferenceFailed("model 'm': inference failed"), "BACKEND"),
        (RuntimeError("broken"), InferenceFailed("model 'm': inference failed"), "BACKEND"),
        (InvalidInput("not so"), InvalidInput("not so"), "OTHER"),
        (InferenceFailed("no"), InferenceFailed("no"), "BACKEND"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_every_error_of_a_run_is_one_of_ours_on_every_path(
    bench, fake_session, caplog, raised, told, reason
):
    class Broken(fake_session):
        failing = False

        def run(self, inputs, outputs, stop=None):
            if self.failing:
                raise raised
            return super().run(inputs, outputs, stop)

    for inline in (True, False):
        b = bench(session=Broken(), inline=inline)
        await b.ask(1)  # the next one is run the moment it comes, where it is run inline
        b.session.failing = True
        caught = [await asyncio.gather(b.ask(2), return_exceptions=True)]
        caught += [await asyncio.gather(b.ask(3), b.ask(4), return_exceptions=True)]
        errors = [error for group in caught for error in group]
        with pytest.raises(type(told)) as error:
            b.scheduler.run_now(X, ("y",), 1)
        for found in (*errors, error.value):
            assert type(found) is type(told)
            assert found.message == told.message
        assert b.statistics.failures[reason] == b.statistics.fail_count == 4
        assert b.statistics.success_count == 1
    assert ("an error of its own" in caplog.text) is (type(raised) is not type(told))


async def test_a_refused_run_is_counted_as_refused(bench):
    records = []
    b = bench(held=False, observers=[records.append])
    b.scheduler.refuse()
    with pytest.raises(ModelUnavailable):
        b.scheduler.run_now(X, ("y",), 1)
    assert b.statistics.failures["REJECTED"] == 1
    assert [record.failure for record in records] == ["REJECTED"]


async def test_counts_are_exact_with_threads_and_the_loop_at_once(bench, fake_session):
    """Threads are switched as often as can be, so that a lost addition would show."""

    class Plain(fake_session):
        def run(self, inputs, outputs, stop=None):
            if (inputs["x"] < 0).any():
                raise InferenceFailed("a negative element")
            return [inputs["x"] * 2 for _ in outputs]

    seen = []
    b = bench(session=Plain(), inline=True, observers=[seen.append])
    threads, each = 4, 300
    bad = {"x": -X["x"]}

    def work() -> None:
        for index in range(each):
            if index % 3:
                b.scheduler.run_now(X, ("y",), 1)
            else:
                with pytest.raises(InferenceFailed):
                    b.scheduler.run_now(bad, ("y",), 1)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        running = [threading.Thread(target=work) for _ in range(threads)]
        for thread in running:
            thread.start()
        on_loop = 0
        while any(thread.is_alive() for thread in running):
            await b.ask(1)
            await asyncio.gather(b.ask(1), b.ask(2, rows=2), b.ask(-1), return_exceptions=True)
            on_loop += 1
        for thread in running:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    counts = b.statistics
    good = threads * each * 2 // 3
    assert counts.success_count == good + 3 * on_loop
    assert counts.fail_count == counts.failures["BACKEND"] == threads * each // 3 + on_loop
    assert counts.inference_count == good + 4 * on_loop
    assert sum(counts.latency_counts) == counts.success_count
    assert counts.execution_count == sum(batch[0] for batch in counts.batches.values())
    assert counts.pending == 0
    assert len(seen) == counts.success_count + counts.fail_count


async def test_a_run_that_meets_a_reload_is_handed_on(make_repository, onnx_models):
    pool = ModelPool(
        Repository(make_repository({"m": onnx_models.scale(2), "n": onnx_models.scale(3)})),
        open_session,
        Settings(),
    )
    await pool.start()
    old, new = pool.resolve("m"), pool.resolve("n")

    class Leaving:
        """As the scheduler of a version that is reloaded after the caller looked."""

        def run_now(self, inputs, outputs, rows):
            old.successor = new
            raise ModelUnavailable("unloading")

    scheduler, old.scheduler = old.scheduler, Leaving()
    outcome = old.infer_now({"x": np.ones((1, 4), np.float32)})
    assert outcome.outputs["y"][0, 0] == 3
    old.scheduler = scheduler
    await pool.close()
