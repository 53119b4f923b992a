"""A network of one hidden layer over scikit-learn's digits, as a version with its golden set."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from aiaas_server.jobs.orders import LaidDataset, LaidVersion
from aiaas_server.jobs.table import Field
from tests import graphs
from tests.server.job_process import cards

LABELS = [str(digit) for digit in range(10)]
COLUMNS = [f"p{place}" for place in range(64)]
SPLIT = {"test": 0.3, "by": "stratified", "seed": 7}
CARD: dict[str, Any] = {
    "task": "tabular-classification",
    "labels": LABELS,
    "preprocessing": {"columns": [{"name": name} for name in COLUMNS]},
    "metrics": {"accuracy": 0.5},  # of another data set, whatever it was
    "batching": {"pad": {}},  # as what was trained here says
}


@cache
def rows() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Pixels `(1797, 64)` from 0 to 16, and the digit of each row."""
    found: Any = load_digits()
    return found.data.astype(np.float32), found.target


@cache
def network(hidden: int = 64) -> bytes:
    """`x` (n, 64) -> `probabilities` (n, 10), trained on every other row."""
    pixels, digits = rows()
    trained = MLPClassifier((hidden,), max_iter=25, random_state=0, tol=0.1)
    trained.fit(pixels[::2], digits[::2])
    (first, second), (shift, last) = trained.coefs_, trained.intercepts_
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["h"]),
        helper.make_node("Gemm", ["h", "w2", "b2"], ["z"]),
        helper.make_node("Softmax", ["z"], ["probabilities"], axis=1),
    ]
    constants = {"w1": first, "b1": shift, "w2": second, "b2": last}
    return graphs.model(
        nodes,
        [graphs.value("x", ["n", 64])],
        [graphs.value("probabilities", ["n", 10])],
        **{name: one.astype(np.float32) for name, one in constants.items()},
    )


def dataset(directory: Path) -> LaidDataset:
    """All rows, a column a pixel."""
    pixels, digits = rows()
    fields = [*(Field(name, "number") for name in COLUMNS), Field("digit", "category")]
    values: dict[str, Any] = {name: pixels[:, at].astype(float) for at, name in enumerate(COLUMNS)}
    labels = digits.astype(str).astype(object)
    return cards.dataset(directory / "d.parquet", "d@1", fields, digit=labels, **values)


def version(directory: Path, **golden: Any) -> LaidVersion:
    """`m@3`, with what is given as its golden set."""
    cards.bundle(directory / "m", network(), CARD)
    if golden:
        (directory / "m" / "golden.json").write_text(json.dumps(golden))
    lineage = {"dataset": "d@1", "target": "digit", "split": SPLIT, "features": COLUMNS}
    return cards.version(directory / "m", "m@3", **lineage)
