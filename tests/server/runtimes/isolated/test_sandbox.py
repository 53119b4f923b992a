"""A session in a process of its own gives what one in this process gives."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.describe.config import InstanceGroup, ModelConfig
from aiaas_server.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelUnavailable,
    OutOfMemory,
    OutputTooLarge,
    ServerError,
)
from aiaas_server.core.session import StopToken
from aiaas_server.runtimes import sandbox
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.sandbox import open_isolated
from tests.graphs import takes_long
from tests.server.runtimes.graphs import model, node
from tests.server.runtimes.isolated.conftest import Open, X, doubles

DATATYPES = ("BOOL", "INT32", "INT64", "FP32", "BYTES")


def passes_on(datatype: str) -> bytes:
    of = (datatype, ["n", "m"])
    return model([node("Identity", ["x"], ["y"])], {"x": of}, {"y": of})


def two_ways() -> bytes:
    """`x` (n, 1) -> `double` and `square`."""
    of = ("FP32", ["n", 1])
    return model(
        [node("Add", ["x", "x"], ["double"]), node("Mul", ["x", "x"], ["square"])],
        {"x": of},
        {"double": of, "square": of},
    )


def expands() -> bytes:
    """`shape` (k) -> `y` of that shape, ones."""
    return model(
        [node("ConstantOfShape", ["shape"], ["y"])],
        {"shape": ("INT64", ["k"])},
        {"y": ("FP32", ["n"])},
    )


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_comes_back_as_it_went(opened: Open, datatype: str) -> None:
    session = opened(passes_on(datatype))
    x: Any = np.arange(6).reshape(2, 3)
    if datatype == "BYTES":
        x = np.array([[b"", "grün".encode(), b"a" * 100_000]], dtype=object)
    elif datatype == "BOOL":
        x = x % 2 > 0
    else:
        x = x.astype({"INT32": np.int32, "INT64": np.int64, "FP32": np.float32}[datatype])
    for given in (x, x.T, x[:, ::-1], x[:0]):
        (y,) = session.run({"x": given}, ["y"])
        assert y.dtype == given.dtype
        assert y.shape == given.shape
        assert y.tolist() == given.tolist()
        assert y.flags.writeable


def test_runs_of_the_same_shapes_have_values_of_their_own(opened: Open) -> None:
    session = opened(two_ways())
    earlier: list[tuple[Any, Any]] = []
    for number in range(12):
        x = np.arange(number % 3 + 1, dtype=np.float32)[:, None] + 10 * (number // 2 % 3)
        names = [["double", "square"], ["square", "double"], ["square"]][number // 3 % 3]
        for given in (x, x + 1, x + 2):
            found = dict(zip(names, session.run({"x": given}, names), strict=True))
            for name, y in found.items():
                expected = given * 2 if name == "double" else given * given
                assert y.tolist() == expected.tolist()
                earlier.append((y, expected))
    assert all(np.array_equal(y, expected) for y, expected in earlier), "one was written over"


def test_an_area_that_went_with_its_run_is_not_written_to(opened: Open) -> None:
    session = opened(two_ways())
    for rows in (3, 5_000_000, 5_000_000, 3, 3):
        x = np.full((rows, 1), rows, np.float32)
        (y,) = session.run({"x": x}, ["double"])
        assert np.array_equal(y, 2 * x)


def test_it_tells_what_a_session_here_tells(opened: Open) -> None:
    graph = takes_long(1)
    apart, here = opened(graph), open_session(graph, providers=("cpu",))
    assert apart.inputs == here.inputs
    assert apart.outputs == here.outputs
    assert apart.graph == here.graph
    assert apart.providers == here.providers
    assert {**here.metadata, "isolation": "process"} == apart.metadata
    (ours,), (theirs,) = here.run({"x": X}, ["y"]), apart.run({"x": X}, ["y"])
    assert np.array_equal(ours, theirs)


def test_large_tensors_take_the_room_that_they_need(opened: Open) -> None:
    session = opened(expands())
    for size in (10, 20_000_000, 3, 100_000):
        (y,) = session.run({"shape": np.array([size], np.int64)}, ["y"])
        assert y.shape == (size,)
        assert not y.any()


def test_outputs_beyond_a_quarter_of_its_memory_are_refused(opened: Open) -> None:
    session = opened(expands(), memory=512 << 20)
    with pytest.raises(OutputTooLarge, match="at most 134217728 bytes in one run, got 160000000"):
        session.run({"shape": np.array([40_000_000], np.int64)}, ["y"])
    assert session.run({"shape": np.array([4], np.int64)}, ["y"])[0].shape == (4,)
    assert session.isolation.deaths == 0


def test_a_graph_that_takes_100_gigabytes_is_told_so(opened: Open) -> None:
    session = opened(expands())
    with pytest.raises(OutOfMemory):
        session.run({"shape": np.array([25 << 30], np.int64)}, ["y"])
    assert session.isolation.deaths == 0


def test_runs_go_on_side_by_side(opened: Open) -> None:
    session = opened(passes_on("INT64"))

    def run(number: int) -> bool:
        x = np.full((number % 50 + 1, 3), number)
        return bool(np.array_equal(session.run({"x": x}, ["y"])[0], x))

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(run, range(500)))


def test_a_loop_that_never_ends_is_ended_between_two_nodes(opened: Open) -> None:
    session = opened(_forever())
    stop = StopToken()
    caught: list[ServerError] = []

    def run() -> None:
        try:
            session.run({"n": np.array(1 << 60, np.int64)}, ["y"], stop)
        except ServerError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert session.run({"n": np.array(3, np.int64)}, ["y"])[0].tolist() == 3.0  # meanwhile
    stop.stop()
    thread.join(60)
    assert [type(error) for error in caught] == [DeadlineExceeded]
    assert session.isolation.deaths == 0


def _forever() -> bytes:
    """`n` -> `y`: counts to it."""
    from onnx import TensorProto, helper

    from tests.graphs import model as graph_of
    from tests.graphs import value

    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["before", "one"], ["after"])],
        "step",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("before", [])],
        [value("on", [], TensorProto.BOOL), value("after", [])],
    )
    nodes = [node("Loop", ["n", "", "zero"], ["y"], body=body)]
    zero, one = np.float32(0), np.float32(1)
    inputs = [value("n", [], TensorProto.INT64)]
    return graph_of(nodes, inputs, [value("y", [])], zero=zero, one=one)


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        ({"z": X}, ["y"], "unknown input 'z'"),
        ({"x": X}, ["z"], "unknown output 'z'"),
        ({"x": X.astype(np.float64)}, ["y"], "expected FP32, got float64"),
        ({}, ["y"], "."),
        ({"x": np.ones((1, 5), np.float32)}, ["y"], "axis 1: expected 4, got 5"),
    ],
    ids=["input", "output", "datatype", "missing", "shape"],
)
def test_what_does_not_fit_is_the_callers_mistake(
    opened: Open, inputs: Any, outputs: Any, said: str
) -> None:
    session = opened(doubles())
    with pytest.raises(InvalidInput, match=said):
        session.run(inputs, outputs)
    assert session.isolation.deaths == 0


@pytest.mark.parametrize(
    "graph",
    [b"", b"no model", b"\x08\x07" * 1000, doubles()[:-10], b"_ORT_MEM_ADDR_" + doubles()],
    ids=["empty", "text", "noise", "cut", "address"],
)
def test_what_is_no_model_is_refused(opened: Open, graph: bytes) -> None:
    with pytest.raises(LoadFailed):
        opened(graph)


def test_a_model_that_does_not_fit_into_its_memory_is_refused(opened: Open) -> None:
    weights = np.zeros((4, 12_000_000), np.float32)
    of = ("FP32", ["n", 4])
    large = model(
        [node("MatMul", ["x", "w"], ["h"]), node("ReduceSum", ["h"], ["y"], keepdims=0)],
        {"x": of}, {"y": ("FP32", [])}, {"w": weights},
    )  # fmt: skip
    with pytest.raises(LoadFailed):
        opened(large, memory=128 << 20)


def test_a_file_is_opened_with_the_weights_beside_it(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(doubles())
    session = open_isolated(tmp_path / "model.onnx")
    try:
        assert session.run({"x": X}, ["y"])[0].tolist() == (2 * X).tolist()
    finally:
        session.close()
    session.wait_closed(60)
    with pytest.raises(ModelUnavailable, match="unloaded"):
        session.run({"x": X}, ["y"])


@pytest.mark.parametrize(
    ("providers", "config"),
    [
        (("cuda",), ModelConfig()),
        (("auto",), ModelConfig(instance_group=(InstanceGroup(kind="KIND_GPU"),))),
    ],
    ids=["server", "model"],
)
def test_a_gpu_is_refused(providers: Any, config: ModelConfig) -> None:
    with pytest.raises(LoadFailed, match="a model in a process of its own"):
        open_isolated(doubles(), config, providers=providers)


def test_without_a_filter_it_runs_only_where_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "why_not", lambda: "system calls cannot be filtered here")
    with pytest.raises(LoadFailed, match="cannot be filtered here: .* --allow-weak-sandbox"):
        open_isolated(doubles())
    session = open_isolated(doubles(), allow_weak=True)
    try:
        assert session.metadata["isolation"] == "process, weak: system calls are not filtered"
        assert not session.isolation.confined
        assert session.run({"x": X}, ["y"])[0].tolist() == (2 * X).tolist()
    finally:
        session.close()
        session.wait_closed(60)
