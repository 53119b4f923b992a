"""Linear regression: least squares, with a penalty on squares (ridge) or on magnitudes (lasso)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from aiaas_server.jobs.recipes.recipe import Training
from aiaas_server.jobs.recipes.scikit import ScaledParams, ScikitRecipe


class LinearRegression(ScikitRecipe[ScaledParams]):
    """Least squares."""

    name = "linear-regression"
    title = "Linear regression"
    description = "A weighted sum of the columns, by least squares. The first thing to try."
    task = "regression"
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


class Ridge(ScikitRecipe[PenaltyParams]):
    """Least squares with a penalty on the squares of the weights."""

    name = "ridge"
    title = "Ridge regression"
    description = "Linear regression that holds its weights small: for many or alike columns."
    task = "regression"
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


class Lasso(ScikitRecipe[LassoParams]):
    """Least squares with a penalty on the magnitudes of the weights."""

    name = "lasso"
    title = "Lasso regression"
    description = "Linear regression that leaves out the columns which do not help."
    task = "regression"
    params = LassoParams

    def estimator(self, params: LassoParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import linear_model

        return linear_model.Lasso(
            alpha=params.alpha, max_iter=params.max_iterations, random_state=data.seed
        )
