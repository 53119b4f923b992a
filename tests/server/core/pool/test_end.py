"""Models that go, and the end of all: the last request is answered, nothing else is waited for."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from aiaas_server.core.errors import (
    Draining,
    ModelNotFound,
    ModelUnavailable,
)
from tests.server.core.pool.asking import MIB, X, answer
from tests.waiting import until


async def test_unloading_refuses_new_requests_at_once_and_waits_for_the_last(
    make_repository, onnx_models, make_pool
):
    pool = await make_pool(make_repository({"m": onnx_models.scale(2)}))
    model = pool.resolve("m")
    pending = asyncio.create_task(model.infer(X))
    await asyncio.sleep(0)
    unloading = asyncio.create_task(pool.unload("m"))
    await asyncio.sleep(0)
    with pytest.raises(ModelUnavailable):
        pool.resolve("m")
    with pytest.raises(ModelUnavailable):
        await model.infer(X)
    assert float((await pending).outputs["y"][0, 0]) == 2
    await unloading
    assert pool.index() == [
        {"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    ]
    with pytest.raises(ModelNotFound):
        pool.resolve("m")
    await pool.unload("m")
    await pool.unload("never heard of")
    await pool.load("m")
    assert await answer(pool) == 2


async def test_draining_answers_everything_and_then_refuses(
    make_repository, onnx_models, make_pool
):
    pool = await make_pool(make_repository({"m": onnx_models.scale(2)}))
    pending = [asyncio.create_task(pool.resolve("m").infer(X)) for _ in range(20)]
    await asyncio.sleep(0)
    pool.begin_drain()
    assert not pool.ready
    assert await answer(pool) == 2, "inference goes on until the drain itself"
    assert await pool.drain(10)
    assert all(float(o.outputs["y"][0, 0]) == 2 for o in await asyncio.gather(*pending))
    with pytest.raises(Draining):
        await pool.resolve("m").infer(X)
    with pytest.raises(Draining):
        await pool.load("m")
    await pool.close()
    with pytest.raises(Draining):
        pool.resolve("m")


async def test_a_drain_that_takes_too_long_stops_the_run_and_fails_its_request(
    make_repository, onnx_models, make_pool
):
    pool = await make_pool(make_repository({"busy": onnx_models.busy()}))
    model = pool.resolve("busy")
    model.scheduler._costs._placement.ceiling = -1
    long = asyncio.create_task(model.infer({"steps": np.array([10**9], np.int64)}))
    await until(lambda: model.statistics.pending)
    assert not await pool.drain(0.05)
    with pytest.raises(Draining):
        await long


async def test_memory_is_given_back_once_for_models_that_go_together(
    make_repository, onnx_models, make_pool
):
    calls = []
    root = make_repository({name: onnx_models.scale() for name in "abcd"})
    pool = await make_pool(root, give_back=lambda: calls.append(1))
    await asyncio.gather(*map(pool.unload, "abc"))
    await until(lambda: calls)
    assert calls == [1]
    await pool.close()  # the process ends: nothing is worth giving back
    assert calls == [1]


@pytest.mark.parametrize("end", ["close", "drain"])
async def test_the_end_does_not_wait_for_a_load(repository, make_pool, opener, end):
    pool = await make_pool(repository, memory_budget_bytes=MIB)
    opener.held = {"a"}
    waiting = asyncio.create_task(pool.obtain("a"))
    loading = asyncio.create_task(pool.load("b"))
    await until(lambda: opener.opened == ["a"])
    async with asyncio.timeout(120):
        await (pool.close() if end == "close" else pool.drain(10))
    for call in (waiting, loading):
        with pytest.raises(Draining):
            await call
    with pytest.raises(Draining):
        await pool.obtain("c")
    opener.let_go()
    await until(lambda: opener.closed == ["a"])
    assert opener.opened == ["a"]
