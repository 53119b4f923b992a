"""A version takes the place of another: no request is lost, and what fails changes nothing."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from aiaas_server.core.errors import (
    LoadFailed,
)
from aiaas_server.runtimes.onnx import open_session
from tests.server.core.pool.asking import X, answer, states
from tests.waiting import until


async def test_a_reload_under_load_loses_no_request(make_repository, onnx_models, make_pool):
    root = make_repository({"m": onnx_models.scale(1)})
    pool = await make_pool(root)
    answers = []
    going = True

    async def client():
        while going:
            model = pool.resolve("m")
            await asyncio.sleep(0)  # the swap may come between finding a model and calling it
            outcome = await model.infer(X)
            answers.append(float(outcome.outputs["y"][0, 0]))

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for factor in (2, 3, 4):
        (root / "m" / "1" / "model.onnx").write_bytes(onnx_models.scale(factor))
        await pool.load("m", force=True)
    seen = len(answers)
    await until(lambda: len(answers) >= seen + 50)
    going = False
    await asyncio.gather(*clients)
    assert set(answers[-40:]) == {4}
    assert set(answers) <= {1, 2, 3, 4}
    assert pool.resolve("m").statistics.success_count == len(answers), "counting goes on"


async def test_a_request_in_flight_finishes_on_the_version_it_began_on(
    make_repository, onnx_models, make_pool
):
    gate, entered = threading.Event(), threading.Event()

    def opener(model, config):
        session = open_session(model, config)
        run = session.run

        def held(inputs, outputs, stop=None):
            if inputs["x"][0, 0] == 7:
                entered.set()
                gate.wait()
            return run(inputs, outputs, stop)

        session.run = held
        return session

    # max_batch_size 0 and a load factor make no difference: what counts is that it is running.
    root = make_repository({"m": onnx_models.scale(2)})
    pool = await make_pool(root, opener)
    pool.resolve("m").scheduler._costs._placement.ceiling = -1
    running = asyncio.create_task(pool.resolve("m").infer({"x": np.full((1, 4), 7, np.float32)}))
    await asyncio.to_thread(entered.wait)
    (root / "m" / "1" / "model.onnx").write_bytes(onnx_models.scale(5))
    await pool.load("m")
    assert await answer(pool) == 5
    assert not running.done()
    gate.set()
    assert float((await running).outputs["y"][0, 0]) == 14


async def test_a_failed_reload_leaves_the_old_one_serving(make_repository, onnx_models, make_pool):
    root = make_repository({"m": onnx_models.scale(2)})
    pool = await make_pool(root)
    (root / "m" / "1" / "model.onnx").write_bytes(b"junk")
    with pytest.raises(LoadFailed, match="failed to load 'm', version 1: "):
        await pool.load("m")
    assert await answer(pool) == 2
    assert states(pool) == {("m", "1"): "READY"}
    (root / "m" / "config.json").write_text("{")
    with pytest.raises(LoadFailed, match="failed to load 'm': configuration"):
        await pool.load("m")
    assert await answer(pool) == 2


async def test_a_damaged_new_version_leaves_the_one_before_it(
    make_repository, onnx_models, make_pool
):
    root = make_repository({"m": onnx_models.scale(2)})
    pool = await make_pool(root)
    make_repository({"m": {2: b"junk"}}, root=root)
    with pytest.raises(LoadFailed, match="version 2"):
        await pool.load("m")
    assert states(pool) == {("m", "1"): "READY", ("m", "2"): "UNAVAILABLE"}
    assert await answer(pool) == 2


async def test_loading_what_has_not_changed_does_nothing_unless_forced(
    make_repository, onnx_models, make_pool
):
    pool = await make_pool(make_repository({"m": onnx_models.scale()}))
    model = pool.resolve("m")
    await pool.load("m")
    assert pool.resolve("m") is model
    await pool.load("m", force=True)
    assert pool.resolve("m") is not model


async def test_a_config_override_holds_for_that_load(make_repository, onnx_models, make_pool):
    pool = await make_pool(make_repository({"m": onnx_models.scale()}))
    await pool.load("m", config='{"max_batch_size": 3}')
    assert pool.resolve("m").config.max_batch_size == 3
    await pool.load("m")
    assert pool.resolve("m").config.max_batch_size == 1024
    with pytest.raises(LoadFailed, match="configuration: Invalid JSON"):
        await pool.load("m", config="{")


async def test_files_are_served_instead_of_the_repositorys(make_repository, onnx_models, make_pool):
    pool = await make_pool(make_repository({"m": onnx_models.scale(2)}))
    await pool.load("m", config="{}", files={"5/model.onnx": onnx_models.scale(9)})
    assert await answer(pool) == 9
    assert pool.ready_versions("m") == [5]
    await pool.load("new", config="{}", files={"1/model.onnx": onnx_models.scale(8)})
    assert await answer(pool, "new") == 8
    await pool.load("m")
    assert pool.ready_versions("m") == [1]
    assert await answer(pool) == 2


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../1/model.onnx", "1/../x", "1/..", "model.onnx", "0/m.onnx", "1/a/b", "1/"],
)
async def test_files_outside_a_version_directory_are_refused(
    make_repository, onnx_models, make_pool, path
):
    pool = await make_pool(make_repository({"m": onnx_models.scale(2)}))
    with pytest.raises(LoadFailed, match="expected '<version>/<name>'"):
        await pool.load("m", config="{}", files={path: b"x"})
    with pytest.raises(LoadFailed, match="files need a config"):
        await pool.load("m", files={path: b"x"})
    assert await answer(pool) == 2
