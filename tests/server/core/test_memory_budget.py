"""With a memory budget models come when they are called and go when others need the room."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.core.errors import DeadlineExceeded, ModelNotFound, ModelUnavailable
from aiaas_server.core.memory import estimate
from aiaas_server.core.pool import ModelPool
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.store.repository import Repository

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


async def test_what_cannot_fit_is_refused_and_costs_nobody_his_place(make_pool):
    pool = await make_pool({"a": model(), "b": model(), "huge": model(5 * UNIT)}, 2)
    await call(pool, "a")
    await call(pool, "b")
    with pytest.raises(ModelUnavailable, match="'huge' needs about 5.* bytes; of the memory") as e:
        await pool.obtain("huge")
    assert e.value.retry_after
    assert loaded(pool) == ["a", "b"]
    with pytest.raises(ModelUnavailable):
        await pool.load("huge")
    reasons = {entry["name"]: entry.get("reason", "") for entry in pool.index()}
    assert "memory budget" in reasons["huge"]


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
    with pytest.raises(ModelUnavailable, match="needs about 300000 bytes"):
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
