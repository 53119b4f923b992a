"""With a memory budget models come when they are called and go when others need the room."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.core.errors import (
    DeadlineExceeded,
    LoadFailed,
    ModelNotFound,
    ModelUnavailable,
)
from aiaas_server.core.pool.memory import estimate
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings

X = {"x": np.ones((1, 4), np.float32)}
UNIT = 100_000
"""Every model takes a little more than this, half of it where it is called small."""


def model(size=UNIT):
    """`y = x + 0`, of a little more than `size` bytes."""
    ballast = numpy_helper.from_array(np.zeros((size // 16, 4), np.float32), "w")
    nodes = [
        helper.make_node("ReduceSum", ["w", "axes"], ["zero"], keepdims=1),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [info("x", TensorProto.FLOAT, ["b", 4])],
        [info("y", TensorProto.FLOAT, ["b", 4])],
        [ballast, numpy_helper.from_array(np.array([0]), "axes")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


@pytest.fixture
async def make_pool(make_repository):
    made = []

    async def make(models, units, opener=open_session, load_models=("*",), **options):
        root = make_repository(models)
        settings = Settings(
            memory_budget_bytes=round(units * UNIT * 1.1), load_models=load_models, **options
        )
        # Files only: what the process grows by is the machine's business.
        pool = ModelPool(Repository(root), opener, settings, measure=lambda: 0)
        made.append(pool)
        await pool.start()
        return pool

    yield make
    for pool in made:
        await pool.close()


def loaded(pool):
    return sorted({one.name for one in pool.models()})


async def call(pool, name):
    found = await pool.obtain(name)
    return (await found.infer(X)).outputs["y"].tolist()


async def test_models_come_on_demand_and_the_least_recently_used_goes(make_pool):
    pool = await make_pool({name: model() for name in "abc"}, 2)
    assert pool.ready
    assert loaded(pool) == []
    assert pool.is_ready("a")
    for name in ("a", "b", "a", "c"):
        assert await call(pool, name) == [[1, 1, 1, 1]]
    assert loaded(pool) == ["a", "c"]
    assert await call(pool, "b") == [[1, 1, 1, 1]]
    assert loaded(pool) == ["b", "c"]


async def test_a_model_named_in_the_settings_is_loaded_at_start_and_stays(make_pool):
    pool = await make_pool({name: model() for name in "abc"}, 2, load_models=("a", "*"))
    assert loaded(pool) == ["a"]
    for name in ("b", "c", "b"):
        await call(pool, name)
    assert loaded(pool) == ["a", "b"]


async def test_what_can_never_fit_is_refused_for_good_and_costs_nobody_his_place(make_pool):
    pool = await make_pool({"a": model(), "b": model(), "huge": model(5 * UNIT)}, 2)
    await call(pool, "a")
    await call(pool, "b")
    told = "'huge' needs about 5.* bytes and can never fit: the memory budget is 220000 bytes"
    with pytest.raises(LoadFailed, match=told) as e:
        await pool.obtain("huge")
    assert e.value.retry_after is None
    assert loaded(pool) == ["a", "b"]
    with pytest.raises(LoadFailed, match=told):
        await pool.load("huge")
    reasons = {entry["name"]: entry.get("reason", "") for entry in pool.index()}
    assert "memory budget" in reasons["huge"]
    assert not pool.is_ready("huge")


async def test_what_can_never_fit_beside_a_model_that_stays_is_told_so(make_pool):
    pool = await make_pool({"stays": model(), "b": model(2 * UNIT)}, 2.5, load_models=("stays",))
    with pytest.raises(LoadFailed, match="can never fit: .* what always stays takes 1.* of it"):
        await pool.obtain("b")
    assert loaded(pool) == ["stays"]


async def test_what_turns_out_larger_than_its_files_is_closed_again(make_repository):
    root = make_repository({"a": model()})
    settings = Settings(memory_budget_bytes=2 * UNIT)
    seen = iter([0, 3 * UNIT])
    closed = []

    def opener(path, config):
        session = open_session(path, config)
        close = session.close
        session.close = lambda: (closed.append(path), close())
        return session

    pool = ModelPool(Repository(root), opener, settings, measure=lambda: next(seen))
    await pool.start()
    for _ in range(2):
        with pytest.raises(LoadFailed, match="needs about 300000 bytes"):
            await pool.obtain("a")
    assert len(closed) == 1
    await pool.close()


async def test_a_model_at_work_is_not_unloaded(make_pool):
    pool = await make_pool({"a": model(), "b": model()}, 1)
    found = await pool.obtain("a")
    found.statistics.pending += 1
    with pytest.raises(ModelUnavailable):
        await pool.obtain("b")
    found.statistics.pending -= 1
    await pool.obtain("b")
    assert loaded(pool) == ["b"]


async def test_a_model_held_by_a_run_in_another_thread_is_not_unloaded(make_pool):
    pool = await make_pool({"a": model(), "b": model()}, 1)
    await pool.obtain("a")
    no_room = pytest.raises(ModelUnavailable, match="can be made free now")
    with pool.held("a"), pool.held("a"), no_room:
        await pool.obtain("b")
    await pool.obtain("b")
    assert loaded(pool) == ["b"]


async def test_those_that_make_room_together_go_at_the_same_moment(make_pool):
    seen = []

    def opener(path, config):
        session = open_session(path, config)
        close = session.close
        session.close = lambda: (seen.append(loaded(pool)), close())
        return session

    pool = await make_pool({"a": model(), "b": model(), "big": model(2 * UNIT)}, 2, opener)
    for name in ("a", "b", "big"):
        await call(pool, name)
    # While the first is being closed, the second is found by nobody any more.
    assert seen == [[], []]


async def test_many_first_calls_load_once_and_each_has_its_deadline(make_pool):
    gate = threading.Event()
    opened = []

    def opener(path, config):
        opened.append(path)
        gate.wait(20)
        return open_session(path, config)

    pool = await make_pool({"a": model()}, 1, opener)
    calls = [asyncio.create_task(call(pool, "a")) for _ in range(20)]
    now = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded, match="not loaded in time"):
        await pool.obtain("a", deadline=now + 0.01)
    gate.set()
    assert await asyncio.gather(*calls) == [[[1, 1, 1, 1]]] * 20
    assert len(opened) == 1


async def test_what_was_unloaded_by_a_call_stays_away_until_it_is_loaded_by_one(make_pool):
    pool = await make_pool({"a": model()}, 1)
    await call(pool, "a")
    await pool.unload("a")
    assert not pool.is_ready("a")
    with pytest.raises(ModelNotFound):
        await pool.obtain("a")
    await pool.load("a")
    await call(pool, "a")


async def test_unknown_names_are_unknown(make_pool):
    pool = await make_pool({"a": model()}, 1)
    with pytest.raises(ModelNotFound, match="'q' is not found"):
        await pool.obtain("q")


@pytest.mark.parametrize(
    ("files", "before", "after", "expected"), [(5, 10, 30, 20), (5, 30, 10, 5), (5, 0, 0, 5)]
)
def test_memory_is_the_larger_of_files_and_growth(files, before, after, expected):
    assert estimate(files, before, after) == expected


async def test_a_model_asked_for_by_name_that_has_no_room_keeps_the_server_from_being_ready(
    make_repository,
):
    settings = Settings(memory_budget_bytes=1, load_models=("a",))
    repository = Repository(make_repository({"a": model(), "b": model()}))
    pool = ModelPool(repository, open_session, settings, measure=lambda: 0)
    await pool.start()
    try:
        assert not pool.ready
    finally:
        await pool.close()
