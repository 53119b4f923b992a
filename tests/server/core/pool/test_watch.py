"""What changes in the repository is picked up when it has stood still."""

from __future__ import annotations

import asyncio
import logging
import shutil

from tests.server.core.pool.asking import answer, states
from tests.waiting import until


async def test_watching_picks_up_new_changed_and_removed_versions(
    make_repository, onnx_models, make_pool
):
    root = make_repository({"m": onnx_models.scale(1)})
    pool = await make_pool(root)
    await pool.poll()
    make_repository({"m": {2: onnx_models.scale(2)}, "n": onnx_models.scale(9)}, root=root)
    await pool.poll()
    assert pool.ready_versions("m") == [1], "seen once: it may still be being written"
    await pool.poll()
    assert pool.ready_versions("m") == [2]
    assert await answer(pool, "n") == 9
    (root / "m" / "2" / "model.onnx").unlink()
    (root / "m" / "2").rmdir()
    (root / "n" / "1" / "model.onnx").unlink()
    (root / "n" / "1").rmdir()
    for _ in range(3):
        await pool.poll()
    assert await answer(pool, "m") == 1
    assert states(pool) == {("m", "1"): "READY", ("n", None): "UNAVAILABLE"}, "n is an empty folder"
    (root / "n").rmdir()
    await pool.poll()
    assert states(pool) == {("m", "1"): "READY"}


async def test_the_log_tells_what_watching_loads_and_unloads(
    make_repository, onnx_models, make_pool, caplog
):
    caplog.set_level(logging.INFO, "aiaas_server")
    root = make_repository({"m": onnx_models.scale(1)})
    pool = await make_pool(root)
    await pool.poll()
    make_repository({"m": {2: onnx_models.scale(2)}, "n": onnx_models.scale(9)}, root=root)
    for _ in range(3):
        await pool.poll()
    shutil.rmtree(root / "n")
    for _ in range(3):
        await pool.poll()
    *loaded, last = caplog.messages
    assert sorted(loaded) == [  # they are loaded beside one another
        "model 'm' was loaded anew, as it has changed; it serves version 2",
        "model 'n' was found and loaded; it serves version 1",
    ]
    assert last == "model 'n' is gone from the repository, and unloaded"


async def test_the_log_tells_what_calls_load_and_unload(
    make_repository, onnx_models, make_pool, caplog
):
    caplog.set_level(logging.INFO, "aiaas_server")
    pool = await make_pool(make_repository({"m": onnx_models.scale(1)}))
    await pool.unload("m")
    await pool.unload("m")
    await pool.load("m")
    assert caplog.messages == [
        "model 'm' is unloaded as asked",
        "model 'm' was loaded as asked; it serves version 1",
    ]


async def test_watching_does_not_load_a_file_that_is_still_growing(
    make_repository, onnx_models, make_pool
):
    root = make_repository({"m": onnx_models.scale(1)})
    pool = await make_pool(root)
    whole = onnx_models.scale(2)
    for size in range(10, len(whole), 40):
        make_repository({"m": {2: whole[:size]}}, root=root)
        await pool.poll()
        assert states(pool) == {("m", "1"): "READY"}
    make_repository({"m": {2: whole}}, root=root)
    await pool.poll()
    await pool.poll()
    assert await answer(pool) == 2


async def test_watching_runs_by_itself_when_it_is_set(make_repository, onnx_models, make_pool):
    root = make_repository({"m": onnx_models.scale(1)})
    pool = await make_pool(root, watch=True, watch_interval=0.01)
    make_repository({"m": {2: onnx_models.scale(2)}}, root=root)
    await until(lambda: pool.ready_versions("m") == [2])


async def test_watching_leaves_alone_what_was_not_asked_for_or_was_put_away(
    make_repository, onnx_models, make_pool, opener
):
    root = make_repository({name: onnx_models.scale(1) for name in "abc"})
    pool = await make_pool(root, load_models=("a", "b"))
    await pool.poll()
    await pool.unload("b")
    for name in "abc":
        (root / name / "1" / "model.onnx").write_bytes(onnx_models.scale(5))
    for _ in range(3):
        await pool.poll()
    assert [model.name for model in pool.models()] == ["a"]
    assert await answer(pool, "a") == 5


async def test_watching_is_not_held_up_by_a_load_that_hangs(
    make_repository, onnx_models, make_pool, opener
):
    root = make_repository({"a": onnx_models.scale(1)})
    pool = await make_pool(root, patience=0.05)
    opener.held = {"b"}
    make_repository({"b": onnx_models.scale(2), "c": onnx_models.scale(3)}, root=root)
    async with asyncio.timeout(120):
        await pool.poll()
        await pool.poll()
        await until(lambda: pool.is_ready("c"))
        assert await answer(pool, "c") == 3
        shutil.rmtree(root / "b")
        await pool.poll()
        await pool.poll()
    assert "b" not in {entry["name"] for entry in pool.index()}, "its load is given up"
