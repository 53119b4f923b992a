"""What the recipes of scikit-learn share: a design, an estimator on its matrix, and both as one
graph.

An estimator learns in float64 from values that float32 can hold, as the served model gets them.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import numpy as np
from pydantic import Field

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_client.protocol.management import MODEL_FILE
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.graph import ML_OPSET, OPSET, Graph
from aiaas_server.jobs.recipes.preprocessing import Design, Missing, learn_design
from aiaas_server.jobs.recipes.recipe import (
    Array,
    Exported,
    Fitted,
    Params,
    Recipe,
    TaskKind,
    Training,
    Watch,
)
from aiaas_server.jobs.table import Table

SCORES: Final = "probabilities"
VALUE: Final = "value"
COLUMNS: Final = frozenset[ColumnKind]({"number", "integer", "boolean", "category", "array"})
RARE: Final = 2  # rows of a class at least


class TabularParams(Params):
    """What every recipe over columns has."""

    missing: Missing = Field(
        default="median",
        description="What a gap in a number becomes: the median of its column, its most frequent "
        "value, or the median with a column besides that tells of the gap (indicator).",
    )


class ScaledParams(TabularParams):
    """Of those for which the scale of a column matters."""

    scale: bool = Field(
        default=True, description="Bring numbers to mean 0 and standard deviation 1 first."
    )


P = TypeVar("P", bound=TabularParams)


class ScikitRecipe(Recipe[P]):
    """A recipe whose estimator is scikit-learn's."""

    kinds = COLUMNS
    weighs: ClassVar[bool] = True
    """Whether its estimator takes weights of rows."""
    tolerance: ClassVar[float] = 1e-4

    @abstractmethod
    def estimator(self, params: P, data: Training) -> Any:
        """An estimator that has learned nothing yet."""

    def fit(self, params: P, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        self.check_weights(data)
        scaled = isinstance(params, ScaledParams) and params.scale
        design = learn_design(data.features, missing=params.missing, scaled=scaled)
        estimator = self.estimator(params, data)
        weights = {} if data.weights is None else {"sample_weight": data.weights}
        # scikit-learn sorts the classes, and so do indices: a column of scores is a class.
        target = data.target.astype(np.int64) if self.task == "classification" else data.target
        estimator.fit(design.matrix(data.features), target, **weights)
        self.learned(estimator, watch)
        return FittedScikit(design, estimator, data.classes, self.task, self.tolerance)

    def check_weights(self, data: Training) -> None:
        """Refuse weights that would not be heeded."""
        if data.weights is not None and not self.weighs:
            raise InvalidInput(f"recipe '{self.name}' takes no class_weight")

    def learned(self, estimator: Any, watch: Watch) -> None:
        """What is to be said of an estimator, or done to it, once it has learned."""


class FittedScikit(Fitted):
    """An estimator behind its design."""

    def __init__(
        self,
        design: Design,
        estimator: Any,
        classes: tuple[str, ...],
        task: TaskKind,
        tolerance: float,
    ) -> None:
        self.design = design
        self.estimator = estimator
        self._classes = classes
        self._task = task
        self.tolerance = tolerance

    def answer(self, features: Table) -> Array:
        """See `Fitted`; a class of which nothing was learned has probability 0."""
        matrix = self.design.matrix(features)
        if self._task == "regression":
            return np.asarray(self.estimator.predict(matrix), np.float64).reshape(-1)
        found = np.zeros((len(matrix), len(self._classes)))
        found[:, self.estimator.classes_] = self.estimator.predict_proba(matrix)
        return found

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        graph = Graph(self.design)
        graph.append(converted(self.estimator, len(self.design.names())))
        path = directory / MODEL_FILE
        if self._task == "regression":
            graph.node("Reshape", ["variable", graph.constant("flat", np.array([-1]))], VALUE)
            graph.write(path, VALUE, None)
        else:
            scores = self._spread(graph)
            graph.write(path, scores, len(self._classes))
        return Exported(tabular_card(self.design, self._classes), self.tolerance)

    def _spread(self, graph: Graph) -> str:
        """The scores of all classes, where a fold or a small sample knows only some of them."""
        known = np.asarray(self.estimator.classes_)
        if len(known) == len(self._classes):
            return SCORES
        place = np.zeros((len(known), len(self._classes)), np.float32)
        place[np.arange(len(known)), known] = 1.0
        return graph.node("MatMul", [SCORES, graph.constant("spread", place)], "all_probabilities")


def tabular_card(design: Design, classes: tuple[str, ...]) -> dict[str, Any]:
    """The card of a model that takes the matrix of a design.

    It says of batching that there is nothing to pad: rows are independent, also where a server
    cannot see that from its own made-up rows, which lie far from what was learned.
    """
    card: dict[str, Any] = {"preprocessing": design.card(), "batching": {"pad": {}}}
    if not classes:
        return {"task": "tabular-regression", **card}
    return {"task": "tabular-classification", "labels": list(classes), **card}


def converted(estimator: Any, width: int) -> Any:
    """An estimator as an ONNX model of one float32 input."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "classes_") else None
    with _plain_attributes(), warnings.catch_warnings():
        # skl2onnx 1.20 reads attributes of SVC that scikit-learn 1.9 is about to drop.
        warnings.simplefilter("ignore", FutureWarning)
        return to_onnx(
            estimator,
            name="recipe",  # it would make up another one each time
            initial_types=[("ready", FloatTensorType([None, width]))],
            options=options,
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
        )


@contextmanager
def _plain_attributes() -> Iterator[None]:
    """onnx refuses numpy's integers in attributes, which skl2onnx 1.20 gives to it (of histogram
    gradient boosting).
    """
    from onnx import helper

    original = helper.make_attribute

    def plain(key: str, value: Any, *rest: Any, **named: Any) -> Any:
        return original(key, _plain(value), *rest, **named)

    helper.make_attribute = plain
    try:
        yield
    finally:
        helper.make_attribute = original


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [one.item() if isinstance(one, np.generic) else one for one in value]
    return value


def class_counts(data: Training) -> Mapping[str, int]:
    """Rows of each class."""
    counts = np.bincount(data.target.astype(np.int64), minlength=len(data.classes))
    return dict(zip(data.classes, counts.tolist(), strict=True))
