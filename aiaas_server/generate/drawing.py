"""From weights to one token: which tokens are left to choose from, and the choice among them.

Weights are `exp((logit - largest) / temperature)`, so the likeliest token has 1. Tokens keep their
order: a choice is the place where the running sum passes the drawn share of the whole. Nothing is
sorted but the few largest values, which give the least one that is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aiaas_server.core.generation import Sampling

Weights = npt.NDArray[np.float32]

_BLOCK = 256
_LARGEST = (256, 4096)  # how many are sorted at first, and where these are too few


class Cut(NamedTuple):
    """What is left of a row.

    Attributes:
        least: Smaller weights are dropped.
        equals: Of the weights equal to it, so many are left, the lowest tokens; -1 is all.
    """

    least: np.float32
    equals: int


def cuts(sampling: Sampling) -> bool:
    """Whether any token may be dropped."""
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def cut_of(row: Weights, total: float, sampling: Sampling) -> Cut:
    """Where `(V,)` weights are cut by top-k, then top-p of what that left, and min-p.

    Args:
        total: Sum of the weights.
    Source: Fan et al. 2018 (top-k), Holtzman et al. 2019 (top-p), Nguyen et al. 2024 (min-p).
    """
    share = np.float32(sampling.min_p)  # the largest weight is 1
    limit = min(sampling.top_k or row.size, row.size)
    if limit == row.size and sampling.top_p >= 1.0:
        return Cut(share, -1)
    for size in (*_LARGEST, row.size):
        largest = _largest(row, min(size, row.size))
        kept = _kept(largest, row.size, total, limit, sampling.top_p)
        if kept:
            break
    least = largest[kept - 1]
    if share > least:
        return Cut(share, -1)
    above = int(np.searchsorted(-largest, -least))  # descending, so that the first equal is found
    return Cut(least, kept - above)


def _largest(row: Weights, count: int) -> Weights:
    """The `count` largest weights, descending."""
    found = np.partition(row, row.size - count)[row.size - count :] if count < row.size else row
    return np.sort(found)[::-1]


def _kept(largest: Weights, size: int, total: float, limit: int, top_p: float) -> int:
    """How many tokens are left; 0 where `largest` are too few to tell."""
    known = largest.size == size
    if limit <= largest.size:
        largest = largest[:limit]
        known = True
    elif limit < size:
        return 0
    if top_p >= 1.0:
        return int(largest.size) if known else 0
    running = np.cumsum(largest, dtype=np.float64)
    whole = float(running[-1]) if known else total
    reached = int(np.searchsorted(running, top_p * whole))
    if reached < largest.size:
        return reached + 1
    return int(largest.size) if known else 0


def drop(row: Weights, cut: Cut) -> None:
    """Make 0 of what is cut off, in place."""
    np.multiply(row, row >= cut.least, out=row)
    if cut.equals >= 0:
        row[np.flatnonzero(row == cut.least)[cut.equals :]] = 0


class Sums:
    """Sums of `(B, V)` weights by blocks, from which rows can be drawn in a few steps."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._blocks = _block_sums(weights)  # (B, blocks)
        self.totals = self._blocks.sum(axis=1)  # (B,)

    def update(self, row: int) -> None:
        """The weights of a row have changed."""
        self._blocks[row] = _block_sums(self._weights[row : row + 1])[0]
        self.totals[row] = self._blocks[row].sum()

    def draw(self, shares: Sequence[float]) -> list[int]:
        """One token a row: where its running sum passes `shares[row]` of its total, of [0, 1)."""
        running = np.cumsum(self._blocks, axis=1)  # (B, blocks)
        wanted = np.asarray(shares, np.float64) * running[:, -1]
        return [self._draw(row, running[row], float(wanted[row])) for row in range(len(running))]

    def _draw(self, row: int, running: npt.NDArray[np.float64], wanted: float) -> int:
        block = int(np.searchsorted(running, wanted, side="right"))
        if block == running.size:  # rounding
            block = int(np.flatnonzero(self._blocks[row])[-1])
        before = float(running[block - 1]) if block else 0.0
        inside = self._weights[row, block * _BLOCK : (block + 1) * _BLOCK]
        sums = np.cumsum(inside, dtype=np.float64)
        place = int(np.searchsorted(sums, wanted - before, side="right"))
        if place == sums.size:  # the block's sum was rounded up
            place = int(np.flatnonzero(inside)[-1])
        return block * _BLOCK + place


def _block_sums(weights: Weights) -> npt.NDArray[np.float64]:
    """`(B, V)` -> `(B, ceil(V / block))`; of a row always the same, whatever rows stand beside."""
    rows, size = weights.shape
    whole = size // _BLOCK * _BLOCK
    sums = np.zeros((rows, -(-size // _BLOCK)), np.float64)
    if whole:
        blocks = weights[:, :whole].reshape(rows, -1, _BLOCK)
        sums[:, : whole // _BLOCK] = blocks.sum(axis=2)
    if whole < size:
        sums[:, -1] = weights[:, whole:].sum(axis=1)
    return sums
