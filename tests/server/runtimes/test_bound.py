"""Bound runs, on the CPU, where inputs and outputs are bound by name as on a GPU."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import ModelUnavailable
from aiaas_server.runtimes.bound import BoundRuns
from aiaas_server.runtimes.onnx import open_session


class Counted:
    """A session of the runtime that counts how it is run, and fails where it is told to."""

    def __init__(self, model: bytes, fails: str = "") -> None:
        self.real: Any = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.fails = fails
        self.bound = 0

    def io_binding(self) -> Any:
        return self.real.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.bound += 1
        if self.fails:
            raise RuntimeError(f"Error in execution: {self.fails}")
        self.real.run_with_iobinding(binding, options)


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(4 * count, dtype=np.float32).reshape(count, 4)}


def test_what_takes_long_to_copy_is_left_to_a_plain_run(onnx_models: Any) -> None:
    """Unless it is asked for; binding holds the interpreter while it copies."""
    session = Counted(onnx_models.scale(2))
    large = rows(1 << 15)  # 512 KiB
    assert BoundRuns(session, always=False).run(large, ["y"], None) is None
    assert session.bound == 0
    (small,) = BoundRuns(session, always=False).run(rows(2), ["y"], None) or []
    (whole,) = BoundRuns(session, always=True).run(large, ["y"], None) or []
    np.testing.assert_array_equal(small, 2 * rows(2)["x"])
    np.testing.assert_array_equal(whole, 2 * large["x"])
    assert session.bound == 2


@pytest.mark.parametrize("fails", ["CUDA failure 2: out of memory", "CUDNN failure 4: x"])
def test_what_the_device_failed_is_not_tried_a_second_time(onnx_models: Any, fails: str) -> None:
    runs = BoundRuns(Counted(onnx_models.scale(), fails), always=True)
    with pytest.raises(RuntimeError, match=fails):
        runs.run(rows(1), ["y"], None)


def test_what_the_graph_refuses_is_left_to_a_plain_run_which_tells_why(onnx_models: Any) -> None:
    runs = BoundRuns(Counted(onnx_models.scale(), "shapes differ"), always=True)
    assert runs.run(rows(1), ["y"], None) is None
    assert runs.run({"x": np.zeros((1, 5), np.float32)}, ["y"], None) is None


def test_rank_0_is_bound_as_it_is(onnx_models: Any) -> None:
    session = Counted(onnx_models.identity("FP32", []))
    (y,) = BoundRuns(session, always=True).run({"x": np.array(3, np.float32)}, ["y"], None) or []
    assert (y.shape, float(y), session.bound) == ((), 3, 1)


def test_inputs_that_do_not_lie_row_by_row_are_bound_all_the_same(onnx_models: Any) -> None:
    strided = np.arange(32, dtype=np.float32).reshape(4, 8)[::2, ::2]
    (y,) = (
        BoundRuns(Counted(onnx_models.scale(2)), always=True).run({"x": strided}, ["y"], None) or []
    )
    np.testing.assert_array_equal(y, 2 * strided)


def test_answers_are_the_callers_own(onnx_models: Any) -> None:
    """No later run writes into an earlier answer, nor does a change reach the input."""
    runs = BoundRuns(Counted(onnx_models.scale(2)), always=True)
    kept = [(runs.run(rows(n), ["y"], None) or [])[0] for n in (1, 3, 1, 3, 3)]
    for n, y in zip((1, 3, 1, 3, 3), kept, strict=True):
        np.testing.assert_array_equal(y, 2 * rows(n)["x"])
        y[:] = -1  # theirs to write
    x = rows(3)
    (y,) = runs.run(x, ["y"], None) or []
    assert not np.shares_memory(y, x["x"])
    np.testing.assert_array_equal(y, 2 * rows(3)["x"])


def test_an_answer_outlives_its_session_and_keeps_no_input(onnx_models: Any) -> None:
    class Rows(np.ndarray):
        """An array that can be watched."""

    session = open_session(onnx_models.scale(2), io_binding=True)
    x = rows(2)["x"].view(Rows)
    watched = weakref.ref(x)
    (y,) = session.run({"x": x}, ["y"])
    session.close()
    del session, x
    gc.collect()
    assert watched() is None
    np.testing.assert_array_equal(y, 2 * rows(2)["x"])


def test_a_run_that_was_stopped_is_not_tried_a_second_time(onnx_models: Any) -> None:
    options = ort.RunOptions()
    options.terminate = True
    runs = BoundRuns(Counted(onnx_models.busy()), always=True)
    with pytest.raises(RuntimeError, match="terminate"):
        runs.run({"steps": np.array([1], np.int64)}, ["state"], options)


def test_a_session_that_was_closed_refuses_and_is_freed(onnx_models: Any) -> None:
    session = open_session(onnx_models.scale(), io_binding=True)
    runtime = weakref.ref(session._session)
    session.run(rows(1), ["y"])
    session.close()
    gc.collect()
    assert runtime() is None
    with pytest.raises(ModelUnavailable):
        session.run(rows(1), ["y"])


@pytest.mark.parametrize(
    ("text", "given", "bound"),
    [("", None, False), ("1", None, True), ("0", None, False), ("1", False, False)],
    ids=["the CPU's default", "configured", "configured off", "the argument stands above"],
)
def test_the_cpu_binds_only_when_it_is_told_to(
    onnx_models: Any, text: str, given: bool | None, bound: bool
) -> None:
    config = ModelConfig.parse({"parameters": {"io_binding": {"string_value": text}}})
    session = open_session(onnx_models.scale(), config, io_binding=given)
    assert (session._bound is not None) is bound
