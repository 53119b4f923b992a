"""Times in bins of fixed, logarithmic edges: exact to a few per cent, and added up over nodes."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2
from typing import Final

PER_OCTAVE: Final = 16
"""Bins between a time and its double: each is 4.4 % wide."""
SMALLEST: Final = 2.0**-20
"""Seconds; what is quicker counts as that."""
LARGEST: Final = 2.0**12
"""Seconds, more than an hour; what is slower counts as that."""
BINS: Final = 32 * PER_OCTAVE + 1
_ZERO: Final = 20 * PER_OCTAVE  # the bin that begins at one second


class Histogram:
    """Counts by time.

    Attributes:
        bins: A count each, `BINS` of them.
    """

    __slots__ = ("bins",)

    def __init__(self) -> None:
        self.bins = [0] * BINS

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.bins == other.bins

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def count(self) -> int:
        """Of all times."""
        return sum(self.bins)

    def add(self, seconds: float) -> None:
        """Count one time; not from two threads at once."""
        if SMALLEST < seconds < LARGEST:
            self.bins[int(log2(seconds) * PER_OCTAVE + _ZERO)] += 1
        else:
            self.bins[0 if seconds <= SMALLEST else BINS - 1] += 1

    def merge(self, other: Histogram) -> None:
        """Count all that `other` has as well."""
        for place, count in enumerate(other.bins):
            self.bins[place] += count

    def quantile(self, q: float) -> float:
        """Seconds that a share `q` of the times does not exceed, to a bin's width; 0.0 of none."""
        total = self.count
        if not total:
            return 0.0
        left = min(max(ceil(q * total), 1), total)
        place = 0
        while left > self.bins[place]:
            left -= self.bins[place]
            place += 1
        return _edge(place + left / self.bins[place])

    def above(self, seconds: float) -> int:
        """How many times were longer, for sure: those in bins that begin there or later."""
        return sum(self.bins[ceil(_place(seconds)) :])

    def to_json(self) -> dict[str, int]:
        """Only the bins that are not empty, as `from_json` reads them."""
        return {str(place): count for place, count in enumerate(self.bins) if count}

    @classmethod
    def from_json(cls, document: Mapping[str, int]) -> Histogram:
        """What `to_json` gave.

        Raises:
            ValueError: There is no such bin.
        """
        made = cls()
        for place, count in document.items():
            if not 0 <= int(place) < BINS:
                raise ValueError(f"expected bins 0 to {BINS - 1}, got {place}")
            made.bins[int(place)] = int(count)
        return made


def _place(seconds: float) -> float:
    """Where a time lies among the bins, from 0."""
    return log2(min(max(seconds, SMALLEST), LARGEST)) * PER_OCTAVE + _ZERO


def _edge(place: float) -> float:
    """Seconds where a bin begins; between two whole numbers, a time inside the earlier bin."""
    return float(2.0 ** ((place - _ZERO) / PER_OCTAVE))
