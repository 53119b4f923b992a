"""Equal requests get kept answers; everything that makes a difference makes another key."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aiaas_server.core.cache import ResponseCache, digest
from aiaas_server.core.errors import DeadlineExceeded, ModelUnavailable
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.oip.statistics import model_stats
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests.waiting import until

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
    entry = model_stats("m", 1, model.statistics)
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


# The cache meets deadlines, callers that leave, reloads and text

LARGE = {"x": np.ones((1, 1 << 17), np.float32)}  # its digest is made by a thread


@pytest.fixture
async def cached(make_repository, onnx_models):
    """A pool with a caching model of any width, and where its file lies."""
    text = json.dumps({"max_batch_size": 8, "response_cache": {"enable": True}})
    root = make_repository({"m": onnx_models.scale(2, ["batch", "n"])}, configs={"m": text})
    pool = ModelPool(Repository(root), open_session, Settings())
    await pool.start()
    yield pool, root / "m" / "1" / "model.onnx"
    await pool.close()


@pytest.fixture
async def busy_threads():
    """All of the loop's threads are busy until the event is set."""
    threads, free = ThreadPoolExecutor(1), threading.Event()
    asyncio.get_running_loop().set_default_executor(threads)
    threads.submit(free.wait, 20)
    yield free
    free.set()


def now():
    return asyncio.get_running_loop().time()


async def test_a_kept_answer_past_the_deadline_is_too_late(cached):
    model = cached[0].resolve("m")
    small = {"x": np.ones((1, 4), np.float32)}
    await model.infer(small)
    with pytest.raises(DeadlineExceeded):
        await model.infer(small, deadline=now() - 1)
    assert (await model.infer(small, deadline=now() + 60)).batch_rows == 0
    counts = model.statistics
    assert (counts.cache_hit_count, counts.success_count, counts.failures["REJECTED"]) == (1, 2, 1)


async def test_a_deadline_holds_while_the_digest_waits_for_a_thread(cached, busy_threads):
    model = cached[0].resolve("m")
    with pytest.raises(DeadlineExceeded, match="before model 'm' answered"):
        await asyncio.wait_for(model.infer(LARGE, deadline=now() + 0.02), 120)
    assert model.statistics.failures["REJECTED"] == 1
    assert model.statistics.pending == 0


async def test_a_caller_may_leave_while_the_digest_waits_for_a_thread(cached, busy_threads):
    model = cached[0].resolve("m")
    gone = asyncio.create_task(model.infer(LARGE))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    busy_threads.set()
    assert (await model.infer(LARGE)).outputs["y"][0, 0] == 2
    assert model.statistics.cache_miss_count == 1


async def test_text_is_as_large_as_its_characters(cached, busy_threads):
    """A megabyte of text in one element is not hashed on the event loop."""
    model = cached[0].resolve("m")
    text = {"x": np.array([[b"x" * (1 << 20)]], object)}
    key = asyncio.create_task(model._cached.key(text, ("y",), None))
    await asyncio.sleep(0)
    assert not key.done()
    busy_threads.set()
    await key


async def test_a_reload_while_the_digest_is_made_answers_from_the_new_version(cached, onnx_models):
    pool, file = cached
    old = pool.resolve("m")
    loop = asyncio.get_running_loop()
    threads, free = ThreadPoolExecutor(4), threading.Event()
    loop.set_default_executor(threads)
    held = [loop.run_in_executor(None, free.wait, 20) for _ in range(4)]
    late = asyncio.create_task(old.infer(LARGE))
    await asyncio.sleep(0)
    file.write_bytes(onnx_models.scale(3, ["batch", "n"]))
    reload = asyncio.create_task(pool.load("m", force=True))
    await until(lambda: old.successor is not None)
    free.set()
    await asyncio.gather(reload, *held)
    assert (await late).outputs["y"][0, 0] == 3


async def test_an_answer_that_comes_after_its_version_was_put_away_is_not_kept(cached):
    model = cached[0].resolve("m")
    small = {"x": np.ones((1, 4), np.float32)}
    running = asyncio.create_task(model.infer(small))
    await asyncio.sleep(0)
    cache = model._cached._cache
    model.forget_answers()
    assert (await running).outputs["y"][0, 0] == 2
    assert len(cache) == 0
