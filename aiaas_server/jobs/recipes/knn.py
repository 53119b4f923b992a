"""k nearest neighbours: the rows that were learned from are the model.

The graph is our own, in float64 up to the distances, which are then rounded to float32: of rows
equally far away the earlier one counts on both sides (scikit-learn takes any of them).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from pydantic import Field

from aiaas_client.protocol.management import MODEL_FILE
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.graph import Graph
from aiaas_server.jobs.recipes.preprocessing import Design, learn_design
from aiaas_server.jobs.recipes.recipe import Array, Exported, Fitted, Recipe, Training, Watch
from aiaas_server.jobs.recipes.scikit import COLUMNS, SCORES, VALUE, ScaledParams, tabular_card
from aiaas_server.jobs.table import Table

_BLOCK: Final = 256  # rows whose distances are in memory at once
_MOST_BYTES: Final = 512 << 20  # of the rows that are kept


class KnnParams(ScaledParams):
    """Of k nearest neighbours."""

    neighbours: int = Field(default=5, ge=1, le=1000, description="Rows that are asked.")


class _Knn(Recipe[KnnParams]):
    params = KnnParams
    kinds = COLUMNS
    modules: ClassVar[tuple[str, ...]] = ("onnx",)

    def fit(self, params: KnnParams, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        if data.weights is not None:
            raise InvalidInput(f"recipe '{self.name}' takes no class_weight")
        if data.features.rows < params.neighbours:
            raise InvalidInput(
                f"parameter 'neighbours': {params.neighbours} are more than the "
                f"{data.features.rows} rows to learn from"
            )
        design = learn_design(data.features, missing=params.missing, scaled=params.scale)
        rows = design.matrix(data.features)
        if rows.nbytes > _MOST_BYTES:
            raise InvalidInput(
                f"recipe '{self.name}' keeps the rows in the model: {rows.nbytes >> 20} MiB are "
                f"more than {_MOST_BYTES >> 20}"
            )
        told = np.eye(len(data.classes))[data.target.astype(np.int64)] if data.classes else None
        values = data.target[:, None].astype(np.float64) if told is None else told
        return FittedKnn(design, rows, values.astype(np.float32), params.neighbours, data.classes)


class FittedKnn(Fitted):
    """Rows, and what each answers.

    Args:
        rows: `[kept, width]` float64.
        values: `[kept, classes]` 0/1, or `[kept, 1]`; float32.
    """

    def __init__(
        self, design: Design, rows: Array, values: Array, neighbours: int, classes: tuple[str, ...]
    ) -> None:
        self._design = design
        # Moved into the middle of what is kept: distances of large numbers would lose their digits.
        self._middle = rows.mean(axis=0)
        self._rows = rows - self._middle
        self._squares = (self._rows**2).sum(axis=1)
        self._values = values
        self._neighbours = neighbours
        self._classes = classes

    def answer(self, features: Table) -> Array:
        """See `Fitted`."""
        matrix = self._design.matrix(features) - self._middle
        blocks = [self._asked(matrix[at : at + _BLOCK]) for at in range(0, len(matrix), _BLOCK)]
        found = np.concatenate(blocks).astype(np.float64)
        return found if self._classes else found[:, 0]

    def _asked(self, matrix: Array) -> Array:
        far = (self._squares - 2.0 * (matrix @ self._rows.T)) + (matrix**2).sum(axis=1)[:, None]
        near = np.argsort(far.astype(np.float32), axis=1, kind="stable")[:, : self._neighbours]
        found: Array = self._values[near].mean(axis=1)
        return found

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        from onnx import TensorProto

        graph = Graph(self._design)
        wide = graph.node("Cast", [graph.ready], "ready_wide", to=TensorProto.DOUBLE)
        moved = graph.node("Sub", [wide, graph.constant("middle", self._middle)], "moved")
        twice = graph.node("MatMul", [moved, graph.constant("rows", 2.0 * self._rows.T)], "twice")
        less = graph.node("Sub", [graph.constant("squares", self._squares), twice], "less")
        square = graph.node("Mul", [moved, moved], "square")
        axis = graph.constant("axis", np.array([1]))
        own = graph.node("ReduceSum", [square, axis], "own", keepdims=1)
        far = graph.node("Cast", [graph.node("Add", [less, own], "far")], "rounded", to=1)
        near = graph.smallest(far, graph.constant("count", np.array([self._neighbours])), "nearest")
        told = graph.node("Gather", [graph.constant("answers", self._values), near], "told")
        output = SCORES if self._classes else VALUE
        graph.node("ReduceMean", [told, axis], output, keepdims=0)
        graph.write(directory / MODEL_FILE, output, self._values.shape[1])
        return Exported(tabular_card(self._design, self._classes))


class KnnClassifier(_Knn):
    """The share of each class among the neighbours."""

    name = "knn-classifier"
    title = "Nearest neighbours for classes"
    description = "Asks the rows most alike. Nothing to tune; it answers slower the more rows."
    task = "classification"


class KnnRegressor(_Knn):
    """The mean of the neighbours."""

    name = "knn-regressor"
    title = "Nearest neighbours for values"
    description = "The mean of the rows most alike. It answers slower the more rows."
    task = "regression"
