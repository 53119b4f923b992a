"""Load, swap, watch, unload and drain, over real files and the real onnxruntime."""

from __future__ import annotations

import asyncio
import functools
import json
import threading

import numpy as np
import pytest
from onnx import helper

from aiaas_server.core.errors import (
    ControlDisabled,
    Draining,
    InvalidInput,
    LoadFailed,
    ModelNotFound,
    ModelUnavailable,
    VersionNotFound,
)
from aiaas_server.core.pool import ModelPool
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.store.repository import Repository

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture
async def make_pool():
    """Makes and starts pools over a directory; closes them at the end."""
    made = []

    async def make(root, opener=open_session, observers=(), start=True, **settings):
        pool = ModelPool(Repository(root), opener, Settings(**settings), observers)
        made.append(pool)
        if start:
            await pool.start()
        return pool

    yield make
    for pool in made:
        await pool.close()


async def until(condition, pause=0.0):
    """Give the loop turns until `condition()` holds."""
    async with asyncio.timeout(20):
        for _ in iter(lambda: not condition(), False):
            await asyncio.sleep(pause)


async def answer(pool, name="m", version=None):
    outcome = await pool.resolve(name, version).infer(X)
    return float(outcome.outputs["y"][0, 0])


def states(pool):
    return {(e["name"], e.get("version")): e.get("state") for e in pool.index()}


async def test_a_damaged_model_is_reported_and_stops_nothing_else(
    make_repository, onnx_models, make_pool
):
    root = make_repository(
        {
            "good": onnx_models.scale(3),
            "junk": b"junk",
            "empty": b"",
            "cut": onnx_models.mlp()[:99],
        },
        configs={"odd": "{", "cut": ""},
    )
    pool = await make_pool(root)
    assert pool.ready
    assert await answer(pool, "good") == 3
    index = {entry["name"]: entry for entry in pool.index()}
    assert index["good"] == {"name": "good", "version": "1", "state": "READY"}
    for name in ("junk", "empty", "cut", "odd"):
        assert index[name]["state"] == "UNAVAILABLE"
        assert index[name]["reason"]
        assert str(root) not in index[name]["reason"]
        assert "\n" not in index[name]["reason"]
    assert [entry["name"] for entry in pool.index(ready_only=True)] == ["good"]


async def test_the_version_policy_decides_what_is_loaded(make_repository, onnx_models, make_pool):
    three = {n: onnx_models.scale(n) for n in (1, 2, 3)}
    root = make_repository(
        {"latest": three, "all": three, "some": three},
        configs={"all": "version_policy: { all {} }", "some": '{"version_policy": '
                 '{"specific": {"versions": [1, 2]}}}'},
    )  # fmt: skip
    pool = await make_pool(root)
    assert pool.ready_versions("latest") == [3]
    assert pool.ready_versions("all") == [1, 2, 3]
    assert pool.ready_versions("some") == [1, 2]
    assert await answer(pool, "some") == 2
    assert await answer(pool, "all", 1) == 1


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


async def test_labels_come_with_the_model(make_repository, onnx_models, make_pool):
    config = '{"output": [{"name": "y", "label_filename": "names.txt"}]}'
    root = make_repository({"m": onnx_models.scale(), "n": onnx_models.scale()},
                           configs={"m": config, "n": config})  # fmt: skip
    (root / "m" / "names.txt").write_text("cat\nhund\n鳥\n", "utf-8")
    pool = await make_pool(root)
    assert pool.resolve("m").labels == {"y": ("cat", "hund", "鳥")}
    assert "label file 'names.txt' cannot be read" in pool.index()[1]["reason"]


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


async def test_control_can_be_switched_off(make_repository, onnx_models, make_pool):
    pool = await make_pool(make_repository({"m": onnx_models.scale(2)}), control="none")
    for call in (pool.load("m"), pool.unload("m")):
        with pytest.raises(ControlDisabled):
            await call
    assert await answer(pool) == 2


async def test_only_listed_models_are_loaded_and_each_is_demanded(
    make_repository, onnx_models, make_pool
):
    root = make_repository({"a": onnx_models.scale(), "b": onnx_models.scale(), "bad": b"junk"})
    one = await make_pool(root, load_models="a")
    assert one.ready
    assert {"name": "b"} in one.index()
    assert not (await make_pool(root, load_models="a,bad")).ready
    assert not (await make_pool(root, load_models="a,missing")).ready


async def test_loading_an_unknown_model_is_not_found(make_repository, onnx_models, make_pool):
    pool = await make_pool(make_repository({"m": onnx_models.scale()}))
    for name in ("q", "..", "../m", ""):
        with pytest.raises(ModelNotFound):
            await pool.load(name)


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
    assert states(pool) == {("m", "1"): "READY"}


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
    await until(lambda: pool.ready_versions("m") == [2], 0.01)


async def test_an_output_without_the_batch_makes_a_derived_model_unbatched(
    make_repository, onnx_models, make_pool, caplog
):
    nodes = [
        helper.make_node("NonZero", ["x"], ["found"]),
        helper.make_node("Transpose", ["found"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 4])],
        [helper.make_tensor_value_info("y", 7, ["n", 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    pool = await make_pool(make_repository({"m": model.SerializeToString()}))
    loaded = pool.resolve("m")
    assert (loaded.config.max_batch_size, loaded.config.dynamic_batching) == (0, None)
    assert loaded.config.input[0].dims == (-1, 4)
    assert "'y' does not begin with the batch" in caplog.text
    outcomes = await asyncio.gather(*[loaded.infer(X) for _ in range(5)])
    assert [o.outputs["y"].shape for o in outcomes] == [(4, 2)] * 5


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


async def test_answers_equal_onnxruntimes_under_mixed_concurrent_shapes(
    make_repository, onnx_models, make_pool
):
    pool = await make_pool(make_repository({"m": onnx_models.identity()}))
    model = pool.resolve("m")
    rng = np.random.default_rng(0)
    shapes = [(int(rng.integers(1, 5)), int(rng.integers(1, 4))) for _ in range(64)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    outcomes = await asyncio.gather(*[model.infer({"x": array}) for array in arrays])
    for array, outcome in zip(arrays, outcomes, strict=True):
        np.testing.assert_array_equal(outcome.outputs["y"], array)
    assert max(outcome.batch_rows for outcome in outcomes) > 4


async def test_one_bad_value_in_a_batch_fails_alone(make_repository, onnx_models, make_pool):
    pool = await make_pool(make_repository({"m": onnx_models.lookup()}))
    model = pool.resolve("m")
    values = [1, 99, 3]
    results = await asyncio.gather(
        *[model.infer({"index": np.array([[v]], np.int64)}) for v in values],
        return_exceptions=True,
    )
    assert isinstance(results[1], InvalidInput)
    assert [float(results[i].outputs["value"][0, 0]) for i in (0, 2)] == [10, 30]


async def test_running_in_the_callers_thread_gives_the_same_and_is_counted(
    make_repository, onnx_models, make_pool
):
    pool = await make_pool(make_repository({"m": onnx_models.scale(2)}))
    model = pool.resolve("m")
    results = await asyncio.gather(*[asyncio.to_thread(model.infer_now, X) for _ in range(50)])
    assert all(float(r.outputs["y"][0, 0]) == 2 for r in results)
    assert json.dumps(model.statistics.as_json("m", 1))
    assert model.statistics.success_count == 50


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
    pool = await make_pool(root, functools.partial(counting), load_models=())
    await asyncio.gather(*[pool.load(name) for name in names])
    assert most == 1
    assert len(list(pool.models())) == 6


async def test_memory_is_given_back_once_for_models_that_go_together(
    make_repository, onnx_models, make_pool, monkeypatch
):
    calls = []
    monkeypatch.setattr("aiaas_server.core.pool.give_back", lambda: calls.append(1))
    root = make_repository({name: onnx_models.scale() for name in "abcd"})
    pool = await make_pool(root)
    await asyncio.gather(*map(pool.unload, "abc"))
    await until(lambda: calls)
    assert calls == [1]
    await pool.close()  # the process ends: nothing is worth giving back
    assert calls == [1]
