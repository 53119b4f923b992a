"""What a batch costs, learned per shape: time = a * units + b, and where such batches should run.

A unit is an item, or an item's element along a padded axis. Batches of one shape key make a
bucket; the least-squares line through its runs forgets old ones, so it follows the machine.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf

from .placement import Placement

_KEEP = 0.95
_OUTLIER = 4.0
_SETTLED = 8.0
_SAME_SIZE = 1e-4
_CAPACITY = 1024


class BatchCost:
    """The line through the runs of one bucket."""

    __slots__ = ("_nxx", "_nxy", "_weight", "_x", "_y")

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._nxx = self._nxy = 0.0

    @property
    def known(self) -> bool:
        """Whether anything was measured."""
        return self._weight > 0

    def measured(self, units: int, ns: int) -> None:
        """Take note of a run. One that took far too long counts as four times the expected."""
        time = float(ns)
        if self._weight > _SETTLED:
            time = min(time, _OUTLIER * self.at_most(units))
        self._weight = self._weight * _KEEP + 1
        self._x = self._x * _KEEP + units
        self._y = self._y * _KEEP + time
        self._nxx = self._nxx * _KEEP + units * units
        self._nxy = self._nxy * _KEEP + units * time

    def line(self) -> tuple[float, float]:
        """`a` and `b` in ns, neither negative; both 0 when nothing was measured.

        As long as all runs were of one size, everything counts as growing with the size.
        """
        weight = self._weight
        if not weight:
            return 0.0, 0.0
        mean, time = self._x / weight, self._y / weight
        spread = self._nxx / weight - mean * mean
        if spread <= _SAME_SIZE * mean * mean:
            return time / max(mean, 1.0), 0.0
        slope = (self._nxy / weight - mean * time) / spread
        if slope <= 0:
            return 0.0, time
        if slope * mean > time:
            return time / mean, 0.0
        return slope, time - slope * mean

    def at_most(self, units: int) -> float:
        """Expected ns of a run of `units`; the careful guess where sizes were never varied."""
        slope, fixed = self.line()
        if not fixed and units * self._weight < self._x:
            return self._y / self._weight
        return slope * units + fixed


class _Bucket:
    __slots__ = ("cost", "placement")

    def __init__(self, placement: Placement) -> None:
        self.cost = BatchCost()
        self.placement = placement


class Costs:
    """The buckets of one model; those longest known are forgotten when there are too many.

    Args:
        placement: What warm-up found out; each new bucket starts from it.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._buckets: dict[Hashable, _Bucket] = {}
        self.quickest_row_ns = 0.0
        """The least time an item took in any batch; grows slowly, as machines change."""

    def is_inline(self, key: Hashable, size: int) -> bool:
        """Whether a batch of `size` input bytes should run on the event loop."""
        bucket = self._buckets.get(key)
        placement = self._placement if bucket is None else bucket.placement
        return placement.is_inline(size)

    def measured(self, key: Hashable, rows: int, units: int, size: int, ns: int) -> None:
        """Take note that a batch of `rows` items, `units` units and `size` bytes ran for `ns`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._add(key)
        bucket.cost.measured(units, ns)
        bucket.placement.measured(size, ns)
        if bucket.placement is not self._placement:
            self._placement.measured(size, ns)
        row_ns = ns / (rows or 1)
        quickest = self.quickest_row_ns * 1.01
        self.quickest_row_ns = row_ns if not quickest or row_ns < quickest else quickest

    def _add(self, key: Hashable) -> _Bucket:
        if len(self._buckets) >= _CAPACITY:
            del self._buckets[next(iter(self._buckets))]
        known = self._placement
        # A model with one bucket needs no second opinion.
        own = known if key is None else known.copy()
        bucket = self._buckets[key] = _Bucket(own)
        return bucket

    def worth(self, key: Hashable) -> float:
        """Units that take as long as what every run costs whatever its size; inf if unknown."""
        bucket = self._buckets.get(key)
        slope, fixed = (0.0, 0.0) if bucket is None else bucket.cost.line()
        return fixed / slope if slope else inf

    def of(self, key: Hashable) -> BatchCost | None:
        """The line of a bucket; None before its first run."""
        bucket = self._buckets.get(key)
        return None if bucket is None else bucket.cost
