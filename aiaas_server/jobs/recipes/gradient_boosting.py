"""Gradient boosting over histograms: trees, each of which mends what those before it got wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from aiaas_server.jobs.recipes.preprocessing import learn_design
from aiaas_server.jobs.recipes.recipe import Fitted, Training, Watch
from aiaas_server.jobs.recipes.scikit import FittedScikit, ScikitRecipe, TabularParams


class BoostingParams(TabularParams):
    """Of boosting."""

    rounds: int = Field(default=100, ge=1, le=5000, description="Trees (a class) at most.")
    learning_rate: float = Field(
        default=0.1, gt=0.0, le=1.0, description="How much of an error a tree mends."
    )
    max_leaves: int = Field(default=31, ge=2, le=1024, description="Leaves of a tree at most.")
    max_depth: int | None = Field(
        default=None, ge=1, le=64, description="Questions in a row at most; any number by default."
    )
    min_samples_leaf: int = Field(
        default=20, ge=1, le=1_000_000, description="Rows that a leaf must rest on."
    )
    l2: float = Field(default=0.0, ge=0.0, le=1e9, description="Penalty on the leaves' squares.")
    early_stopping: bool = Field(
        default=False,
        description="Stop when rows that are held out for it gain nothing any more: those of the "
        "split's validation, else a tenth of what is learned from.",
    )
    patience: int = Field(
        default=10, ge=1, le=1000, description="Rounds without gain until it stops early."
    )


class _Boosting(ScikitRecipe[BoostingParams]):
    """What both share: rows for early stopping are given, not drawn."""

    params = BoostingParams

    def settings(self, params: BoostingParams, data: Training) -> dict[str, Any]:
        """Of scikit-learn's estimators."""
        return {
            "max_iter": params.rounds,
            "learning_rate": params.learning_rate,
            "max_leaf_nodes": params.max_leaves,
            "max_depth": params.max_depth,
            "min_samples_leaf": params.min_samples_leaf,
            "l2_regularization": params.l2,
            "early_stopping": params.early_stopping,
            "n_iter_no_change": params.patience,
            "validation_fraction": 0.1,
            "random_state": data.seed,
        }

    def fit(self, params: BoostingParams, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        if not (params.early_stopping and data.validation):
            return super().fit(params, data, watch)
        design = learn_design(data.features, missing=params.missing, scaled=False)
        rows, held_out = data.validation
        estimator = self.estimator(params, data)
        estimator.fit(
            design.matrix(data.features),
            _target(self.task, data.target),
            sample_weight=data.weights,
            X_val=design.matrix(rows),
            y_val=_target(self.task, held_out),
        )
        self.learned(estimator, watch)
        return FittedScikit(design, estimator, data.classes, self.task, self.tolerance)

    def learned(self, estimator: Any, watch: Watch) -> None:
        """See `ScikitRecipe`."""
        watch.log(f"{estimator.n_iter_} rounds of boosting")
        _round_thresholds(estimator)


class GradientBoostingClassifier(_Boosting):
    """Boosting of classes."""

    name = "gradient-boosting-classifier"
    title = "Gradient boosting for classes"
    description = "Trees that mend one another: mostly the best on tables of many rows."
    task = "classification"

    def estimator(self, params: BoostingParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import ensemble

        return ensemble.HistGradientBoostingClassifier(**self.settings(params, data))


class GradientBoostingRegressor(_Boosting):
    """Boosting of values."""

    name = "gradient-boosting-regressor"
    title = "Gradient boosting for values"
    description = "Trees that mend one another: mostly the best on tables of many rows."
    task = "regression"

    def estimator(self, params: BoostingParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import ensemble

        return ensemble.HistGradientBoostingRegressor(**self.settings(params, data))


def _round_thresholds(estimator: Any) -> None:
    """Bring thresholds down to what float32 can hold.

    For values of float32 the same questions; those of the export, which are rounded to nearest,
    would not be: a median that fills gaps often lies upon a threshold.
    """
    for trees in estimator._predictors:
        for tree in trees:
            exact = tree.nodes["num_threshold"]
            with np.errstate(over="ignore"):  # the last bin's is the largest float64
                near = exact.astype(np.float32)
            below = np.nextafter(near, np.float32(-np.inf))
            tree.nodes["num_threshold"] = np.where(near > exact, below, near).astype(np.float64)


def _target(task: str, target: Any) -> Any:
    return target.astype(np.int64) if task == "classification" else target
