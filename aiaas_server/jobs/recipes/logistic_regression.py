"""Logistic regression: a linear model of the chances of classes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from aiaas_server.jobs.recipes.recipe import Training
from aiaas_server.jobs.recipes.scikit import ScaledParams, ScikitRecipe


class LogisticParams(ScaledParams):
    """Of logistic regression."""

    c: float = Field(
        default=1.0,
        gt=0.0,
        le=1e9,
        description="Inverse weight of the penalty; larger fits closer.",
    )
    max_iterations: int = Field(
        default=1000, ge=10, le=1_000_000, description="Steps of the solver at most."
    )


class LogisticRegression(ScikitRecipe[LogisticParams]):
    """Multinomial, with a penalty on squares."""

    name = "logistic-regression"
    title = "Logistic regression"
    description = "A linear model of classes with probabilities one can rely on. Fast, plain."
    task = "classification"
    params = LogisticParams

    def estimator(self, params: LogisticParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import linear_model

        return linear_model.LogisticRegression(
            C=params.c, max_iter=params.max_iterations, random_state=data.seed
        )
