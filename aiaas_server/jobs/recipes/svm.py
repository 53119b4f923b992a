"""Support vector machines, with a linear kernel or one of radial basis functions."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.recipe import Training
from aiaas_server.jobs.recipes.scikit import RARE, ScaledParams, ScikitRecipe, class_counts

_MOST_FOLDS: Final = 5


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
    gamma: Literal["scale", "auto"] | float = Field(
        default="scale",
        description="Of rbf: how near a row must be to count; a number, or reckoned.",
    )


class SvmClassifier(ScikitRecipe[SvmParams]):
    """Its margins become probabilities by a sigmoid, fitted on held-out folds of the same rows."""

    name = "svm-classifier"
    title = "Support vector machine for classes"
    description = "Wide margins between classes. Good with few rows; slow above some ten thousand."
    task = "classification"
    params = SvmParams
    tolerance = 1e-3

    def estimator(self, params: SvmParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import calibration, svm

        label, rows = min(class_counts(data).items(), key=lambda pair: pair[1] or 1 << 62)
        if rows < RARE:
            raise InvalidInput(
                f"recipe '{self.name}': class '{label}' has one row to learn from; "
                f"at least {RARE} are needed"
            )
        machine = svm.SVC(kernel=params.kernel, C=params.c, gamma=gamma_of(params))
        return calibration.CalibratedClassifierCV(
            machine, ensemble=False, cv=min(_MOST_FOLDS, rows), n_jobs=data.workers
        )


class SvmRegressorParams(SvmParams):
    """Of the machine of values."""

    epsilon: float = Field(
        default=0.1,
        ge=0.0,
        le=1e9,
        description="Errors below this cost nothing; in the target's unit.",
    )


class SvmRegressor(ScikitRecipe[SvmRegressorParams]):
    """A tube around the values."""

    name = "svm-regressor"
    title = "Support vector machine for values"
    description = "A smooth curve through the values, insensitive to small errors."
    task = "regression"
    params = SvmRegressorParams
    tolerance = 1e-3

    def estimator(self, params: SvmRegressorParams, data: Training) -> Any:
        """See `ScikitRecipe`."""
        from sklearn import svm

        return svm.SVR(
            kernel=params.kernel, C=params.c, gamma=gamma_of(params), epsilon=params.epsilon
        )


def gamma_of(params: SvmParams) -> str | float:
    """As scikit-learn takes it.

    Raises:
        InvalidInput: Not above 0.
    """
    if not isinstance(params.gamma, str) and not 0.0 < params.gamma < 1e9:
        raise InvalidInput(f"parameter 'gamma': expected a number above 0, got {params.gamma:g}")
    return params.gamma
