"""Linear regression: least squares, with a penalty on squares (ridge) or on magnitudes (lasso).

The graph is our own, in float64: columns that nearly repeat one another get large weights of
opposite signs, whose sum float32 could not hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from aiaas_client.protocol.management import MODEL_FILE
from aiaas_server.jobs.recipes.graph import Graph
from aiaas_server.jobs.recipes.recipe import Exported, Fitted, Training, Watch
from aiaas_server.jobs.recipes.scikit import (
    VALUE,
    FittedScikit,
    ScaledParams,
    ScikitRecipe,
    tabular_card,
)

P = TypeVar("P", bound=ScaledParams)


class FittedLinear(FittedScikit):
    """Weights and a constant."""

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        from onnx import TensorProto

        graph = Graph(self.design)
        wide = graph.node("Cast", [graph.ready], "ready_wide", to=TensorProto.DOUBLE)
        weights = graph.constant("weights", np.reshape(self.estimator.coef_, (-1, 1)))
        constant = graph.constant("intercept", np.reshape(self.estimator.intercept_, (1,)))
        summed = graph.node("Add", [graph.node("MatMul", [wide, weights], "sum"), constant], "all")
        graph.node("Cast", [summed], VALUE, to=TensorProto.FLOAT)
        graph.write(directory / MODEL_FILE, VALUE, 1)
        return Exported(tabular_card(self.design, ()), self.tolerance)


class _Linear(ScikitRecipe[P]):
    task = "regression"

    def fit(self, params: P, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        found = super().fit(params, data, watch)
        assert isinstance(found, FittedScikit), "that of `ScikitRecipe`"
        return FittedLinear(found.design, found.estimator, (), self.task, self.tolerance)


class LinearRegression(_Linear[ScaledParams]):
    """Least squares."""

    name = "linear-regression"
    title = "Linear regression"
    description = "A weighted sum of the columns, by least squares. The first thing to try."
    params = ScaledParams

    def estimator(self, params: ScaledParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import linear_model

        return linear_model.LinearRegression()


class PenaltyParams(ScaledParams):
    """Of ridge and lasso."""

    alpha: float = Field(
        default=1.0, gt=0.0, le=1e9, description="Weight of the penalty; larger is smoother."
    )


class Ridge(_Linear[PenaltyParams]):
    """Least squares with a penalty on the squares of the weights."""

    name = "ridge"
    title = "Ridge regression"
    description = "Linear regression that holds its weights small: for many or alike columns."
    params = PenaltyParams

    def estimator(self, params: PenaltyParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import linear_model

        return linear_model.Ridge(alpha=params.alpha, random_state=data.seed)


class LassoParams(PenaltyParams):
    """`alpha` is relative to the deviation of the columns, hence smaller."""

    alpha: float = Field(
        default=0.1, gt=0.0, le=1e9, description="Weight of the penalty; larger drops more columns."
    )
    max_iterations: int = Field(
        default=5000, ge=10, le=1_000_000, description="Rounds of coordinate descent at most."
    )


class Lasso(_Linear[LassoParams]):
    """Least squares with a penalty on the magnitudes of the weights."""

    name = "lasso"
    title = "Lasso regression"
    description = "Linear regression that leaves out the columns which do not help."
    params = LassoParams

    def estimator(self, params: LassoParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import linear_model

        return linear_model.Lasso(
            alpha=params.alpha, max_iter=params.max_iterations, random_state=data.seed
        )
