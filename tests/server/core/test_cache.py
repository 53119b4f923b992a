"""Equal requests get kept answers; everything that makes a difference makes another key."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from aiaas_server.core.cache import ResponseCache, digest
from aiaas_server.core.errors import ModelUnavailable
from aiaas_server.core.pool import ModelPool
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.store.repository import Repository

A = np.arange(4, dtype=np.float32)
BASE = ({"x": A, "y": A}, ("p", "q"))


@pytest.mark.parametrize(
    ("identity", "inputs", "outputs"),
    [
        (b"2", *BASE),
        (b"1", BASE[0], ("q", "p")),
        (b"1", BASE[0], ("p",)),
        (b"1", {"x": A, "z": A}, BASE[1]),
        (b"1", {"x": A}, BASE[1]),
        (b"1", {"x": A + 1, "y": A}, BASE[1]),
        (b"1", {"x": A.reshape(2, 2), "y": A}, BASE[1]),
        (b"1", {"x": A.view(np.int32), "y": A}, BASE[1]),
        (b"1", {"x": np.array([b"a", b"bc"], object)}, BASE[1]),
    ],
    ids=["version", "order", "fewer outputs", "name", "fewer inputs", "bytes", "shape", "datatype",
         "text"],
)  # fmt: skip
def test_every_difference_makes_another_key(identity, inputs, outputs):
    assert digest(identity, inputs, outputs) != digest(b"1", *BASE)


def test_equal_requests_have_one_key_however_they_lie_in_memory():
    wide = np.zeros((4, 2), np.float32)
    wide[:, 0] = A
    assert digest(b"1", {"y": A, "x": wide[:, 0]}, BASE[1]) == digest(b"1", *BASE)
    texts = [np.array([b"ab", b"c"], object), np.array([b"a", b"bc"], object)]
    assert len({digest(b"1", {"x": text}, ()) for text in texts}) == 2


def test_the_bytes_are_bounded_and_the_least_used_go_first():
    cache = ResponseCache(3 * (512 + 400))
    for name in (b"a", b"b", b"c"):
        cache.put(name, None, {"y": np.zeros(100, np.float32)})
    assert cache.get(b"a") is not None
    cache.put(b"d", None, {"y": np.zeros(100, np.float32)})
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None
    assert cache.bytes <= cache.max_bytes
    cache.put(b"e", None, {"y": np.zeros(10_000, np.float32)})
    assert cache.get(b"e") is None
    assert len(cache) == 3
    cache.put(b"d", None, {"y": np.ones(1, np.float32)})
    cache.forget(None)
    assert (len(cache), cache.bytes) == (0, 0)


def test_what_a_caller_changes_is_his_own():
    cache = ResponseCache(10_000)
    mine = np.zeros(2, np.float32)
    cache.put(b"a", None, {"y": mine})
    mine[:] = 7
    first = cache.get(b"a")
    assert first is not None
    first["y"][:] = 8
    second = cache.get(b"a")
    assert second is not None
    assert second["y"].tolist() == [0, 0]


async def served(make_repository, onnx_models, **settings):
    text = json.dumps({"max_batch_size": 8, "response_cache": {"enable": True}})
    root = make_repository({"m": onnx_models.scale(2)}, configs={"m": text})
    pool = ModelPool(Repository(root), open_session, Settings(**settings))
    await pool.start()
    return pool, root


async def test_hits_and_misses_are_counted_exactly(make_repository, onnx_models):
    pool, _ = await served(make_repository, onnx_models)
    model = pool.resolve("m")
    for value in (1, 1, 2, 1):
        outcome = await model.infer({"x": np.full((1, 4), value, np.float32)})
        assert outcome.outputs["y"].tolist() == [[2 * value] * 4]
        outcome.outputs["y"][:] = -1
    entry = model.statistics.as_json("m", 1)
    counts = {key: value["count"] for key, value in entry["inference_stats"].items()}
    assert counts == {
        "success": 4, "fail": 0, "queue": 4, "compute_input": 2, "compute_infer": 2,
        "compute_output": 2, "cache_hit": 2, "cache_miss": 2,
    }  # fmt: skip
    assert (entry["inference_count"], entry["execution_count"]) == (2, 2)
    assert entry["inference_stats"]["cache_hit"]["ns"] > 0
    assert sum(model.statistics.latency_counts) == 4
    await pool.close()


async def test_a_reload_forgets_and_an_unloaded_model_answers_no_more(make_repository, onnx_models):
    pool, root = await served(make_repository, onnx_models)
    x = {"x": np.ones((1, 4), np.float32)}
    old = pool.resolve("m")
    await old.infer(x)
    (root / "m" / "1" / "model.onnx").write_bytes(onnx_models.scale(3))
    await pool.load("m", force=True)
    assert (await pool.resolve("m").infer(x)).outputs["y"][0, 0] == 3
    assert (await old.infer(x)).outputs["y"][0, 0] == 3
    model = pool.resolve("m")
    await pool.unload("m")
    with pytest.raises(ModelUnavailable):
        await model.infer(x)
    await pool.close()


async def test_large_inputs_and_no_room_are_served_all_the_same(make_repository, onnx_models):
    pool, _ = await served(make_repository, onnx_models, response_cache_bytes=0)
    x = {"x": np.ones((1, 4), np.float32)}
    model = pool.resolve("m")
    await asyncio.gather(*[model.infer(x) for _ in range(3)])
    assert model.statistics.cache_hit_count == 0
    assert model.statistics.cache_miss_count == 3
    await pool.close()
