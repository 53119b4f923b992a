"""Shapley values of any function of present and absent features; pure, and in charge of no clock.

What is explained is a game: `v(S)` is the model's answer when only the features of the coalition
`S` are as in the instance. A generator asks for the values of coalitions, a few at a time, and is
sent them; whoever drives it (a server through a queue, a job in a loop) may send None in place of
any, and gets what is known by then.

* Up to 12 features all coalitions are asked for: the values are exact. First come those of some
  permutations, so that a stop on the way leaves an estimate.
* Beyond, permutations are drawn, each with its reverse (antithetic: what the one overrates, the
  other tends to underrate). Every one adds up to `v(all) - v(none)`, and so does their mean.
* Where not even one permutation may be afforded, each feature is left out once: occlusion, which
  need not add up.

Sources: Shapley 1953, *A Value for n-Person Games*; Castro, Gómez and Tejada 2009, *Polynomial
calculation of the Shapley value based on sampling*; Mitchell et al. 2022, *Sampling Permutations
for Shapley Value Estimation*.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from itertools import islice
from math import factorial
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Coalitions = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

MOST_EXACT: Final = 12
"""Features of which all 4,096 coalitions are looked at."""
PILOTS: Final = 16
"""Permutations and their reverses that are asked for first of an exact explanation."""
LOOK_AFTER: Final = 10
"""Pairs after which it is seen whether they are enough; however they are batched."""
CLOSE_ENOUGH: Final = 0.02
"""Sampling ends when no standard error is above this part of the largest contribution."""


class NotEnough(Exception):
    """It was stopped before anything could be said; `asked` coalitions would have been needed."""

    def __init__(self, asked: int) -> None:
        super().__init__(f"at least {asked} coalitions are needed")
        self.asked = asked


class Estimate(NamedTuple):
    """What was found.

    Attributes:
        values: `(features,)`: what each adds.
        errors: `(features,)`: standard errors of the sampling; 0 where nothing was sampled.
        asked: Coalitions whose values were used.
        complete: False where it was stopped.
    """

    method: Literal["exact", "permutation", "occlusion"]
    values: Floats
    errors: Floats
    asked: int
    complete: bool


Work = Generator[Coalitions, "Array | None", Estimate]
"""Yields coalitions `(some, features)` and is sent their values `(some,)`, or None to stop."""


def shapley(
    features: int,
    base: float,
    prediction: float,
    *,
    most: int,
    seed: int = 0,
    batch: int = 256,
) -> Work:
    """Explain why a prediction is not the base.

    Args:
        features: How many there are.
        base, prediction: The values of no feature and of all.
        most: Coalitions that may be asked for.
        seed: Of the permutations: the same ones however they are batched.
        batch: Coalitions asked for at a time.
    Raises:
        NotEnough: It was stopped before the first permutation, or `most` is below `features`.
    """
    ends = base, prediction
    if features <= 1:
        nothing = np.zeros(features)
        return Estimate("exact", nothing + (prediction - base), nothing, 0, complete=True)
    if features <= MOST_EXACT and 2**features - 2 <= most:
        return (yield from _exact(features, ends, seed, batch))
    if most >= _of_a_pair(features):
        return (yield from _sampled(features, ends, most, seed, batch))
    if most < features:
        raise NotEnough(features)
    return (yield from _left_out(features, prediction, batch))


def carried_out(
    work: Work, value_of: Callable[[Coalitions], Array], goes_on: Callable[[], bool] = lambda: True
) -> Estimate:
    """Drive `work` to its end, or until `goes_on` denies."""
    try:
        asked = next(work)
        while True:
            asked = work.send(value_of(asked) if goes_on() else None)
    except StopIteration as done:
        found: Estimate = done.value
        return found


def _of_a_pair(features: int) -> int:
    """Coalitions of a permutation and its reverse, without the two ends."""
    return 2 * (features - 1)


# Exact


def _exact(features: int, ends: tuple[float, float], seed: int, batch: int) -> Work:
    everyone = 2**features - 1
    values = np.full(everyone + 1, np.nan)
    values[0], values[everyone] = ends
    ranks = np.array(list(islice(_ranks(features, seed), PILOTS)))
    pilots = [_codes(walk) for rank in ranks for walk in _walks(rank)]
    order = np.unique(np.concatenate(pilots), return_index=True)
    first = order[0][np.argsort(order[1])]  # as the permutations come
    rest = np.setdiff1d(np.arange(1, everyone), first)
    line = np.concatenate([first[(first > 0) & (first < everyone)], rest])
    for start in range(0, len(line), batch):
        codes = line[start : start + batch]
        told = yield _members(codes, features)
        if told is None:
            return _as_far_as(ranks, values, start)
        values[codes] = told
    return Estimate("exact", _summed(values, features), np.zeros(features), len(line), True)


def _summed(values: Floats, features: int) -> Floats:
    """Shapley's formula over the values of all coalitions, by their bits."""
    codes = np.arange(2**features)
    sizes = _members(codes, features).sum(axis=1)
    ways = [
        factorial(s) * factorial(features - s - 1) / factorial(features) for s in range(features)
    ]
    weights = np.array([*ways, 0.0])
    found = np.empty(features)
    for feature in range(features):
        without = codes[codes >> feature & 1 == 0]
        gains = values[without | 1 << feature] - values[without]
        found[feature] = weights[sizes[without]] @ gains
    return found


def _as_far_as(ranks: Array, values: Floats, asked: int) -> Estimate:
    """An estimate of the permutations all of whose coalitions are known."""
    gains = []
    for rank in ranks:
        walks = _walks(rank)
        told = [values[_codes(walk)] for walk in walks]
        if not any(np.isnan(one).any() for one in told):
            gains.append([_gained(walk, one) for walk, one in zip(walks, told, strict=True)])
    if not gains:
        raise NotEnough(_of_a_pair(len(ranks[0])))
    return _mean("permutation", np.array(gains), asked, complete=False)


# Sampled


def _sampled(features: int, ends: tuple[float, float], most: int, seed: int, batch: int) -> Work:
    size = _of_a_pair(features)
    drawn = _ranks(features, seed)
    gains: list[list[Floats]] = []
    left = most // size
    while left:
        until = LOOK_AFTER - len(gains) % LOOK_AFTER
        ranks = list(islice(drawn, min(max(batch // size, 1), left, until)))
        left -= len(ranks)
        walks = [walk for rank in ranks for walk in _walks(rank)]
        asked = np.concatenate([walk[1:-1] for walk in walks])
        known = yield from _told(asked, batch)
        gains += _gains(walks, known, ends)
        if len(known) < len(asked):
            if not gains:
                raise NotEnough(size)
            return _mean("permutation", np.array(gains), len(gains) * size, complete=False)
        if len(gains) % LOOK_AFTER == 0:
            found = _mean("permutation", np.array(gains), len(gains) * size, complete=True)
            if _is_close(found):
                return found
    return _mean("permutation", np.array(gains), len(gains) * size, complete=True)


def _told(asked: Coalitions, batch: int) -> Generator[Coalitions, Array | None, Floats]:
    """The values of coalitions, as far as they are told."""
    told: list[Array] = [np.empty(0)]
    for start in range(0, len(asked), batch):
        values = yield asked[start : start + batch]
        if values is None:
            break
        told.append(values)
    return np.concatenate(told)


def _gains(walks: list[Coalitions], known: Floats, ends: tuple[float, float]) -> list[list[Floats]]:
    """What each feature gained in each walk, pair by pair, as far as their values are known."""
    inner = len(walks[0]) - 2
    whole = len(known) // (2 * inner) * 2  # walks, of whole pairs
    found = []
    for index in range(whole):
        values = np.concatenate([ends[:1], known[index * inner : (index + 1) * inner], ends[1:]])
        found.append(_gained(walks[index], values))
    return [list(pair) for pair in zip(found[::2], found[1::2], strict=True)]


def _is_close(found: Estimate) -> bool:
    return bool(found.errors.max() <= CLOSE_ENOUGH * np.abs(found.values).max())


def _mean(
    method: Literal["exact", "permutation"], gains: Floats, asked: int, *, complete: bool
) -> Estimate:
    """The mean over pairs, `(pairs, 2, features)`, and how far it may be off.

    The two of a pair depend on each other, so that pairs are what is counted; of one alone the
    error is what its two halves, taken as independent, say.
    """
    pairs = gains.mean(axis=1)
    if len(pairs) > 1:
        errors = pairs.std(axis=0, ddof=1) / np.sqrt(len(pairs))
    else:
        errors = np.abs(gains[0, 0] - gains[0, 1]) / 2
    return Estimate(method, pairs.mean(axis=0), errors, asked, complete)


# Left out


def _left_out(features: int, prediction: float, batch: int) -> Work:
    told = yield from _told(~np.eye(features, dtype=bool), batch)
    if len(told) < features:
        raise NotEnough(features)
    lost = prediction - told
    return Estimate("occlusion", lost, np.zeros(features), features, True)


# Permutations and coalitions


def _ranks(features: int, seed: int) -> Generator[Array]:
    """Permutations without end: the place of each feature in the order."""
    draw = np.random.default_rng(seed)
    while True:
        yield draw.permutation(features)


def _walks(rank: Array) -> tuple[Coalitions, Coalitions]:
    """The coalitions `(features + 1, features)` as the features come in order, and in reverse."""
    steps = np.arange(len(rank) + 1)[:, None]
    return rank < steps, len(rank) - 1 - rank < steps


def _gained(walk: Coalitions, values: Floats) -> Floats:
    """What each feature changed when it came: `(features,)`."""
    place = walk.argmax(axis=0)  # the first step that has it
    found: Floats = np.diff(values)[place - 1]
    return found


def _codes(coalitions: Coalitions) -> Array:
    """A coalition as a number: bit `i` is feature `i`."""
    bits: Array = coalitions @ (1 << np.arange(coalitions.shape[1]))
    return bits


def _members(codes: Array, features: int) -> Coalitions:
    found: Coalitions = (codes[:, None] >> np.arange(features) & 1).astype(bool)
    return found


# Rows


def masked(
    instance: Mapping[str, Array],
    background: Mapping[str, Array],
    owners: Mapping[str, Array],
    coalitions: Coalitions,
) -> dict[str, Array]:
    """Rows in which the features of a coalition are the instance's, the others a background row's.

    Args:
        instance: `(cells,)` by input.
        background: `(rows, cells)` by input.
        owners: `(cells,)` by input: the feature that each cell belongs to.
        coalitions: `(some, features)`.
    Returns:
        `(some * rows, cells)` by input; the rows of a coalition are neighbours.
    """
    found = {}
    for name, cells in instance.items():
        own = coalitions[:, owners[name]][:, None, :]  # (some, 1, cells)
        rows = np.where(own, cells, background[name][None])  # (some, rows, cells)
        found[name] = rows.reshape(-1, len(cells))
    return found


def averaged(answers: Array, rows: int) -> Floats:
    """The value of each coalition: the mean over the `rows` of its background.

    Args:
        answers: `(some * rows,)`, or `(some * rows, answers)`.
    """
    told = np.asarray(answers, np.float64)
    means: Floats = told.reshape(-1, rows, *told.shape[1:]).mean(axis=1)
    return means
