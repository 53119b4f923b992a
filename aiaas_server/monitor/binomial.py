"""How likely chance alone makes so many of so many."""

from __future__ import annotations

from math import exp, lgamma, log, log1p
from typing import Final

_NEGLIGIBLE: Final = 1e-12


def chance_of_at_least(hits: int, trials: int, share: float) -> float:
    """P(X ≥ hits) for X ~ Binomial(trials, share).

    1.0, instead of the exact value, where `hits` is no more than expected: only the upper tail
    tells anything.
    """
    if hits <= trials * share or hits <= 0:
        return 1.0
    if share <= 0.0:
        return 0.0
    odds = share / (1.0 - share)  # share < 1: else `hits` would be no more than expected
    term = exp(
        lgamma(trials + 1)
        - lgamma(hits + 1)
        - lgamma(trials - hits + 1)
        + hits * log(share)
        + (trials - hits) * log1p(-share)
    )
    total = 0.0
    for count in range(hits, trials + 1):  # the terms fall from here on, ever faster
        total += term
        if term < total * _NEGLIGIBLE:
            break
        term *= (trials - count) / (count + 1) * odds
    return min(total, 1.0)
