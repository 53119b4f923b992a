"""What all tests share: tiny ONNX models built on the spot, and model repositories made of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, settings
from onnx import TensorProto, helper

from tests.graphs import model, value

# What an example takes says more about the machine, and what else it does, than about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collector off what lives to the end: half a million objects at each full walk."""
    gc.disable()
    try:
        return (yield)
    finally:
        _freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that differ from process to process: those beside one another must agree."""
    if wrong := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"an address is part of the name: {wrong[0]}")


@pytest.fixture(scope="session", autouse=True)
def migrations() -> Iterator[Callable[[Any], None]]:
    """What runs the migrations; meanwhile the schema of empty databases is made once."""
    from aiaas_server.state import migrate
    from tests.schema import SchemaMadeOnce

    made_once = SchemaMadeOnce(migrate._run_alembic)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "_run_alembic", made_once)
        yield made_once.run


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """The same for a module that follows on one whose servers have thawed them."""
    if not gc.get_freeze_count():
        _freeze()


def _freeze() -> None:
    gc.collect()
    gc.freeze()


ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}

Dims = list[int | str | None]


def _value(name: str, datatype: str, dims: Dims) -> onnx.ValueInfoProto:
    return value(name, dims, ONNX_TYPES[datatype])


def identity(datatype: str = "FP32", dims: Dims | None = None) -> bytes:
    """`x -> y`, the same tensor; `dims` default to `[batch, n]`, both free."""
    dims = ["batch", "n"] if dims is None else dims
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [_value("x", datatype, dims)], [_value("y", datatype, dims)])


def add(datatype: str = "FP32", dims: Dims | None = None) -> bytes:
    """`a + b -> sum`; FP32, FP64, INT32 or INT64; `dims` default to `[batch, 4]`."""
    dims = ["batch", 4] if dims is None else dims
    node = helper.make_node("Add", ["a", "b"], ["sum"])
    inputs = [_value("a", datatype, dims), _value("b", datatype, dims)]
    return model([node], inputs, [_value("sum", datatype, dims)])


def simple() -> bytes:
    """Triton's example, INT32 `[batch, 16]`: `OUTPUT0` = `INPUT0` + `INPUT1`, `OUTPUT1` = - ."""
    names = ["INPUT0", "INPUT1"]
    nodes = [
        helper.make_node("Add", names, ["OUTPUT0"]),
        helper.make_node("Sub", names, ["OUTPUT1"]),
    ]
    inputs = [_value(n, "INT32", ["batch", 16]) for n in names]
    return model(nodes, inputs, [_value(n, "INT32", ["batch", 16]) for n in ("OUTPUT0", "OUTPUT1")])


def scale(factor: float = 2.0, dims: Dims | None = None) -> bytes:
    """`x * factor -> y`, FP32, `[batch, 4]` by default; tells versions of one model apart."""
    dims = ["batch", 4] if dims is None else dims
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    constants = {"factor": np.float32(factor)}
    return model([node], [_value("x", "FP32", dims)], [_value("y", "FP32", dims)], **constants)


def mlp(seed: int = 0) -> bytes:
    """The 784-32-10 ReLU network, random weights: `image` `[n, 784]` -> `logits` `[n, 10]`."""
    rng = np.random.default_rng(seed)
    constants = {
        "w1": rng.normal(0, 0.05, (784, 32)).astype(np.float32),
        "b1": np.zeros(32, np.float32),
        "w2": rng.normal(0, 0.2, (32, 10)).astype(np.float32),
        "b2": np.zeros(10, np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["image", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"]),
    ]
    inputs = [_value("image", "FP32", ["batch", 784])]
    return model(nodes, inputs, [_value("logits", "FP32", ["batch", 10])], **constants)


def row_sum() -> bytes:
    """`x` FP32 `[batch, height, width]`, all free -> `total` `[batch]`: requests of many shapes."""
    node = helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0)
    inputs = [_value("x", "FP32", ["batch", "height", "width"])]
    constants = {"axes": np.array([1, 2], np.int64)}
    return model([node], inputs, [_value("total", "FP32", ["batch"])], **constants)


def fixed_batch(batch: int = 1) -> bytes:
    """`x` FP32 `[batch, 4]`, the first axis fixed -> `y = -x`: a model that cannot be batched."""
    node = helper.make_node("Neg", ["x"], ["y"])
    return model([node], [_value("x", "FP32", [batch, 4])], [_value("y", "FP32", [batch, 4])])


def lookup() -> bytes:
    """`index` INT64 `[batch, 1]` -> `value` FP32 `[batch, 1]` = 10 * index.

    An index outside -10..9 fails inside onnxruntime, and with it the whole batch it is in.
    """
    node = helper.make_node("Gather", ["table", "index"], ["value"])
    inputs = [_value("index", "INT64", ["batch", 1])]
    constants = {"table": np.arange(10, dtype=np.float32) * 10}
    return model([node], inputs, [_value("value", "FP32", ["batch", 1])], **constants)


def busy() -> bytes:
    """`steps` INT64 `[1]` -> `state` FP32 `[128, 128]` after so many matrix products.

    About 10 to 50 µs a step, in a Loop: as long as a test needs, and `RunOptions.terminate`
    acts between steps.
    """
    square: Dims = [128, 128]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["before", "weights"], ["after"]),
        ],
        "step",
        [_value("i", "INT64", []), _value("go_in", "BOOL", []), _value("before", "FP32", square)],
        [_value("go_out", "BOOL", []), _value("after", "FP32", square)],
    )
    nodes = [
        helper.make_node("Squeeze", ["steps"], ["count"]),
        helper.make_node("Loop", ["count", "", "weights"], ["state"], body=body),
    ]
    constants = {"weights": np.eye(128, dtype=np.float32)}
    return model(
        nodes, [_value("steps", "INT64", [1])], [_value("state", "FP32", square)], **constants
    )


BUILDERS = SimpleNamespace(
    identity=identity,
    add=add,
    simple=simple,
    scale=scale,
    mlp=mlp,
    row_sum=row_sum,
    fixed_batch=fixed_batch,
    lookup=lookup,
    busy=busy,
)

MakeRepository = Callable[..., Path]


@pytest.fixture(scope="session")
def onnx_models() -> SimpleNamespace:
    """The builders of tiny models, each returning the bytes of a `.onnx` file."""
    return BUILDERS


@pytest.fixture
def make_repository(tmp_path: Path) -> MakeRepository:
    """Writes a repository in Triton's layout.

    `make_repository({"m": model, "n": {1: one, 2: two}}, configs={"m": text})`: bytes are version
    1, a mapping goes by version; a config that begins with `{` becomes config.json, another
    config.pbtxt.
    """

    def make(
        models: Mapping[str, bytes | Mapping[int, bytes]],
        configs: Mapping[str, str] = {},
        root: Path | None = None,
    ) -> Path:
        root = root or tmp_path / "models"
        root.mkdir(parents=True, exist_ok=True)
        for name, versions in models.items():
            by_version = {1: versions} if isinstance(versions, bytes) else versions
            for version, content in by_version.items():
                folder = root / name / str(version)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "model.onnx").write_bytes(content)
        for name, text in configs.items():
            kind = "config.json" if text.lstrip().startswith("{") else "config.pbtxt"
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / kind).write_text(text, "utf-8")
        return root

    return make
