"""What a batch costs, learned per shape: time = a * elements + b.

An element is an item, or an item's element along a padded axis. The least-squares line through
the runs of a shape forgets old ones, so it follows the machine.

Where batches of the shape run, on the event loop or on a thread, is decided by measuring too:
handing a batch to a thread and back costs more than a small model's run, and holding the loop for
a large one delays everyone. The crossover is kept as a size in input bytes: what is no larger than
a batch of its shape that was measured to be quick runs inline, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf

from aiaas_server.core.schedule.drift import Drift

INLINE_NS = 200_000
"""A batch that takes longer than about this leaves the event loop."""
_STRIKES = 3
_KEEP = 0.95
_OUTLIER = 4.0
_SETTLED = 8.0
_SAME_SIZE = 1e-4
_CAPACITY = 1024


class BatchCost:
    """The line through the runs of one shape."""

    __slots__ = ("_nxx", "_nxy", "_weight", "_x", "_y")

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._nxx = self._nxy = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether there were runs enough to trust the line beyond the sizes that they had."""
        return self._weight > _SETTLED

    def measured(self, elements: int, ns: int) -> None:
        """Take note of a run. One that took far too long counts as four times the expected."""
        time = float(ns)
        if self.is_settled and time * self._weight > 2 * self._y:  # far above the mean
            time = min(time, _OUTLIER * self.at_most(elements))
        self._weight = self._weight * _KEEP + 1
        self._x = self._x * _KEEP + elements
        self._y = self._y * _KEEP + time
        self._nxx = self._nxx * _KEEP + elements * elements
        self._nxy = self._nxy * _KEEP + elements * time

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

    def share(self, elements: int, batches: float) -> float:
        """Expected ns of `elements` in so many batches; until settled, all grows with the size."""
        if self._x and not self.is_settled:
            return elements * self._y / self._x
        slope, fixed = self.line()
        return slope * elements + fixed * batches

    def at_most(self, elements: int) -> float:
        """Expected ns of a run of `elements`; the careful guess where sizes were little varied."""
        slope, fixed = self.line()
        if elements * self._weight < self._x:  # smaller than the mean
            return slope * elements + fixed if fixed else self._y / self._weight
        return max(slope * elements + fixed, self.share(elements, 1.0))


class Placement:
    """Learns from measured runs up to which input size a model runs inline.

    Args:
        limit_ns: Longest run for the event loop. Sizes are taken in below three quarters of it
            and given up above five quarters, so that a model near the limit does not swing.
        ceiling: Input bytes known to be quick at the start, whatever the shape; -1 is none.
        never: No run belongs on the event loop, however quick: how long the next one takes is
            in the values of its input, as with a graph that has loops.
    """

    __slots__ = (
        "_give_up_ns",
        "_limit_ns",
        "_start",
        "_strikes",
        "_take_in_ns",
        "ceiling",
        "never",
    )

    def __init__(
        self, limit_ns: int = INLINE_NS, ceiling: int = -1, *, never: bool = False
    ) -> None:
        self.never = never
        self.ceiling = self._start = ceiling
        self._limit_ns = limit_ns
        self._take_in_ns = limit_ns * 3 // 4
        self._give_up_ns = limit_ns * 5 // 4
        self._strikes = 0

    def fresh(self) -> Placement:
        """One for another shape, of which nothing was measured yet."""
        return Placement(self._limit_ns, self._start, never=self.never)

    def is_inline(self, size: int) -> bool:
        """Whether a batch of `size` input bytes should run on the event loop."""
        return size <= self.ceiling and not self.never

    def measured(self, size: int, ns: int) -> None:
        """Take note that a batch of `size` input bytes ran for `ns`.

        One slow run of a small batch may be the machine's doing; three in a row, or one that is
        ten times too slow, are the model's.
        """
        if ns <= self._take_in_ns:
            self._strikes = 0
            if size > self.ceiling:
                self.ceiling = size
        else:
            self.failed(size, ns)

    def failed(self, size: int, ns: int) -> None:
        """Take note that one failed after `ns`: no evidence of being quick, but of being slow."""
        if ns > self._give_up_ns and size <= self.ceiling:
            self._strikes += 1
            if self._strikes >= _STRIKES or ns > 10 * self._give_up_ns:
                self._strikes = 0
                self.ceiling = size - 1


class _Shape:
    __slots__ = ("cost", "placement")

    def __init__(self, placement: Placement) -> None:
        self.cost = BatchCost()
        self.placement = placement


class Costs:
    """What is known of each shape; those longest known are forgotten when there are too many.

    Args:
        placement: What warm-up found out, of the one shape of a model that has only one; what is
            measured of a shape says nothing of another.

    Attributes:
        mean_run_ns: The mean time of recent runs, of any shape.
        drift: How far runs are off what was expected of them.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._shapes: dict[Hashable, _Shape] = {}
        self._rows = self._rows_ns = 0.0
        self.mean_run_ns = 0.0
        self._longest_run_ns = 0.0
        self.drift = Drift()

    def is_inline(self, key: Hashable, size: int) -> bool:
        """Whether a batch of `size` input bytes should run on the event loop."""
        shape = self._shapes.get(key)
        placement = self._placement_of_new(key) if shape is None else shape.placement
        return placement.is_inline(size)

    def measured(self, key: Hashable, rows: int, elements: int, size: int, ns: int) -> None:
        """Take note that a batch ran for `ns`.

        Args:
            rows: Its items.
            elements: What its time grows with.
            size: Its input bytes.
        """
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._add(key)
        shape.cost.measured(elements, ns)
        shape.placement.measured(size, ns)
        self.mean_run_ns += (ns - self.mean_run_ns) / 8
        self._longest_run_ns = max(self._longest_run_ns * 0.99, ns)
        self._rows = self._rows * _KEEP + rows
        self._rows_ns = self._rows_ns * _KEEP + ns

    def failed(self, key: Hashable, size: int, ns: int) -> None:
        """Take note that a batch of `size` input bytes failed after `ns`."""
        shape = self._shapes.get(key)
        placement = self._placement_of_new(key) if shape is None else shape.placement
        placement.failed(size, ns)

    def expected(self, key: Hashable, elements: int, batches: float, other_rows: int) -> float:
        """The ns that it is expected to take to run what waits; 0 for what is unknown.

        Args:
            elements: What waits of shape `key`.
            batches: In how many batches, as full as can be.
            other_rows: Items of other shapes; each is taken for one like those of recent runs.
        """
        others = other_rows * self._rows_ns / self._rows if other_rows and self._rows else 0.0
        cost = self.of(key)
        if cost is None or not elements:
            return others
        return cost.share(elements, max(batches, 1.0)) + others

    @property
    def most_seconds(self) -> float:
        """What a run takes at most, by those of late."""
        return self._longest_run_ns * self.drift.at_most / 1e9

    def worth(self, key: Hashable) -> float:
        """Elements that take as long as what every run costs whatever its size; inf if unknown."""
        shape = self._shapes.get(key)
        slope, fixed = (0.0, 0.0) if shape is None else shape.cost.line()
        return fixed / slope if slope else inf

    def of(self, key: Hashable) -> BatchCost | None:
        """The line of a shape; None before its first run."""
        shape = self._shapes.get(key)
        return None if shape is None else shape.cost

    def _placement_of_new(self, key: Hashable) -> Placement:
        return self._placement if key is None else self._placement.fresh()

    def _add(self, key: Hashable) -> _Shape:
        if len(self._shapes) >= _CAPACITY:
            del self._shapes[next(iter(self._shapes))]
        shape = self._shapes[key] = _Shape(self._placement_of_new(key))
        return shape
