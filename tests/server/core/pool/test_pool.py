"""What a started pool serves: which models and versions, and how they answer, over real files."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import numpy as np
import pytest
from onnx import helper

from aiaas_server.core.errors import (
    ControlDisabled,
    InvalidInput,
    ModelNotFound,
)
from aiaas_server.http.oip.statistics import model_stats
from aiaas_server.runtimes.onnx import open_session
from tests.server.core.pool.asking import X, answer
from tests.waiting import until


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


async def test_labels_come_with_the_model(make_repository, onnx_models, make_pool):
    config = '{"output": [{"name": "y", "label_filename": "names.txt"}]}'
    root = make_repository({"m": onnx_models.scale(), "n": onnx_models.scale()},
                           configs={"m": config, "n": config})  # fmt: skip
    (root / "m" / "names.txt").write_text("cat\nhund\n鳥\n", "utf-8")
    pool = await make_pool(root)
    assert pool.resolve("m").labels == {"y": ("cat", "hund", "鳥")}
    assert "label file 'names.txt' cannot be read" in pool.index()[1]["reason"]


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


async def test_a_model_set_up_for_a_gpu_that_runs_on_the_cpu_is_told_once(
    make_repository, onnx_models, make_pool, caplog
):
    config = '{"instance_group": [{"kind": "KIND_GPU"}, {"kind": "KIND_GPU"}]}'
    root = make_repository({"m": onnx_models.scale(1)}, configs={"m": config})
    pool = await make_pool(root, partial(open_session, providers=("cpu",)))
    assert pool.is_ready("m")
    told = "model 'm': instance_group asks for KIND_GPU, and it runs on the CPU"
    assert caplog.messages.count(told) == 1


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
    assert json.dumps(model_stats("m", 1, model.statistics))
    assert model.statistics.success_count == 50


async def test_a_model_named_in_the_settings_is_waited_for_however_long_it_takes(
    repository, make_pool, opener
):
    opener.held = {"a"}
    pool = await make_pool(repository, patience=0.01, load_models=("a", "b"))
    assert not pool.ready
    opener.let_go()
    await until(lambda: pool.ready)


async def test_an_unexpected_error_of_one_model_is_its_own(repository, make_pool):
    def opener(path, config):
        session = open_session(path, config)
        if path.parent.parent.name == "a":
            session.run = lambda *_: 1 // 0
        return session

    pool = await make_pool(repository, opener)
    assert [model.name for model in pool.models()] == ["b", "c"]
    with pytest.raises(ModelNotFound, match="it cannot be loaded: ZeroDivisionError"):
        pool.resolve("a")
