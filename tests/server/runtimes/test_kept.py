"""Runs over arrays of the caller's, which are read and extended where they lie."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    ModelUnavailable,
    NotSupported,
)
from aiaas_server.core.session import StopToken
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.session import OnnxSession
from tests import tiny_llm


def adding() -> OnnxSession:
    """`total_out = total + x`, `twice = x + x`."""
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4])
        for name in ("x", "total")
    ]
    got = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4])
        for name in ("total_out", "twice")
    ]
    nodes = [
        helper.make_node("Add", ["total", "x"], ["total_out"]),
        helper.make_node("Add", ["x", "x"], ["twice"]),
    ]
    graph = helper.make_graph(nodes, "g", given, got)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return open_session(model.SerializeToString())


def test_kept_arrays_are_read_and_written_in_place() -> None:
    total = np.zeros((3, 4), np.float32)
    runs = adding().keep({("total", "total_out"): total[1:2]})
    for count in (1, 2):
        x = np.full((1, 4), count, np.float32)
        (twice,) = runs.run({"x": x}, ["twice"])
        np.testing.assert_array_equal(twice, 2 * x)
    np.testing.assert_array_equal(total[:, 0], [0, 3, 0])
    total[1] = 10  # the caller's to write between two runs
    assert runs.run({"x": x}, []) == []
    assert total[1, 0] == 12


def test_an_output_goes_into_memory_that_is_given() -> None:
    total, twice = np.zeros((1, 4), np.float32), np.zeros((2, 1, 4), np.float32)
    runs = adding().keep({("total", "total_out"): total})
    for row in range(2):
        x = np.full((1, 4), row + 1, np.float32)
        runs.run({"x": x}, [], into={"twice": twice[row]})
    np.testing.assert_array_equal(twice[:, 0, 0], [2, 4])
    (found,) = runs.run({"x": x}, ["twice"])  # and anew where none is given
    found[:] = 0
    assert twice[1, 0, 0] == 4


def test_an_input_that_is_not_contiguous_is_copied_and_a_kept_array_must_be() -> None:
    total = np.zeros((2, 4), np.float32)
    runs = adding().keep({("total", "total_out"): total})
    runs.run({"x": np.arange(8, dtype=np.float32).reshape(4, 2).T}, [])
    np.testing.assert_array_equal(total, np.arange(8).reshape(4, 2).T)
    with pytest.raises(ValueError, match="a kept array: expected contiguous memory, got strides"):
        adding().keep({("total", "total_out"): np.zeros((2, 8), np.float32)[:, ::2]})


def test_a_run_that_fails_blames_no_caller() -> None:
    runs = adding().keep({("total", "total_out"): np.zeros((2, 4), np.float32)})
    with pytest.raises(InferenceFailed):
        runs.run({"x": np.zeros((2, 5), np.float32)}, ["twice"])
    (twice,) = runs.run({"x": np.ones((2, 4), np.float32)}, ["twice"])
    assert (twice == 2).all()


def test_a_stop_ends_a_run() -> None:
    session = open_session(tiny_llm.model_bytes())
    arrays = {
        (f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"): np.zeros(
            (1, 2, 512, 16), np.float32
        )
        for layer in range(2)
        for part in ("key", "value")
    }
    runs = session.keep(arrays)
    count = 512
    inputs: dict[str, Any] = {
        "input_ids": np.zeros((1, count), np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "num_logits_to_keep": np.array(1),
    }
    stop = StopToken()
    stop.stop()
    with pytest.raises(DeadlineExceeded):
        runs.run(inputs, ["logits"], stop)
    (logits,) = runs.run(inputs, ["logits"], StopToken())
    assert logits.shape == (1, 1, tiny_llm.CONFIG.vocabulary)


def test_what_was_unloaded_keeps_nothing() -> None:
    session = adding()
    session.close()
    with pytest.raises(ModelUnavailable, match="the model was unloaded"):
        session.keep({})


def test_another_device_is_not_supported() -> None:
    session = adding()
    session.providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    with pytest.raises(NotSupported, match="expected the CPU alone, got CUDAExecutionProvider"):
        session.keep({})


def test_two_sets_of_arrays_are_run_side_by_side() -> None:
    """Each binding by one thread at a time, the session by all."""
    session = adding()
    totals = [np.zeros((1, 4), np.float32) for _ in range(4)]

    def work(total: Any) -> None:
        runs = session.keep({("total", "total_out"): total})
        for _ in range(100):
            runs.run({"x": np.ones((1, 4), np.float32)}, [])

    threads = [threading.Thread(target=work, args=(total,)) for total in totals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [total[0, 0] for total in totals] == [100] * 4
