"""How good answers are: plain dictionaries of numbers, `None` where a metric is not defined.

Definitions are scikit-learn's. A truth that the model has no class for is a wrong answer: it has a
row in the confusion matrix, and probability 0 in the log loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

BINS: Final = 10  # of the calibration
_ROUNDING: Final = 1e-3  # of a row of probabilities whose sum is 1; answers are rounded


class Coded(NamedTuple):
    """Truth and answers as indices into `labels`: the classes, then what only the truth knows."""

    labels: list[str]
    truth: Array
    predicted: Array


def coded(truth: Array, scores: Array, classes: Sequence[str], told: Array | None = None) -> Coded:
    """The answer of each row beside the truth; see `classification_metrics`."""
    named = set(truth.tolist()) | set([] if told is None else told.tolist())
    labels = [*classes, *sorted({str(label) for label in named} - set(classes))]
    place = {label: index for index, label in enumerate(labels)}
    if told is None:
        best = np.argmax(scores, axis=1) if len(scores) else np.empty(0, np.int64)
    else:
        best = np.array([place[str(label)] for label in told], np.int64)
    return Coded(labels, np.array([place[str(label)] for label in truth], np.int64), best)


def classification_metrics(
    truth: Array, scores: Array, classes: Sequence[str], told: Array | None = None
) -> dict[str, Any]:
    """All metrics of labels.

    Args:
        truth: `[rows]` of texts.
        scores: `[rows, classes]`, without NaN.
        classes: Labels of the columns.
        told: `[rows]` of texts: the answers, where they are not those of the greatest score.
    """
    found = coded(truth, scores, classes, told)
    counts = confusion(found.truth, found.predicted, len(found.labels))
    chances = chances_of(scores)
    return {
        "rows": len(truth),
        "accuracy": _ratio(np.trace(counts), counts.sum()),
        **_macro(counts),
        "roc_auc": roc_auc(found.truth, scores),
        "log_loss": None if chances is None else log_loss(found.truth, chances),
        "per_class": _per_class(counts, found.labels),
        "confusion": {"labels": found.labels, "counts": counts.tolist()},
        "calibration": None if chances is None else calibration(found.truth, chances),
    }


def regression_metrics(truth: Array, values: Array) -> dict[str, Any]:
    """Errors of numbers.

    Args:
        truth, values: `[rows]`, without NaN.
    """
    if not len(truth):
        return {"rows": 0, "mse": None, "rmse": None, "mae": None, "r2": None}
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told as None
        true = np.asarray(truth, np.float64)
        error = true - np.asarray(values, np.float64)
        mse = float(np.mean(error**2))
        spread = float(np.mean((true - true.mean()) ** 2))
        return {
            "rows": len(truth),
            "mse": _finite(mse),
            "rmse": _finite(math.sqrt(mse)) if mse == mse else None,
            "mae": _finite(float(np.mean(np.abs(error)))),
            "r2": _finite(1.0 - mse / spread) if spread > 0 else None,
        }


def confusion(truth: Array, predicted: Array, labels: int) -> Array:
    """`[labels, labels]` counts; rows are the truth."""
    pairs = np.bincount(truth * labels + predicted, minlength=labels * labels)
    return pairs.reshape(labels, labels)


def _macro(counts: Array) -> dict[str, float | None]:
    """Means over the labels that are true or answered somewhere; undefined ones count as 0."""
    right, true, told = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    present = true + told > 0
    if not present.any():
        return {"precision": None, "recall": None, "f1": None}
    parts = {
        "precision": right / np.maximum(told, 1),
        "recall": right / np.maximum(true, 1),
        "f1": 2 * right / np.maximum(true + told, 1),
    }
    return {name: float(np.mean(values[present])) for name, values in parts.items()}


def _per_class(counts: Array, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    right, true, told = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return {
        label: {
            "precision": _ratio(right[row], told[row]),
            "recall": _ratio(right[row], true[row]),
            "f1": _ratio(2 * right[row], true[row] + told[row]),
            "rows": int(true[row]),
        }
        for row, label in enumerate(labels)
    }


def roc_auc(truth: Array, scores: Array) -> float | None:
    """Area under the curve: of two classes the second one's, of more the mean of one against rest.

    Classes that are true of no row, or of all, have none.

    Args:
        truth: `[rows]`, index of the class, or more where the model has no such class.
        scores: `[rows, classes]`.
    """
    classes = scores.shape[1]
    two = classes == 2 and len(truth) > 0 and int(truth.max()) < 2
    areas = [_area(truth == one, scores[:, one]) for one in ([1] if two else range(classes))]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if known else None


def _area(positive: Array, scores: Array) -> float | None:
    """Share of the pairs of a positive and a negative that are in order; ties count half."""
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[place]  # of equal scores their mean rank, from 1
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def chances_of(scores: Array) -> Array | None:
    """The scores where they are probabilities, else None."""
    if not len(scores) or not scores.shape[1] or scores.min() < 0:
        return None
    sums = scores.sum(axis=1, dtype=np.float64)
    if np.any(np.abs(sums - 1.0) > _ROUNDING):
        return None
    return scores.astype(np.float64)


def log_loss(truth: Array, chances: Array) -> float:
    """Mean of the `losses`."""
    return float(np.mean(losses(truth, chances)))


def losses(truth: Array, chances: Array) -> Array:
    """`[rows]` `-log` of the probability of the truth, which is held above the smallest step."""
    step = np.finfo(np.float64).eps
    held = np.concatenate([chances, np.zeros((len(chances), 1))], axis=1)
    true = held[np.arange(len(truth)), np.minimum(truth, chances.shape[1])]
    found: Array = -np.log(np.clip(true, step, 1.0 - step))
    return found


def calibration(truth: Array, chances: Array) -> dict[str, Any]:
    """Whether answers of 80 % are right in 80 of 100 rows: by bins of the best probability.

    Returns:
        `edges` of the bins, and for each the mean of what was `predicted`, the share of rows that
        were right (`observed`), both None in empty bins, and `rows`; `error` is the mean distance
        of the two, weighed by rows.
    Source: Guo et al. 2017, *On Calibration of Modern Neural Networks*.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    best = np.clip(chances.max(axis=1), 0.0, 1.0)
    right = np.argmax(chances, axis=1) == truth
    place = np.searchsorted(edges[1:-1], best)
    rows = np.bincount(place, minlength=BINS)
    told = np.bincount(place, weights=best, minlength=BINS)
    seen = np.bincount(place, weights=right, minlength=BINS)
    return {
        "edges": [round(float(edge), 6) for edge in edges],
        "predicted": [_ratio(a, n) for a, n in zip(told, rows, strict=True)],
        "observed": [_ratio(a, n) for a, n in zip(seen, rows, strict=True)],
        "rows": rows.tolist(),
        "error": float(np.abs(told - seen).sum() / len(truth)),
    }


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
