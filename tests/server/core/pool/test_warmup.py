"""What a configuration declares under `model_warmup` runs before the version serves."""

from __future__ import annotations

import json
import logging
import threading

import numpy as np
import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.pool.warmup import (
    fewest_near_best,
    rates_of,
    run_declared,
    run_sizes,
    useful_runs_at_once,
    warm_up,
)
from aiaas_server.core.schedule.cost import Placement
from aiaas_server.core.session import GraphFacts, StopToken
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.http.oip.statistics import model_stats
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings


class Recording:
    """Keeps what it is run with."""

    inputs = outputs = ()
    providers = ()
    graph = GraphFacts()
    metadata = {}

    def __init__(self):
        self.runs = []

    def run(self, inputs, outputs, stop: StopToken | None = None):
        self.runs.append(inputs)
        return []

    def close(self): ...


def warmed(datatype, spec, *, batch_size=1, count=0, files=None):
    session = Recording()
    signature = Signature("m", [TensorSpec("x", datatype, (-1, -1))], [], 8)
    config = ModelConfig.parse(
        {
            "model_warmup": [
                {"name": "w", "batch_size": batch_size, "count": count, "inputs": {"x": spec}}
            ]
        }
    )
    run_declared(session, signature, config.model_warmup, (files or {}).__getitem__)
    return session.runs


def test_zeros_of_the_stated_shape_run_as_often_as_stated():
    runs = warmed(
        "FP32", {"data_type": "TYPE_FP32", "dims": [3], "zero_data": True}, batch_size=5, count=3
    )
    assert len(runs) == 3
    assert runs[0]["x"].shape == (5, 3)
    assert not runs[0]["x"].any()


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "INT64", "UINT8", "BOOL"])
def test_random_data_varies_and_stays_small(datatype):
    (run,) = warmed(datatype, {"data_type": f"TYPE_{datatype}", "dims": [64], "random_data": True})
    x = run["x"].astype(float)
    assert 0 <= x.min() < x.max() <= 1


def test_a_file_gives_raw_elements_or_counted_texts():
    (run,) = warmed(
        "INT32",
        {"data_type": "TYPE_INT32", "dims": [2], "input_data_file": "f"},
        files={"f": np.array([7, 8], np.int32).tobytes()},
    )
    assert run["x"].tolist() == [[7, 8]]
    (run,) = warmed(
        "BYTES",
        {"data_type": "TYPE_STRING", "dims": [1], "input_data_file": "f"},
        files={"f": b"\x02\0\0\0hi"},
    )
    assert run["x"].tolist() == [[b"hi"]]


@pytest.mark.parametrize(
    ("datatype", "spec", "reason"),
    [
        ("FP32", {"data_type": "TYPE_INT32", "dims": [1], "zero_data": True}, "datatype FP32"),
        ("FP32", {"data_type": "TYPE_NONE", "dims": [1], "zero_data": True}, "TYPE_NONE"),
        ("FP32", {"data_type": "TYPE_FP32", "dims": [1, 2], "zero_data": True}, "expected shape"),
        ("FP32", {"data_type": "TYPE_FP32", "dims": [2**40], "zero_data": True}, "elements"),
        ("FP32", {"data_type": "TYPE_FP32", "dims": [1]}, "needs one of zero_data"),
        ("FP32", {"data_type": "TYPE_FP32", "dims": [1], "input_data_file": "../f"}, "plain file"),
        ("FP32", {"data_type": "TYPE_FP32", "dims": [1], "input_data_file": "f"}, "4 bytes"),
    ],
    ids=["datatype", "unknown type", "rank", "size", "no source", "path", "file size"],
)
def test_what_does_not_fit_fails_the_load_and_says_why(datatype, spec, reason):
    with pytest.raises(LoadFailed, match=reason):
        warmed(datatype, spec, files={"f": b"123"})


async def test_a_load_warms_up_and_reports_its_memory(make_repository, onnx_models):
    spec = {"data_type": "TYPE_FP32", "dims": [4], "input_data_file": "rows"}
    config = {"max_batch_size": 8, "model_warmup": [{"batch_size": 2, "inputs": {"x": spec}}]}
    root = make_repository({"m": onnx_models.scale()}, configs={"m": json.dumps(config)})
    (root / "m" / "warmup").mkdir()
    (root / "m" / "warmup" / "rows").write_bytes(np.ones(8, np.float32).tobytes())
    pool = ModelPool(Repository(root), open_session, Settings())
    await pool.start()
    model = pool.resolve("m")
    (usage,) = model_stats("m", 1, model.statistics)["memory_usage"]
    assert (usage["type"], usage["id"]) == ("CPU", 0)
    assert usage["byte_size"] >= (root / "m" / "1" / "model.onnx").stat().st_size
    assert model.config.as_json()["model_warmup"][0]["inputs"]["x"] == spec
    await pool.unload("m")
    assert model_stats("m", 1, model.statistics)["memory_usage"] == []
    (root / "m" / "warmup" / "rows").unlink()
    with pytest.raises(LoadFailed, match="'warmup/rows' cannot be read"):
        await pool.load("m")
    await pool.close()


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1: 10, 2: 19, 4: 36}, 4),
        ({1: 10.6, 2: 11, 4: 11}, 1),
        ({1: 10, 2: 18.5, 4: 19}, 2),
        ({1: 10, 2: 7, 4: 3}, 1),
        ({1: 5}, 1),
    ],
    ids=["scales", "hardly scales", "up to two", "gets in its own way", "one"],
)
def test_runs_at_once_are_the_fewest_that_are_near_the_best(rates, expected):
    assert fewest_near_best(rates) == expected


@pytest.mark.parametrize(("most", "counts"), [(1, {1}), (4, {1, 2, 4}), (6, {1, 3, 6})])
def test_scaling_is_tried_with_real_threads_at_halves_of_the_most(most, counts):
    threads = set()

    class Waiting(Recording):
        def run(self, inputs, outputs, stop: StopToken | None = None):
            threads.add(threading.current_thread())
            assert inputs["x"].shape == (1, 2)
            return []

    signature = Signature("m", [TensorSpec("x", "FP32", (-1, 2))], [], 8)
    rates = rates_of(Waiting(), signature, most)
    assert set(rates) == counts
    assert all(rate > 0 for rate in rates.values())
    assert threading.current_thread() not in threads


def test_a_model_that_cannot_run_on_zeros_gets_what_was_asked_for():
    class Refusing(Recording):
        def run(self, inputs, outputs, stop: StopToken | None = None):
            raise InvalidInput("no zeros")

    signature = Signature("m", [TensorSpec("x", "FP32", (-1,))], [], 8)
    assert useful_runs_at_once(Refusing(), signature, 4) == 4


def test_a_model_that_refuses_zeros_is_cold_without_a_word_to_the_operator(caplog):
    class Refusing(Recording):
        def run(self, inputs, outputs, stop: StopToken | None = None):
            raise InvalidInput("the model refuses these shapes")

    signature = Signature("m", [TensorSpec("x", "FP32", (-1, -1))], [], 8)
    with caplog.at_level(logging.DEBUG, "aiaas_server"):
        warm_up(Refusing(), signature, Placement())
        run_sizes(Refusing(), signature, [1, 2])
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * 2
