"""Decision trees: questions about one column at a time."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from aiaas_server.jobs.recipes.recipe import Training
from aiaas_server.jobs.recipes.scikit import ScikitRecipe, TabularParams


class TreeParams(TabularParams):
    """Of one tree."""

    max_depth: int | None = Field(
        default=None, ge=1, le=64, description="Questions in a row at most; any number by default."
    )
    min_samples_leaf: int = Field(
        default=1, ge=1, le=1_000_000, description="Rows that an answer must rest on."
    )


class DecisionTreeClassifier(ScikitRecipe[TreeParams]):
    """One tree of classes."""

    name = "decision-tree-classifier"
    title = "Decision tree for classes"
    description = "One tree of questions, which a person can follow; it tends to learn by heart."
    task = "classification"
    params = TreeParams

    def estimator(self, params: TreeParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import tree

        return tree.DecisionTreeClassifier(
            max_depth=params.max_depth,
            min_samples_leaf=params.min_samples_leaf,
            random_state=data.seed,
        )


class DecisionTreeRegressor(ScikitRecipe[TreeParams]):
    """One tree of values."""

    name = "decision-tree-regressor"
    title = "Decision tree for values"
    description = "One tree of questions, which a person can follow; it tends to learn by heart."
    task = "regression"
    params = TreeParams

    def estimator(self, params: TreeParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import tree

        return tree.DecisionTreeRegressor(
            max_depth=params.max_depth,
            min_samples_leaf=params.min_samples_leaf,
            random_state=data.seed,
        )
