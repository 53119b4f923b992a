"""Versions and data sets of a few lines, for jobs in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from aiaas_client.protocol.datasets import Column, Dataset
from aiaas_client.protocol.management import Version
from aiaas_server.job_process.tables import write_table
from aiaas_server.jobs.orders import LaidDataset, LaidVersion
from aiaas_server.jobs.table import Field, Table
from tests import graphs


def bundle(directory: Path, model: bytes, card: Mapping[str, Any]) -> Path:
    """A directory as a version has it."""
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(model)
    (directory / "model.json").write_text(json.dumps(card))
    return directory


def version(directory: Path, ref: str, **lineage: Any) -> LaidVersion:
    """It as an order lays it out; `m@3` is version 3 of m."""
    name, number = ref.split("@")
    found = Version(model=name, version=int(number), digest="0" * 64, lineage=lineage)
    return LaidVersion(version=found, path=str(directory))


def dataset(path: Path, ref: str, fields: Sequence[Field], **values: Any) -> LaidDataset:
    """Rows as an order lays them out."""
    name, number = ref.split("@")
    table = Table(fields, {key: np.asarray(value) for key, value in values.items()})
    write_table(table, path)
    columns = [Column(name=field.name, kind=field.kind) for field in fields]
    told = Dataset(name=name, number=int(number), rows=table.rows, columns=columns)
    return LaidDataset(dataset=told, path=str(path))


def sides(bound: float, steepness: float = 4.0) -> bytes:
    """`x` (n, 2) -> `probabilities` (n, 2): how likely the first column is above `bound`."""
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = {
        "weights": np.array([[-steepness, steepness], [0, 0]], np.float32),
        "shift": np.array([steepness * bound, -steepness * bound], np.float32),
    }
    found = [graphs.value("x", ["n", 2])], [graphs.value("probabilities", ["n", 2])]
    return graphs.model(nodes, *found, **constants)


def line(slope: float, shift: float = 0.0) -> bytes:
    """`x` (n, 1) -> `y` (n, 1): a line."""
    nodes = [
        helper.make_node("Mul", ["x", "slope"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["y"]),
    ]
    constants = {"slope": np.float32(slope), "shift": np.float32(shift)}
    found = [graphs.value("x", ["n", 1])], [graphs.value("y", ["n", 1])]
    return graphs.model(nodes, *found, **constants)


def strings(name: str) -> Any:
    """An input of texts, a row each."""
    return graphs.value(name, ["n", 1], TensorProto.STRING)


SIDES: dict[str, Any] = {
    "task": "tabular-classification",
    "labels": ["left", "right"],
    "preprocessing": {"columns": [{"name": "a"}, {"name": "b"}]},
}
LINE: dict[str, Any] = {
    "task": "tabular-regression",
    "preprocessing": {"columns": [{"name": "a"}]},
}
