"""How a run's time grows with its size, and from which size on more gains nothing.

A size is a number of elements: of items, or of parts of them, see `sizing`. For each power of two
the time an element is kept, learned at warm-up and from the runs that serve. What slows all runs
alike, such as a busy machine, says nothing of one size against another: runs of the size that is
most in use move the whole curve, those of another size only their own point.
"""

from __future__ import annotations

from typing import Final

HANDOVER_NS: Final = 60_000
"""About what a run costs beside the model, whatever its size: to a thread, back, and answered."""
WITHIN: Final = 0.03
"""Part of the least time an element that is given up for smaller batches."""
_SURE: Final = 3  # runs that a size gets at once before it counts as worse
_REST: Final = 32  # a size out of use is tried again after so many times what its run takes
_MEMORY: Final = 6  # runs of a size after which the first ones are forgotten
_FOLLOWS: Final = 1 / 8  # how fast the whole curve follows the machine
_OUTLIER: Final = 2.0


class _Point:
    __slots__ = ("ns", "runs")

    def __init__(self, ns: float) -> None:
        self.ns = ns
        """An element's, to be multiplied by the pace."""
        self.runs = 1


class BatchCurve:
    """The times of runs by their size.

    Args:
        most: The largest size there can be; 0 is any.

    Attributes:
        cap: The smallest size whose time an element is near the least; 0 when nothing is known.
        fastest: The size of the least time an element.
        trial: A size to try, so that the cap follows the machine; 0 for none.
    """

    __slots__ = ("_cap", "_most", "_pace", "_points", "_rest_ns", "_top", "_turn", "cap",
                 "fastest", "trial")  # fmt: skip

    def __init__(self, most: int = 0) -> None:
        self._most = most
        self._top = _power(most) if most else 63
        self._points: dict[int, _Point] = {}
        self._pace = 1.0
        self._cap = -1  # its power of two
        self._rest_ns = 0.0
        self._turn = 0
        self.cap = self.fastest = self.trial = 0

    def measured(self, size: int, ns: int) -> None:
        """Take note of a run of `size` elements.

        The least of the first few counts, since a first run allocates; from then on the mean.
        """
        power = min(_power(size), self._top)
        point = self._points.get(power)
        each = max(ns, 1) / size
        if power == self._cap and point is not None and point.runs >= _SURE:
            self._pace *= _moved(each / (point.ns * self._pace), _FOLLOWS)
        else:
            self._note(power, each / self._pace)
        self._rest_ns -= ns
        if self._rest_ns <= 0 and not self.trial:
            self._plan()

    def _note(self, power: int, ns: float) -> None:
        point = self._points.get(power)
        if point is None:
            self._points[power] = _Point(ns)
        else:
            point.runs = min(point.runs + 1, _MEMORY)
            few = point.runs <= _SURE
            point.ns *= min(ns / point.ns, 1.0) if few else _moved(ns / point.ns, 1 / point.runs)
        self._cap = _power(self.knee())
        self.cap = self._size(self._cap)
        self.fastest = self.knee(0.0)
        following = self._points.get(self._cap + 1)
        if self._cap < self._top and (following is None or following.runs < _SURE):
            self.trial = self._size(self._cap + 1)

    def _plan(self) -> None:
        """Choose what to try next, and for how long that is enough."""
        steps = [step for step in (1, 2, -1) if 0 <= self._cap + step <= self._top]
        if steps:
            self._turn += 1
            self.trial = self._size(self._cap + steps[self._turn % len(steps)])
            self._rest_ns = _REST * self.expected(self.trial)

    @property
    def is_full(self) -> bool:
        """Whether the largest size there can be is the one that pays."""
        return 0 < self._most == self.cap

    def knee(self, within: float = WITHIN) -> int:
        """The smallest size whose time an element is within `within` of the least; 0 if unknown."""
        if not self._points:
            return 0
        costs = {power: self._cost(power) for power in self._points}
        enough = min(costs.values()) * (1 + within)
        return self._size(min(power for power, cost in costs.items() if cost <= enough))

    def _cost(self, power: int) -> float:
        """Ns an element, with its part of what every run costs."""
        return self._points[power].ns * self._pace + HANDOVER_NS / self._size(power)

    def limit(self, waiting: int, *, pressed: bool = False) -> int:
        """How large a batch should be at most.

        Args:
            waiting: Elements that wait; where they suffice for a size to try, it is that one.
            pressed: Some that wait would be late at the cap: the fastest size.
        """
        if pressed:
            return self.fastest
        trial = self.trial
        if trial and waiting >= trial:
            self.trial = 0
            return trial
        return self.cap

    def expected(self, elements: int) -> float:
        """Ns of a run of `elements`, as those of the nearest size known; 0 when none is."""
        if not self._points:
            return 0.0
        wanted = _power(elements)
        nearest = min(self._points, key=lambda power: abs(power - wanted))
        return self._points[nearest].ns * self._pace * elements

    def drained(self, elements: int) -> float:
        """Ns that `elements` take one batch after another at the cap; 0 when nothing is known."""
        return self._cost(self._cap) * elements if self._points else 0.0

    def points(self) -> dict[int, int]:
        """Ns of a run by its size, ascending."""
        sizes = {self._size(power): self._points[power].ns for power in sorted(self._points)}
        return {size: round(ns * self._pace * size) for size, ns in sizes.items()}

    def _size(self, power: int) -> int:
        return self._most if self._most and power >= self._top else 1 << power


def _power(size: int) -> int:
    """The exponent of the power of two that is nearest."""
    return (size * 4 // 3).bit_length() - 1


def _moved(ratio: float, weight: float) -> float:
    """What a time is multiplied by when `ratio` of it was measured, which counts as `weight`."""
    return 1 + (min(ratio, _OUTLIER) - 1) * weight
