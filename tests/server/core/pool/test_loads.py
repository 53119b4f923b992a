"""Loads that hang or are left hold up nobody, and nothing of them stays behind."""

from __future__ import annotations

import asyncio

import pytest

from aiaas_server.core.errors import (
    LoadFailed,
    ModelNotFound,
    ModelUnavailable,
)
from aiaas_server.runtimes.onnx import open_session
from tests.server.core.pool.asking import answer
from tests.waiting import until


async def test_many_loads_at_once_open_one_session_at_a_time(
    make_repository, onnx_models, make_pool
):
    open_now, most = 0, 0

    def counting(model, config):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        session = open_session(model, config)
        open_now -= 1
        return session

    names = [f"m{i}" for i in range(6)]
    root = make_repository(dict.fromkeys(names, onnx_models.scale()))
    pool = await make_pool(root, counting, load_models=())
    await asyncio.gather(*[pool.load(name) for name in names])
    assert most == 1
    assert len(list(pool.models())) == 6


async def test_a_load_that_hangs_holds_up_no_unload_and_no_index(repository, make_pool, opener):
    pool = await make_pool(repository, load_models=("b",))
    opener.held = {"a"}
    hanging = asyncio.create_task(pool.load("a"))
    await until(lambda: "a" in opener.opened)
    async with asyncio.timeout(120):
        await pool.unload("b")
        await pool.refresh()
        await pool.poll()
    assert {"name": "a", "version": "1", "state": "LOADING"} in pool.index()
    assert not hanging.done()
    opener.let_go()
    await hanging
    assert await answer(pool, "a") == 2


async def test_a_load_that_hangs_does_not_keep_the_others_from_being_ready(
    repository, make_pool, opener
):
    opener.held = {"a"}
    pool = await make_pool(repository, patience=0.5)
    assert pool.ready, "who has had his time is not waited for"
    assert [model.name for model in pool.models()] == ["b", "c"]
    with pytest.raises(ModelUnavailable, match="'a' is not at ready state"):
        pool.resolve("a")
    with pytest.raises(ModelUnavailable, match="'a' is being loaded already"):
        await pool.load("a")
    opener.let_go()
    await until(lambda: pool.is_ready("a"))
    assert await answer(pool, "a") == 2


async def test_while_one_is_opened_the_others_wait_their_turn_and_say_so(
    repository, make_pool, opener
):
    opener.held = {"a"}
    pool = await make_pool(repository, start=False)
    with pytest.raises(ModelUnavailable, match="the server is starting"):
        pool.resolve("c")
    starting = asyncio.create_task(pool.start())
    await until(lambda: opener.opened)
    for name in "abc":
        with pytest.raises(ModelUnavailable) as caught:
            await pool.obtain(name)
        assert caught.value.retry_after
    assert opener.opened == ["a"]
    assert not pool.ready
    with pytest.raises(ModelNotFound):
        pool.resolve("never heard of")
    opener.let_go()
    await starting
    assert pool.ready


async def test_an_unload_gives_up_the_load_and_closes_what_comes_of_it(
    repository, make_pool, opener
):
    pool = await make_pool(repository, load_models=())
    opener.held = {"a"}
    loading = asyncio.create_task(pool.load("a"))
    await until(lambda: opener.opened)
    async with asyncio.timeout(120):
        await pool.unload("a")
    with pytest.raises(LoadFailed, match="it was unloaded meanwhile"):
        await loading
    with pytest.raises(ModelNotFound, match="no available versions"):
        pool.resolve("a")
    opener.let_go()
    await until(lambda: opener.closed == ["a"])
    assert not list(pool.models())
    await pool.load("a")
    assert await answer(pool, "a") == 2


async def test_an_unload_during_a_reload_takes_the_old_one_too(repository, make_pool, opener):
    pool = await make_pool(repository, load_models=("a",))
    opener.held = {"a"}
    reload = asyncio.create_task(pool.load("a", force=True))
    await until(lambda: opener.opened == ["a", "a"])
    assert await answer(pool, "a") == 2
    await pool.unload("a")
    with pytest.raises(LoadFailed):
        await reload
    opener.let_go()
    await until(lambda: opener.closed == ["a", "a"])
    assert not pool.is_ready("a")
