"""`Gcra`: the generic cell rate algorithm, exact in whole nanoseconds.

A limit is a bucket of `burst` units that fills at `rate` units a second. All that is kept is when
the bucket will be full again; a unit taken puts that off by the time in which one comes. So over
any time `t` never more than `burst + rate * t` units are taken, whatever the order of calls:
rounding always goes against the caller.

Times are nanoseconds of one clock that the caller reads and that may stand still; where it is set
back, nothing is given for the time that comes twice.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Final

SECOND: Final = 1_000_000_000
"""Nanoseconds."""


class Gcra:
    """One limit over time.

    Args:
        rate: Units a second, above 0.
        burst: Units that may come at once when none came for long; at least 1.
        now: Nanoseconds.
        full: Whether the bucket begins full; else it is empty.

    Attributes:
        interval: Nanoseconds in which a unit comes.
        depth: Nanoseconds in which an empty bucket gets full.
        slack: How far `full_at` may lie ahead when a unit is taken.
        full_at: When it will be full.
    """

    __slots__ = ("depth", "full_at", "interval", "slack")

    def __init__(self, rate: float, burst: float, now: int, *, full: bool = True) -> None:
        self._measure(rate, burst)
        self.full_at = now if full else now + self.depth

    def _measure(self, rate: float, burst: float) -> None:
        self.interval = max(1, ceil(SECOND / rate))
        self.depth = max(self.interval, floor(self.interval * max(burst, 1.0)))
        self.slack = self.depth - self.interval

    def wait(self, now: int) -> int:
        """Nanoseconds until a unit may be taken; 0 where one may now. Takes none."""
        return max(self.full_at - self.slack - now, 0)

    def take(self, now: int) -> int:
        """Take a unit, which `wait` allows; how many more may be taken now."""
        full_at, interval = self.full_at, self.interval
        if full_at < now:
            full_at = now
        self.full_at = full_at + interval
        return (self.slack + now - full_at) // interval

    def owe(self, units: int, now: int) -> None:
        """Take units that are used already: beyond those that are there they are a debt."""
        full_at = self.full_at
        self.full_at = (now if full_at < now else full_at) + units * self.interval

    def left(self, now: int) -> int:
        """Whole units that may be taken now."""
        missing = self.full_at - now
        return max((self.depth - (missing if missing > 0 else 0)) // self.interval, 0)

    def change(self, rate: float, burst: float, now: int) -> None:
        """Be another limit from now on: what is left stays, as far as the new bucket holds it,
        and what is owed is owed."""
        kept = self.depth - max(self.full_at - now, 0)
        before = self.interval
        self._measure(rate, burst)
        units = min(kept * self.interval // before, self.depth)  # rounded down, debts too
        self.full_at = now + self.depth - units
