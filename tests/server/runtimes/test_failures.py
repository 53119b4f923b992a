"""What a device's failure is called, and that the graph's and the caller's are not taken for it."""

from __future__ import annotations

import logging

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from aiaas_server.core.errors import InferenceFailed, OutOfMemory
from aiaas_server.core.session import StopToken
from aiaas_server.runtimes.failures import lost_device, of_device
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.options import Arena
from aiaas_server.runtimes.session import OnnxSession

NODE = "Non-zero status code returned while running Conv node. Name:'/c' Status Message: "
CUDA = (
    "CUDA failure {}: {} ; GPU=0 ; hostname=secret ; file=/src/core/cuda_call.cc ; line=129 ; "
    "expr=cudaMalloc((void**)&p, size);"
)
ARENA = (
    "/src/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, "
    "onnxruntime::Stream*) {}"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CUDA.format(2, "out of memory"), "out of memory"),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ;", "out of memory"),
        ("std::bad_alloc", "out of memory"),
        (
            ARENA.format("Failed to allocate memory for requested buffer of size 4096"),
            "out of memory, 4096 more bytes do not fit",
        ),
        (
            ARENA.format("Available memory of 0 is smaller than requested bytes of 512"),
            "out of memory, 512 more bytes do not fit",
        ),
        (
            CUDA.format(700, "an illegal memory access was encountered"),
            "the device failed, CUDA error 700",
        ),
        (
            "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0 ;",
            "the device failed, CUDNN error 5000",
        ),
        ("indices element out of data bounds, idx=99 must be within [-10,9]", ""),
        ("MatMul dimension mismatch", ""),
    ],
    ids=["cuda", "cublas", "process", "arena", "limit", "access", "cudnn", "index", "shape"],
)
def test_the_device_is_told_from_the_rest_without_telling_the_machine(text: str, said: str) -> None:
    assert of_device(NODE + text) == said


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (CUDA.format(700, "an illegal memory access was encountered"), True),
        (CUDA.format(719, "unspecified launch failure"), True),
        (CUDA.format(2, "out of memory"), False),
        ("CUDNN failure 700: of another library", False),
        ("MatMul dimension mismatch", False),
    ],
)
def test_some_failures_lose_the_device(text: str, lost: bool) -> None:
    assert lost_device(NODE + text) is lost


def huge() -> bytes:
    """A model whose output has the shape that a request names."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1]), value("shape", TensorProto.INT64, ["n"])],
        [value("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content


def run_of(session: OnnxSession, elements: int) -> np.ndarray:
    x = {"x": np.ones(1, np.float32), "shape": np.array([elements], np.int64)}
    return session.run(x, ["y"], StopToken(tries=True))[0]


@pytest.mark.parametrize("bound", [False, True], ids=["plain", "io binding"])
def test_a_run_without_room_fails_alone_and_blames_nobody(bound: bool) -> None:
    """The shapes vary, so that a failure of the graph would be the caller's."""
    session = open_session(huge(), io_binding=bound)
    with pytest.raises(InferenceFailed) as caught:
        run_of(session, 1 << 46)  # no address space is so large
    assert caught.value.message == "inference failed: out of memory"
    assert run_of(session, 3).tolist() == [1, 1, 1]


def test_a_run_without_room_has_the_next_one_give_back_what_is_kept() -> None:
    arena = Arena()
    session = OnnxSession(onnxruntime.InferenceSession(huge()), arena=arena)
    with pytest.raises(OutOfMemory, match=f"out of memory, {4 << 46} more bytes do not fit"):
        run_of(session, 1 << 46)
    assert arena.options({"x": np.ones(1, np.float32)}, None) is not None


class Lost:
    """A session of the runtime whose device is gone."""

    def __init__(self, real: object) -> None:
        self.real = real
        self.runs = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def run(self, *_: object) -> None:
        self.runs += 1
        raise RuntimeError(NODE + CUDA.format(700, "an illegal memory access was encountered"))


def test_a_lost_device_is_told_to_the_operator(onnx_models, caplog) -> None:
    session = OnnxSession(Lost(onnxruntime.InferenceSession(onnx_models.scale())))
    x = {"x": np.zeros((1, 4), np.float32)}
    with caplog.at_level(logging.ERROR):
        for _ in range(3):  # told once
            with pytest.raises(InferenceFailed) as caught:
                session.run(x, ["y"])
    assert caught.value.message == (
        "inference failed at node '/c' (Conv): the device failed, CUDA error 700"
    )
    assert caplog.messages == [
        "the device is lost to this process: restart the server to use it again"
    ]
