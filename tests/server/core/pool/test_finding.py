"""Which version a call finds, and what it is told where there is none."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aiaas_server.core.errors import (
    ModelNotFound,
    ModelUnavailable,
    VersionNotFound,
)
from aiaas_server.core.events import Caller
from aiaas_server.runtimes.onnx import open_session
from tests.server.core.pool.asking import MIB, answer, states
from tests.waiting import until


async def test_what_cannot_be_resolved_says_why(make_repository, onnx_models, make_pool):
    pool = await make_pool(make_repository({"m": onnx_models.scale(), "bad": b"junk"}))
    with pytest.raises(ModelNotFound, match="Request for unknown model: 'q' is not found"):
        pool.resolve("q")
    with pytest.raises(VersionNotFound, match="'m' version 9 is not found"):
        pool.resolve("m", 9)
    with pytest.raises(ModelNotFound, match="'bad' has no available versions"):
        pool.resolve("bad")
    with pytest.raises(VersionNotFound, match="'bad' version 1 is not loaded"):
        pool.resolve("bad", 1)


async def test_a_model_that_is_loading_is_unavailable_not_unknown(
    make_repository, onnx_models, make_pool
):
    gate = threading.Event()

    def slow(model, config):
        gate.wait()
        return open_session(model, config)

    pool = await make_pool(make_repository({"m": onnx_models.scale()}), slow, load_models=())
    assert pool.index() == [{"name": "m"}]
    loading = asyncio.create_task(pool.load("m"))
    await until(lambda: states(pool).get(("m", "1")) == "LOADING")
    for version in (None, 1):
        with pytest.raises(ModelUnavailable) as caught:
            pool.resolve("m", version)
        assert caught.value.retry_after
    gate.set()
    await loading
    assert await answer(pool) == 2


async def test_loading_an_unknown_model_is_not_found(make_repository, onnx_models, make_pool):
    pool = await make_pool(make_repository({"m": onnx_models.scale()}))
    for name in ("q", "..", "../m", ""):
        with pytest.raises(ModelNotFound):
            await pool.load(name)


async def test_the_version_of_a_call_is_chosen_unless_it_names_one(
    make_repository, onnx_models, make_pool
):
    root = make_repository(
        {"m": {n: onnx_models.scale(n) for n in (1, 2)}},
        configs={"m": '{"version_policy": {"all": {}}}'},
    )

    def choose(name, caller):
        return 1 if caller.request_id == "old" else None

    pool = await make_pool(root, choose=choose)
    old = Caller("old")
    assert (await pool.obtain("m", caller=old)).version == 1
    assert (await pool.obtain("m")).version == 2
    assert (await pool.obtain("m", 2, old)).version == 2
    assert pool.find("m", None, old).version == 1
    assert pool.find("m", 9, old) is None


async def test_near_names_are_told_only_to_those_who_may_see_them(
    make_repository, onnx_models, make_pool
):
    root = make_repository({n: onnx_models.scale() for n in ("digits", "digest")})

    class Some:
        def resolve(self, name, caller):
            return name

        def sees(self, full, caller):
            return caller.request_id == "operator" or full == "digits"

    pool = await make_pool(root, names=Some())
    with pytest.raises(ModelNotFound, match=r"'digit' is not found; did you mean 'digits'\?"):
        await pool.obtain("digit")
    with pytest.raises(ModelNotFound, match="'digits' or 'digest'"):
        await pool.obtain("digit", caller=Caller("operator"))
    with pytest.raises(ModelNotFound, match="is not found$"):
        await pool.obtain("d" * 100_000)


async def test_names_that_clients_make_up_leave_nothing_behind(repository, make_pool):
    pool = await make_pool(repository, memory_budget_bytes=MIB)
    for number in range(50):
        for call in (pool.obtain(f"q{number}"), pool.load(f"q{number}")):
            with pytest.raises(ModelNotFound):
                await call
        await pool.unload(f"q{number}")
    assert set(pool._table.entries) <= {"a", "b", "c"}
    assert not any(name.startswith("q") for name in pool._memory._last_use)


async def test_reasons_are_short_and_name_no_directory(make_repository, onnx_models, make_pool):
    root = make_repository({"m": onnx_models.scale()})
    pool = await make_pool(root)
    version = pool._table.entries["m"].versions[1]
    await pool.unload("m")
    version.reason = "cannot read '/srv/models/m/1/weights.bin':\n" + "x" * 400
    with pytest.raises(ModelNotFound) as caught:
        pool.resolve("m")
    assert "/srv" not in caught.value.message
    assert "'weights.bin'" in caught.value.message
    assert len(caught.value.message) < 300
    with pytest.raises(VersionNotFound, match="version 1 is not loaded: cannot read 'weights"):
        pool.resolve("m", 1)
