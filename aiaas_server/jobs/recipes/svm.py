"""Support vector machines, with a linear kernel or one of radial basis functions.

Of several classes each has a machine of its own against the rest, whose margin a sigmoid turns into
a probability; together they are brought to the sum 1. So the answer is smooth. (The votes of pairs
of classes, which scikit-learn counts, jump where a margin is 0, and rounding decides.)

The graph is our own, in float64, and so are the answers: scikit-learn finds the support vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import Field

from aiaas_client.protocol.management import MODEL_FILE
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.graph import Graph
from aiaas_server.jobs.recipes.preprocessing import Design, learn_design
from aiaas_server.jobs.recipes.recipe import Array, Exported, Fitted, Recipe, Training, Watch
from aiaas_server.jobs.recipes.scikit import (
    COLUMNS,
    RARE,
    SCORES,
    VALUE,
    ScaledParams,
    class_counts,
    tabular_card,
)
from aiaas_server.jobs.table import Table

_MOST_FOLDS: Final = 5  # of the fit of a sigmoid
_BLOCK: Final = 512  # rows whose kernels are in memory at once
_NEVER: Final = -1e3  # of a sigmoid
_LEAST: Final = 1e-12  # of a probability before the sum is 1


class SvmParams(ScaledParams):
    """Of both machines."""

    kernel: Literal["rbf", "linear"] = Field(
        default="rbf", description="Curved boundaries (rbf) or flat ones (linear)."
    )
    c: float = Field(
        default=1.0,
        gt=0.0,
        le=1e9,
        description="Inverse weight of the penalty; larger fits closer.",
    )
    gamma: float | None = Field(
        default=None,
        gt=0.0,
        le=1e9,
        description="Of rbf: how near a row must be to count; by default from the columns' spread.",
    )


class SvmRegressorParams(SvmParams):
    """Of the machine of values."""

    epsilon: float = Field(
        default=0.1,
        ge=0.0,
        le=1e3,
        description="Errors below this cost nothing; in standard deviations of the target.",
    )


class Machines(NamedTuple):
    """Machines over common support vectors.

    Attributes:
        vectors: `[vectors, width]`.
        weights, constants: `[vectors, machines]`, `[machines]`: margins are
            `kernel @ weights + constants`.
        gamma: Of radial basis functions; None of the linear kernel.
        slopes, shifts: `[machines]`: probabilities are `sigmoid(slopes * margins + shifts)`, and
            values `slopes * margins + shifts`.
    """

    vectors: Array
    weights: Array
    constants: Array
    gamma: float | None
    slopes: Array
    shifts: Array

    @classmethod
    def of_none(cls, vectors: Array, machines: int, gamma: float | None) -> Machines:
        """Machines that have learned nothing: probability 0."""
        weights, nought = np.zeros((len(vectors), machines)), np.zeros(machines)
        never = np.full(machines, _NEVER)
        return cls(vectors, weights, nought.copy(), gamma, nought.copy(), never)

    def put(self, at: int, machine: Any, sigmoid: Any) -> None:
        """One that has learned, with the sigmoid that was fitted to its margins."""
        self.weights[machine.support_, at] = machine.dual_coef_[0]
        self.constants[at] = machine.intercept_[0]
        self.slopes[at], self.shifts[at] = -sigmoid.a_, -sigmoid.b_

    def turn(self) -> None:
        """Of two classes: the first machine is the second one seen from the other side."""
        self.weights[:, 0], self.constants[0] = self.weights[:, 1], self.constants[1]
        self.slopes[0], self.shifts[0] = -self.slopes[1], -self.shifts[1]

    def used(self) -> Machines:
        """Without rows that support none; one is kept, also where a constant says it all."""
        rows = np.flatnonzero(self.weights.any(axis=1))
        rows = rows if len(rows) else np.array([0])
        return self._replace(vectors=self.vectors[rows], weights=self.weights[rows])

    def answers(self, matrix: Array) -> Array:
        """`slopes * margins + shifts`, `[rows, machines]`."""
        kernel = matrix @ self.vectors.T
        if self.gamma is not None:
            own = (matrix**2).sum(axis=1)[:, None] + (self.vectors**2).sum(axis=1)
            kernel = np.exp(-self.gamma * np.maximum(own - 2.0 * kernel, 0.0))
        found: Array = (kernel @ self.weights + self.constants) * self.slopes + self.shifts
        return found

    def nodes(self, graph: Graph) -> str:
        """`answers` as nodes."""
        from onnx import TensorProto

        wide = graph.node("Cast", [graph.ready], "ready_wide", to=TensorProto.DOUBLE)
        kernel = graph.node("MatMul", [wide, graph.constant("vectors", self.vectors.T)], "products")
        if self.gamma is not None:
            kernel = self._radial(graph, wide, kernel)
        summed = graph.node("MatMul", [kernel, graph.constant("weights", self.weights)], "summed")
        margins = graph.node(
            "Add", [summed, graph.constant("constants", self.constants)], "margins"
        )
        sloped = graph.node("Mul", [margins, graph.constant("slopes", self.slopes)], "sloped")
        return graph.node("Add", [sloped, graph.constant("shifts", self.shifts)], "shifted_margins")

    def _radial(self, graph: Graph, wide: str, products: str) -> str:
        assert self.gamma is not None, "of radial basis functions"
        squares = graph.node("Mul", [wide, wide], "squares")
        axis = graph.constant("axis_1", np.array([1]))
        own = graph.node("ReduceSum", [squares, axis], "own", keepdims=1)
        theirs = graph.constant("theirs", (self.vectors**2).sum(axis=1))
        both = graph.node("Add", [own, theirs], "both")
        twice = graph.node("Mul", [products, graph.constant("two", np.float64(2.0))], "twice")
        far = graph.node("Sub", [both, twice], "far")
        kept = graph.node("Max", [far, graph.constant("nought", np.float64(0.0))], "distances")
        negative = graph.constant("negative_gamma", np.float64(-self.gamma))
        return graph.node("Exp", [graph.node("Mul", [kept, negative], "near")], "kernel")


class FittedSvm(Fitted):
    """Machines behind their design."""

    def __init__(self, design: Design, machines: Machines, classes: tuple[str, ...]) -> None:
        self._design = design
        self._machines = machines
        self._classes = classes

    def answer(self, features: Table) -> Array:
        """See `Fitted`."""
        matrix = self._design.matrix(features)
        blocks = range(0, max(len(matrix), 1), _BLOCK)
        found = np.concatenate([self._machines.answers(matrix[at : at + _BLOCK]) for at in blocks])
        if not self._classes:
            return found[:, 0]
        with np.errstate(over="ignore"):
            chances = 1.0 / (1.0 + np.exp(-found)) + _LEAST
        shared: Array = chances / chances.sum(axis=1, keepdims=True)
        return shared

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        from onnx import TensorProto

        graph = Graph(self._design)
        found = self._machines.nodes(graph)
        if not self._classes:
            graph.node("Cast", [found], VALUE, to=TensorProto.FLOAT)
            graph.write(directory / MODEL_FILE, VALUE, 1)
            return Exported(tabular_card(self._design, ()))
        single = graph.node("Sigmoid", [found], "single")
        least = graph.constant("least", np.float64(_LEAST))
        chances = graph.node("Add", [single, least], "chances")
        axis = graph.constant("last_axis", np.array([1]))
        total = graph.node("ReduceSum", [chances, axis], "total", keepdims=1)
        shared = graph.node("Div", [chances, total], "shared")
        graph.node("Cast", [shared], SCORES, to=TensorProto.FLOAT)
        graph.write(directory / MODEL_FILE, SCORES, len(self._classes))
        return Exported(tabular_card(self._design, self._classes))


class SvmClassifier(Recipe[SvmParams]):
    """Its margins become probabilities by a sigmoid, fitted on held-out folds of the same rows."""

    name = "svm-classifier"
    title = "Support vector machine for classes"
    description = "Wide margins between classes. Good with few rows; slow above some ten thousand."
    task = "classification"
    params = SvmParams
    kinds = COLUMNS
    modules = ("sklearn", "onnx")
    parallel = True

    def fit(self, params: SvmParams, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        known = {label: rows for label, rows in class_counts(data).items() if rows}
        label, rows = min(known.items(), key=lambda pair: pair[1])
        if rows < RARE:
            raise InvalidInput(
                f"recipe '{self.name}': class '{label}' has one row to learn from; "
                f"at least {RARE} are needed"
            )
        design = learn_design(data.features, missing=params.missing, scaled=params.scale)
        matrix = design.matrix(data.features)
        gamma = gamma_of(params, matrix) if params.kernel == "rbf" else None
        found = Machines.of_none(matrix, len(data.classes), gamma)
        of_two = len(data.classes) == len(known) == 2
        for at, own in enumerate(data.classes):
            if own not in known or (of_two and at == 0):
                continue
            calibrated = _calibrated(params, gamma, matrix, data.target == at, rows, data)
            found.put(at, calibrated.estimator, calibrated.calibrators[0])
            watch.progress(at + 1, len(data.classes), "machines")
        if of_two:
            found.turn()
        return FittedSvm(design, found.used(), data.classes)


def _calibrated(
    params: SvmParams, gamma: float | None, matrix: Array, own: Array, rows: int, data: Training
) -> Any:
    """A machine of one class against the rest, with its sigmoid."""
    from sklearn import calibration, svm

    settings: dict[str, Any] = {"ensemble": False, "cv": min(_MOST_FOLDS, rows)}
    settings["n_jobs"] = data.workers
    machine = svm.SVC(**_settings(params, gamma))
    found = calibration.CalibratedClassifierCV(machine, **settings)
    weights = {} if data.weights is None else {"sample_weight": data.weights}
    found.fit(matrix, own.astype(np.int64), **weights)
    (calibrated,) = found.calibrated_classifiers_
    return calibrated


class SvmRegressor(Recipe[SvmRegressorParams]):
    """A tube around the values; learned from values of mean 0 and deviation 1."""

    name = "svm-regressor"
    title = "Support vector machine for values"
    description = "A smooth curve through the values, insensitive to small errors."
    task = "regression"
    params = SvmRegressorParams
    kinds = COLUMNS
    modules = ("sklearn", "onnx")

    def fit(self, params: SvmRegressorParams, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        from sklearn import svm

        design = learn_design(data.features, missing=params.missing, scaled=params.scale)
        matrix = design.matrix(data.features)
        gamma = gamma_of(params, matrix) if params.kernel == "rbf" else None
        middle, spread = float(data.target.mean()), float(data.target.std()) or 1.0
        machine: Any = svm.SVR(epsilon=params.epsilon, **_settings(params, gamma))
        weights = {} if data.weights is None else {"sample_weight": data.weights}
        machine.fit(matrix, (data.target - middle) / spread, **weights)
        found = Machines.of_none(matrix, 1, gamma)
        found.weights[machine.support_] = machine.dual_coef_.T
        found.constants[:], found.slopes[:], found.shifts[:] = machine.intercept_, spread, middle
        return FittedSvm(design, found.used(), ())


def gamma_of(params: SvmParams, matrix: Array) -> float:
    """As asked, or 1 / (columns x variance), as scikit-learn has it by default."""
    if params.gamma is not None:
        return params.gamma
    spread = float(matrix.var()) or 1.0
    return 1.0 / (int(matrix.shape[1]) * spread)


def _settings(params: SvmParams, gamma: float | None) -> dict[str, Any]:
    return {"kernel": params.kernel, "C": params.c, "gamma": gamma or "scale"}
