"""How far a difference of two versions could be chance: paired bootstrap, McNemar's test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_server.job_process.metrics import Coded, chances_of, losses

Array = np.ndarray[Any, Any]
Weighed = Callable[[Array], float]
"""A metric of rows that count so often each, `[rows]`; NaN where it is not defined."""

MOST_WORK: Final = 4_000_000_000  # rows x resamples x classes for which areas are resampled


class Interval(NamedTuple):
    """Where the difference lies, `b` less `a`; None where too few resamples have one."""

    low: float | None
    high: float | None


def weighed_labels(found: Coded, scores: Array, resamples: int) -> dict[str, Weighed]:
    """The metrics of labels, as functions of how often each row counts."""
    right = (found.truth == found.predicted).astype(np.float64)
    metrics: dict[str, Weighed] = {
        "accuracy": lambda weights: float(weights @ right / weights.sum()),
        **{name: _weighed_macro(found, name) for name in ("precision", "recall", "f1")},
    }
    if len(found.truth) * resamples * scores.shape[1] <= MOST_WORK:
        metrics["roc_auc"] = _weighed_auc(found.truth, scores)
    chances = chances_of(scores)
    if chances is not None:
        loss = losses(found.truth, chances)
        metrics["log_loss"] = lambda weights: float(weights @ loss / weights.sum())
    return metrics


def weighed_numbers(truth: Array, values: Array) -> dict[str, Weighed]:
    """The same, of numbers."""
    error = truth - values
    square, size = error**2, np.abs(error)

    def mean(values: Array) -> Weighed:
        return lambda weights: float(weights @ values / weights.sum())

    def r2(weights: Array) -> float:
        centre = weights @ truth / weights.sum()
        spread = weights @ (truth - centre) ** 2
        return float(1.0 - weights @ square / spread) if spread > 0 else math.nan

    mse = mean(square)
    return {
        "mse": mse,
        "rmse": lambda weights: math.sqrt(mse(weights)),
        "mae": mean(size),
        "r2": r2,
    }


def _weighed_macro(found: Coded, name: str) -> Weighed:
    """Macro means; see `metrics`."""
    labels = len(found.labels)
    hit = found.truth == found.predicted

    def mean(weights: Array) -> float:
        true = np.bincount(found.truth, weights, labels)
        told = np.bincount(found.predicted, weights, labels)
        right = np.bincount(found.truth[hit], weights[hit], labels)
        below = {"precision": told, "recall": true, "f1": (true + told) / 2}[name]
        return float(np.mean((right / np.where(below > 0, below, 1.0))[true + told > 0]))

    return mean


def _weighed_auc(truth: Array, scores: Array) -> Weighed:
    """One curve of two classes, else the mean of one against rest; see `metrics.roc_auc`."""
    classes = scores.shape[1]
    two = classes == 2 and len(truth) > 0 and int(truth.max()) < 2
    areas = [_area(truth == one, scores[:, one]) for one in ([1] if two else range(classes))]

    def mean(weights: Array) -> float:
        found = [area(weights) for area in areas]
        known = [area for area in found if not math.isnan(area)]
        return float(np.mean(known)) if known else math.nan

    return mean


def _area(positive: Array, scores: Array) -> Weighed:
    values, place = np.unique(scores, return_inverse=True)

    def area(weights: Array) -> float:
        ones = np.bincount(place[positive], weights[positive], len(values))
        zeros = np.bincount(place[~positive], weights[~positive], len(values))
        pairs = ones.sum() * zeros.sum()
        if pairs == 0:
            return math.nan
        below = np.cumsum(zeros) - zeros
        return float(ones @ (below + zeros / 2) / pairs)

    return area


def resampled(
    a: Mapping[str, Weighed],
    b: Mapping[str, Weighed],
    rows: int,
    resamples: int,
    seed: int,
    progress: Callable[[int, int], object] = lambda done, all_of_them: None,
) -> dict[str, Array]:
    """`[resamples]` differences of each metric that both have; the same rows are drawn for both."""
    names = [name for name in a if name in b]
    found = {name: np.empty(resamples) for name in names}
    for at, weights in enumerate(draws(rows, resamples, seed)):
        for name in names:
            found[name][at] = b[name](weights) - a[name](weights)
        progress(at + 1, resamples)
    return found


def draws(rows: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each row was drawn, with replacement."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = np.bincount(random.integers(0, rows, rows), minlength=rows)
        yield drawn.astype(np.float64)


def interval(differences: Array, confidence: float) -> Interval:
    """By percentiles, over the resamples in which the metric is defined: at least half of them."""
    defined = differences[np.isfinite(differences)]
    if len(defined) * 2 < len(differences) or not len(defined):
        return Interval(None, None)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(float(low), float(high))


def mcnemar(broken: int, fixed: int) -> float:
    """P-value of McNemar's exact test, two-sided: whether as many rows got worse as got better.

    Args:
        broken: Rows that only the first version gets right.
        fixed: Rows that only the second one gets right.
    """
    rows, fewer = broken + fixed, min(broken, fixed)
    if broken == fixed:
        return 1.0
    # The terms of the binomial distribution fall from `fewer` down, ever faster.
    term = math.exp(
        math.lgamma(rows + 1)
        - math.lgamma(fewer + 1)
        - math.lgamma(rows - fewer + 1)
        - rows * math.log(2.0)
    )
    total = 0.0
    for count in range(fewer, -1, -1):
        total += term
        if term < total * 1e-15:
            break
        term *= count / (rows - count + 1)
    return min(2.0 * total, 1.0)
