"""Log-probabilities under the model's own distribution: before penalties, masks and temperature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aiaas_server.core.generation import Chance, Told

Row = npt.NDArray[np.float32]

LEAST = -9999.0  # stands for a probability of 0, as in OpenAI's answers: JSON has no infinity
_BLOCK = 256


class Likelihood(NamedTuple):
    """How likely a token was, and which ones were likeliest, best first.

    Attributes:
        top: `(token, log-probability)`.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def log_total(row: Row) -> float:
    """`log(sum(exp(row)))` of `(V,)` logits; NaN where they are no numbers."""
    most = float(row.max())
    if not math.isfinite(most):
        return math.nan
    return most + math.log(float(np.exp(row - np.float32(most)).sum()))


def likelihood(row: Row, token: int, top: int) -> Likelihood:
    """What is told of one choice.

    Args:
        row: `(V,)` float32, as the model gave them.
        top: How many of the likeliest are told.
    """
    total = log_total(row)
    best = tuple((found, _logprob(row, found, total)) for found in likeliest(row, top))
    return Likelihood(_logprob(row, token, total), best)


def likeliest(row: Row, count: int) -> list[int]:
    """The `count` tokens of the largest logits, best first; of equal ones the lower token first."""
    count = min(count, row.size)
    if count <= 0:
        return []
    places = np.arange(row.size) if row.size <= 2 * _BLOCK * count else _places(row, count)
    values = row[places]
    # All that are as large as the last one taken, so that equal ones are told apart by the token.
    least = np.partition(values, values.size - count)[values.size - count]
    kept = np.flatnonzero(values >= least)
    order = np.lexsort((places[kept], -values[kept]))[:count]
    return [int(token) for token in places[kept][order]]


def told(token: int, found: Likelihood, text: Callable[[int], bytes]) -> Told:
    """The same with the tokens' texts, as answers have it."""
    best = tuple(Chance(other, text(other), logprob) for other, logprob in found.top)
    return Told(Chance(token, text(token), found.logprob), best)


def probabilities(row: Row, tokens: Sequence[int]) -> tuple[float, ...]:
    """Of `tokens`, with `(V,)` logits as the model gave them."""
    total = log_total(row)
    return tuple(math.exp(float(row[token]) - total) for token in tokens)


def _places(row: Row, count: int) -> npt.NDArray[np.int64]:
    """Ascending tokens among which the `count` largest are.

    These lie in the blocks of the `count` largest maxima; the tail is always looked at.
    """
    whole = row.size // _BLOCK * _BLOCK
    most = row[:whole].reshape(-1, _BLOCK).max(axis=1)
    least = np.partition(most, most.size - count)[most.size - count]
    blocks = np.flatnonzero(most >= least)
    inside = (blocks[:, None] * _BLOCK + np.arange(_BLOCK)).ravel()
    return np.concatenate([inside, np.arange(whole, row.size)])


def _logprob(row: Row, token: int, total: float) -> float:
    found = float(row[token]) - total
    return found if found > LEAST else LEAST  # NaN too
