"""How far runs are off what was expected of them.

A run takes longer where other models share its cores, or where the machine has become slower. The
line through the runs of a shape (see `cost`) follows that slowly; until it has, this does. It is a
mean and a mean deviation, as TCP keeps those of round trips (RFC 6298), but quicker to follow.
"""

from __future__ import annotations

_UNSURE = 0.2
_DEVIATIONS = 2.0
_OUTLIER = 4.0


class Drift:
    """The time of runs against what was expected of them, as a ratio.

    Attributes:
        mean: What an expected time is to be multiplied with.
        at_most: The same for a time that is rarely exceeded.
    """

    __slots__ = ("_deviation", "at_most", "mean")

    def __init__(self) -> None:
        self.mean = 1.0
        self._deviation = _UNSURE
        self.at_most = self.mean + _DEVIATIONS * self._deviation

    def measured(self, ratio: float) -> None:
        """Take note of a run that took `ratio` times what was expected of it."""
        off = min(ratio, _OUTLIER) - self.mean
        self.mean += off / 4
        self._deviation += (abs(off) - self._deviation) / 4
        self.at_most = self.mean + _DEVIATIONS * self._deviation
