"""Random forests: many trees, each on other rows and columns, and their mean."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from aiaas_server.jobs.recipes.decision_tree import TreeParams
from aiaas_server.jobs.recipes.recipe import Training
from aiaas_server.jobs.recipes.scikit import ScikitRecipe


class ForestParams(TreeParams):
    """Of a forest."""

    trees: int = Field(default=100, ge=1, le=2000, description="Trees; more are steadier, larger.")
    max_features: Literal["sqrt", "log2"] | float | None = Field(
        default="sqrt",
        description="Columns that a question chooses among; a share of them, or all.",
    )


class RandomForestClassifier(ScikitRecipe[ForestParams]):
    """A forest of classes."""

    name = "random-forest-classifier"
    title = "Random forest for classes"
    description = "Many trees and their vote. Hard to get wrong; columns need no preparation."
    task = "classification"
    params = ForestParams
    parallel = True

    def estimator(self, params: ForestParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import ensemble

        return ensemble.RandomForestClassifier(**_settings(params, data))


class RandomForestRegressorParams(ForestParams):
    """Values want more columns to choose among."""

    max_features: Literal["sqrt", "log2"] | float | None = Field(
        default=1.0, description="Columns that a question chooses among; a share of them, or all."
    )


class RandomForestRegressor(ScikitRecipe[RandomForestRegressorParams]):
    """A forest of values."""

    name = "random-forest-regressor"
    title = "Random forest for values"
    description = "Many trees and their mean. Hard to get wrong; columns need no preparation."
    task = "regression"
    params = RandomForestRegressorParams
    parallel = True

    def estimator(self, params: RandomForestRegressorParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import ensemble

        return ensemble.RandomForestRegressor(**_settings(params, data))


def _settings(params: ForestParams, data: Training) -> dict[str, Any]:
    return {
        "n_estimators": params.trees,
        "max_depth": params.max_depth,
        "min_samples_leaf": params.min_samples_leaf,
        "max_features": params.max_features,
        "random_state": data.seed,
        "n_jobs": data.workers,
    }
