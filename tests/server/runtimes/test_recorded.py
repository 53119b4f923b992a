"""Runs over fixed buffers, on the CPU, where the buffers are the same and nothing is recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import DeadlineExceeded, InvalidInput, LoadFailed
from aiaas_server.core.session import StopToken
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.recorded import RecordedRuns
from tests.server.runtimes.threads import on_threads


def recorded(model: bytes, **parameters: str):
    values = {"cuda_graphs": "1", **parameters}
    config = {"parameters": {key: {"string_value": value} for key, value in values.items()}}
    return open_session(model, ModelConfig.parse(config))


def test_runs_over_fixed_buffers_give_what_plain_runs_give(onnx_models):
    """The buffers that CUDA graphs need work on the CPU too, where nothing is recorded."""
    session, plain = recorded(onnx_models.simple()), open_session(onnx_models.simple())
    chance = np.random.default_rng(0)
    kept = []
    for rows in (1, 3, 1, 3, 0, *range(1, 20)):
        x = {name: chance.integers(0, 9, (rows, 16)).astype(np.int32)
             for name in ("INPUT0", "INPUT1")}  # fmt: skip
        names = ["OUTPUT1", "OUTPUT0"] if rows % 2 else ["OUTPUT0"]
        kept.append((session.run(x, names), plain.run(x, names)))
    for got, expected in kept:  # later runs must not write into earlier answers
        for mine, theirs in zip(got, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_fixed_buffers_are_shared_by_threads_one_at_a_time(onnx_models):
    session = recorded(onnx_models.scale(2))
    wrong = []

    def work(value):
        x = np.full((2, 4), value, np.float32)
        for _ in range(200):
            (y,) = session.run({"x": x}, ["y"])
            if not (y == 2 * value).all():
                wrong.append(value)

    on_threads(work)
    assert not wrong


def test_text_cannot_be_recorded(onnx_models):
    with pytest.raises(LoadFailed, match="text cannot be recorded"):
        recorded(onnx_models.identity("BYTES"))


class Seen:
    """A session of the runtime that keeps which graphs its runs are asked to be."""

    def __init__(self, model: bytes) -> None:
        self.real: Any = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.plain: list[str] = []
        self.bound: list[str] = []
        self.fails = ""

    def io_binding(self) -> Any:
        return self.real.io_binding()

    def run(self, outputs: Any, inputs: Any, options: Any) -> Any:
        self.plain.append(options.get_run_config_entry("gpu_graph_id"))
        return self.real.run(outputs, inputs, options)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.bound.append(options.get_run_config_entry("gpu_graph_id"))
        if self.fails:
            raise RuntimeError(self.fails)
        self.real.run_with_iobinding(binding, options)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(4 * count, dtype=np.float32).reshape(count, 4)}


def test_each_shape_is_a_graph_of_its_own_and_no_other_run_is_one(onnx_models: Any) -> None:
    """A plain run without the number -1 would be recorded, and answer the next with old memory."""
    seen = Seen(onnx_models.scale(2))
    runs = RecordedRuns(seen, "cpu")  # type: ignore[arg-type]
    for count in (1, 2, 1, 0):
        (y,) = runs.run(rows(count), ["y"], None)
        np.testing.assert_array_equal(y, 2 * rows(count)["x"])
    assert seen.bound == ["-1", "1", "-1", "2", "1"]
    assert seen.plain == ["-1"]
    for count in range(3, 3 + runs.MOST):
        runs.run(rows(count), ["y"], None)
    assert set(seen.plain) == {"-1"}
    assert len(seen.plain) == 3


def test_what_can_no_longer_be_replayed_is_run_without(onnx_models: Any) -> None:
    seen = Seen(onnx_models.scale(2))
    runs = RecordedRuns(seen, "cpu")  # type: ignore[arg-type]
    runs.run(rows(1), ["y"], None)
    seen.fails = "the computed output shape for this run is {5}"
    for _ in range(2):
        (y,) = runs.run(rows(1), ["y"], None)
        np.testing.assert_array_equal(y, 2 * rows(1)["x"])
    assert seen.plain == ["-1", "-1"]
    assert seen.bound == ["-1", "1", "1"]


def test_a_device_that_fails_is_not_tried_a_second_time(onnx_models: Any) -> None:
    seen = Seen(onnx_models.scale(2))
    seen.fails = "CUDA failure 2: out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        RecordedRuns(seen, "cpu").run(rows(1), ["y"], None)  # type: ignore[arg-type]
    assert seen.plain == []


def test_what_the_graph_refuses_is_the_callers_mistake_here_too(onnx_models: Any) -> None:
    session = recorded(onnx_models.lookup())
    with pytest.raises(InvalidInput, match=r"refuses.*: an index: expected -10 to 9, got 99$"):
        session.run({"index": np.array([[99]], np.int64)}, ["value"])
    assert session.run({"index": np.array([[3]], np.int64)}, ["value"])[0].shape == (1, 1)


def test_a_run_whose_stop_came_first_ends_at_once(onnx_models: Any) -> None:
    session, stop = recorded(onnx_models.busy()), StopToken()
    stop.stop()
    with pytest.raises(DeadlineExceeded):
        session.run({"steps": np.array([10**9], np.int64)}, ["state"], stop)
