"""Calls that have models loaded within a memory budget: each finds its model, or is told why."""

from __future__ import annotations

import asyncio

import pytest

from aiaas_server.core.errors import (
    DeadlineExceeded,
    LoadFailed,
    ModelUnavailable,
)
from tests.server.core.pool.asking import MIB, X, answer
from tests.waiting import until


async def test_a_load_goes_on_when_the_only_one_who_waits_for_it_leaves(
    repository, make_pool, opener
):
    pool = await make_pool(repository, memory_budget_bytes=MIB)
    opener.held = {"a"}
    waiting = asyncio.create_task(pool.obtain("a"))
    await until(lambda: opener.opened)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    now = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded):
        await pool.obtain("a", deadline=now + 0.01)
    opener.let_go()
    assert (await pool.obtain("a")).name == "a"
    assert opener.opened == ["a"]


async def test_what_many_wait_for_fails_for_each_with_an_error_of_its_own(
    make_repository, make_pool, opener
):
    pool = await make_pool(make_repository({"bad": b"junk"}), memory_budget_bytes=MIB)
    calls = [pool.obtain("bad") for _ in range(5)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {LoadFailed}
    assert len({id(error) for error in errors}) == 5
    assert opener.opened == ["bad"]


async def test_calls_do_not_open_again_and_again_what_failed_until_it_changes(
    make_repository, onnx_models, make_pool, opener, caplog
):
    root = make_repository({"bad": b"junk"})
    pool = await make_pool(root, memory_budget_bytes=MIB)
    for _ in range(3):
        with pytest.raises(LoadFailed, match="failed to load 'bad', version 1: "):
            await pool.obtain("bad")
    assert opener.opened == ["bad"]
    assert caplog.text.count("is not loaded on demand") == 1, "nor is the log filled"
    assert not pool.is_ready("bad")
    with pytest.raises(LoadFailed):
        await pool.load("bad")
    assert opener.opened == ["bad", "bad"], "a call to load it tries all the same"
    (root / "bad" / "1" / "model.onnx").write_bytes(onnx_models.scale(3))
    assert float((await (await pool.obtain("bad")).infer(X)).outputs["y"][0, 0]) == 3


async def test_with_a_budget_watching_reloads_only_what_is_loaded(
    make_repository, onnx_models, make_pool, opener
):
    root = make_repository({name: onnx_models.scale(1) for name in "ab"})
    pool = await make_pool(root, memory_budget_bytes=MIB)
    await pool.obtain("a")
    await pool.poll()
    for name in "ab":
        (root / name / "1" / "model.onnx").write_bytes(onnx_models.scale(5))
    make_repository({"new": onnx_models.scale(7)}, root=root)
    for _ in range(3):
        await pool.poll()
    assert opener.opened == ["a", "a"]
    assert await answer(pool, "a") == 5
    assert pool.is_ready("new")
    assert float((await (await pool.obtain("new")).infer(X)).outputs["y"][0, 0]) == 7


async def test_a_failed_reload_leaves_the_size_of_the_one_that_serves(
    make_repository, onnx_models, make_pool, opener
):
    root = make_repository({"a": onnx_models.scale(1)})
    size = (root / "a" / "1" / "model.onnx").stat().st_size
    pool = await make_pool(root, memory_budget_bytes=2 * size)
    model = await pool.obtain("a")
    (root / "a" / "1" / "model.onnx").write_bytes(onnx_models.scale(1) + b"\x82\x06\x00" * size)
    with pytest.raises(LoadFailed, match="memory budget"):
        await pool.load("a")
    assert pool.resolve("a") is model
    assert model.statistics.memory_bytes == size


async def test_a_model_in_use_between_two_runs_makes_no_room(
    make_repository, onnx_models, make_pool
):
    root = make_repository({name: onnx_models.scale(1) for name in "ab"})
    size = (root / "a" / "1" / "model.onnx").stat().st_size
    pool = await make_pool(root, memory_budget_bytes=round(1.5 * size))
    model = await pool.obtain("a")
    model.in_use += 1
    with pytest.raises(ModelUnavailable):
        await pool.obtain("b")
    model.in_use -= 1
    await pool.obtain("b")


async def test_calls_for_more_than_fits_take_turns_and_each_finds_its_model(
    make_repository, onnx_models, make_pool
):
    names = "abcdef"
    root = make_repository({name: onnx_models.scale(2) for name in names})
    size = (root / "a" / "1" / "model.onnx").stat().st_size
    pool = await make_pool(root, memory_budget_bytes=round(1.5 * size))

    async def call(name):
        found = await pool.obtain(name)
        return float((await found.infer(X)).outputs["y"][0, 0])

    assert [await call(name) for name in names * 2] == [2] * 12
    results = await asyncio.gather(*map(call, names * 4), return_exceptions=True)
    assert {type(result) for result in results} <= {float, ModelUnavailable}
    assert 2.0 in results


async def test_every_version_of_a_policy_counts_against_the_budget(
    make_repository, onnx_models, make_pool
):
    root = make_repository(
        {"a": {n: onnx_models.scale(n) for n in (1, 2, 3)}},
        configs={"a": '{"version_policy": {"all": {}}}'},
    )
    size = (root / "a" / "1" / "model.onnx").stat().st_size
    pool = await make_pool(root, memory_budget_bytes=round(2.5 * size))
    assert pool.is_ready("a", 3)
    assert not pool.is_ready("a", 4)
    with pytest.raises(LoadFailed, match="memory budget"):
        await pool.obtain("a")
