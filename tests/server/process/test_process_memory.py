"""A serving process gives back what its models took."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from aiaas_client import Client

MEGABYTES = 20
SLACK = 10 << 20


def heavy() -> bytes:
    """`x (batch, 1000)` times one matrix of twenty megabytes."""
    weights = np.ones((1000, MEGABYTES * 250), np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1000])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    return model.SerializeToString()


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_an_unloaded_model_leaves_the_process_each_time(
    start_aiaas: Any, make_repository: Any, onnx_models: Any
) -> None:
    models = make_repository({"heavy": heavy(), "tiny": onnx_models.identity()})
    server = start_aiaas("--models", models, "--load-model", "tiny")
    row = np.ones((1, 1000), np.float32)
    with Client(f"http://127.0.0.1:{server.port}") as client:
        for turn in range(10):
            client.models.load("heavy")
            client.model("heavy").infer(x=row)
            client.models.unload("heavy")
            if turn == 0:
                continue  # the first leaves what every later one uses again
            if turn == 1:
                least = resident(server.process.pid)
            until = time.monotonic() + 120
            while (now := resident(server.process.pid)) > least + SLACK:
                assert time.monotonic() < until, f"{(now - least) >> 20} MiB stayed"
                time.sleep(0.02)
            least = min(least, now)
