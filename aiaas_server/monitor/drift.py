"""Has a version's world changed? Counts in bins against those of its reference.

A feature has drifted where two things hold: the difference is more than chance (a chi-square and a
binned Kolmogorov-Smirnov test of two samples, corrected by Holm for all the features and both
tests), and it is large enough to matter (the population stability index, less what chance alone
brings). An index alone cries wolf with few rows: twenty bins that have not drifted at all show
0.3 at 50 rows; a test alone cries wolf with many, where the smallest difference is certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from aiaas_client.protocol.monitoring import Drift, FeatureDrift, Verdict
from aiaas_client.protocol.tensors import Array
from aiaas_server.monitor.profile import Feature, Profile

LEAST_ROWS: Final = 100
LEAST_EXPECTED: Final = 5.0


class Threshold(NamedTuple):
    """When a feature deserves a verdict: rarer than `p_value` by chance, and at least `psi`."""

    p_value: float
    psi: float


DRIFTED: Final = Threshold(1e-4, 0.1)
WARNING: Final = Threshold(1e-2, 0.05)


class _Tested(NamedTuple):
    """One feature before the correction."""

    feature: Feature
    now: Array
    psi: float
    distance: float
    p_value: float


def compare(
    profile: Profile, counts: Sequence[Array], rows: int, *, least_rows: int = LEAST_ROWS
) -> tuple[Verdict, list[str], list[FeatureDrift]]:
    """The verdict on a window, why, and each feature, the worst first.

    Args:
        counts: Of the window, as `Profile.count` made them.
        rows: Items in it.
        least_rows: Fewer are not judged.
    """
    tested = [
        _test(feature, np.asarray(now, np.float64))
        for feature, now in zip(profile.features, counts, strict=True)
    ]
    corrected = holm([one.p_value for one in tested])
    judged = [
        _told(one, p_value, least_rows) for one, p_value in zip(tested, corrected, strict=True)
    ]
    order = {"drifted": 0, "warning": 1, "ok": 2, "few": 3}
    judged.sort(key=lambda one: (order[one.verdict], one.p_value, -one.psi))
    if rows < least_rows:
        return "few", [], judged
    moved = [one for one in judged if one.verdict in ("drifted", "warning")]
    return (moved[0].verdict if moved else "ok"), [_reason(one) for one in moved], judged


def drift_of(
    model: str, version: int, window: int, profile: Profile, counts: Sequence[Array], rows: int
) -> Drift:
    """The verdict as it is told."""
    verdict, reasons, features = compare(profile, counts, rows)
    return Drift(
        model=model,
        version=version,
        window=window,
        verdict=verdict,
        reasons=reasons,
        rows=rows,
        source=profile.source,
        reference_rows=profile.rows,
        features=features,
    )


def score_of(drift: Drift) -> float:
    """The greatest index among the features that are more than chance; 0 where none is."""
    return max((f.psi for f in drift.features if f.p_value < WARNING.p_value), default=0.0)


def _test(feature: Feature, now: Array) -> _Tested:
    before = np.asarray(feature.counts, np.float64)
    if not before.sum() or not now.sum():
        return _Tested(feature, now, 0.0, 0.0, 1.0)
    old, new = _enough_in_each(before, now, ordered=feature.kind == "number")
    chance = chi_square(old, new)
    if feature.kind == "number":
        distance, by_distance = kolmogorov_smirnov(before, now)
        p_value = min(1.0, 2.0 * min(chance, by_distance))  # two tests, the better one counts
    else:
        difference = np.abs(before / before.sum() - now / now.sum()).sum()
        distance, p_value = float(difference) / 2.0, chance
    return _Tested(feature, now, stability(old, new), distance, p_value)


def _told(tested: _Tested, p_value: float, least_rows: int) -> FeatureDrift:
    feature, now, psi, distance, _ = tested
    before = np.asarray(feature.counts, np.float64)
    expected, found = before / max(before.sum(), 1.0), now / max(now.sum(), 1.0)
    verdict: Verdict = "ok"
    if now.sum() < least_rows:
        verdict = "few"
    elif p_value < DRIFTED.p_value and psi >= DRIFTED.psi:
        verdict = "drifted"
    elif p_value < WARNING.p_value and psi >= WARNING.psi:
        verdict = "warning"
    return FeatureDrift(
        name=feature.name,
        role=feature.role,
        kind=feature.kind,
        verdict=verdict,
        psi=round(psi, 6),
        distance=round(distance, 6),
        p_value=p_value,
        rows=int(now.sum()),
        missing=round(float(found[-1]), 6),
        missing_before=round(float(expected[-1]), 6),
        bounds=list(feature.edges if feature.kind == "number" else feature.values),
        expected=[round(float(share), 6) for share in expected],
        found=[round(float(share), 6) for share in found],
    )


def _reason(one: FeatureDrift) -> str:
    return (
        f"{one.role} '{one.name}': {one.verdict}, index {one.psi:.2f}, "
        f"distance {one.distance:.2f}, p {one.p_value:.1e} over {one.rows} rows"
    )


# The statistics


def stability(before: Array, now: Array) -> float:
    """Population stability index of two rows of counts, less its mean where nothing has changed.

    That mean is `(bins - 1) (1/m + 1/n)` for m and n counted; the result is never below 0.
    """
    old = (before + 0.5) / (before.sum() + 0.5 * len(before))
    new = (now + 0.5) / (now.sum() + 0.5 * len(now))
    index = float(((new - old) * np.log(new / old)).sum())
    chance = (len(before) - 1) * (1.0 / float(before.sum()) + 1.0 / float(now.sum()))
    return max(0.0, index - chance)


def chi_square(before: Array, now: Array) -> float:
    """The p-value of two rows of counts being of one distribution; bins empty in both not counted.

    Source: Press et al. 2007, *Numerical Recipes*, 14.3 (two binned samples of unequal size).
    """
    used = (before + now) > 0
    old, new = before[used], now[used]
    if len(old) < 2:
        return 1.0
    ratio = math.sqrt(float(new.sum()) / float(old.sum()))
    statistic = float(((old * ratio - new / ratio) ** 2 / (old + new)).sum())
    return gamma_above((len(old) - 1) / 2.0, statistic / 2.0)


def kolmogorov_smirnov(before: Array, now: Array) -> tuple[float, float]:
    """Greatest distance of the cumulated shares and its p-value; in bins it errs to the safe side.

    Source: Stephens 1970; Press et al. 2007, *Numerical Recipes*, 14.3.
    """
    old, new = float(before.sum()), float(now.sum())
    distance = float(np.abs(np.cumsum(before) / old - np.cumsum(now) / new).max())
    root = math.sqrt(old * new / (old + new))
    scaled = (root + 0.12 + 0.11 / root) * distance
    if scaled < 0.2:
        return distance, 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2.0 * k * k * scaled * scaled) for k in range(1, 101)]
    return distance, min(1.0, max(0.0, 2.0 * sum(terms)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: below a level by chance once in 1 / level looks at all.

    Source: Holm 1979, *A Simple Sequentially Rejective Multiple Test Procedure*.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [1.0] * len(p_values)
    greatest = 0.0
    for place, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = greatest
    return corrected


def gamma_above(shape: float, value: float) -> float:
    """The upper incomplete gamma function Q(shape, value), regularised: 1 at 0, falling to 0.

    Source: Press et al. 2007, *Numerical Recipes*, 6.2.
    """
    if value <= 0.0:
        return 1.0
    front = math.exp(-value + shape * math.log(value) - math.lgamma(shape))
    if value < shape + 1.0:
        return max(0.0, 1.0 - front * _gamma_series(shape, value))
    return min(1.0, front * _gamma_fraction(shape, value))


def _gamma_series(shape: float, value: float) -> float:
    term = total = 1.0 / shape
    for step in range(1, 1000):
        term *= value / (shape + step)
        total += term
        if term < total * 1e-15:
            break
    return total


def _gamma_fraction(shape: float, value: float) -> float:
    """By Lentz's method."""
    tiny = 1e-300
    b = value + 1.0 - shape
    c, d = 1.0 / tiny, 1.0 / b
    found = d
    for step in range(1, 1000):
        a = -step * (step - shape)
        b += 2.0
        d = a * d + b
        d = 1.0 / (d if abs(d) > tiny else tiny)
        c = b + a / c
        c = c if abs(c) > tiny else tiny
        found *= d * c
        if abs(d * c - 1.0) < 1e-15:
            break
    return found


def _enough_in_each(before: Array, now: Array, *, ordered: bool) -> tuple[Array, Array]:
    """Both with bins joined until each may expect a few of either side.

    Ordered bins are joined with their neighbours; categories, the rare ones with one another. The
    last bin, of missing values, stays apart unless it is empty or nearly so.
    """
    total = before + now
    smaller = min(before.sum(), now.sum()) / total.sum()
    order = np.arange(len(total) - 1)
    if not ordered:
        order = order[np.argsort(total[:-1], kind="stable")]
    old: list[float] = []
    new: list[float] = []
    left = right = 0.0
    for place in [*order.tolist(), len(total) - 1]:
        left, right = left + float(before[place]), right + float(now[place])
        if (left + right) * smaller >= LEAST_EXPECTED:
            old.append(left)
            new.append(right)
            left = right = 0.0
    if left or right:
        if old:
            old[-1] += left
            new[-1] += right
        else:
            old.append(left)
            new.append(right)
    return np.array(old), np.array(new)
