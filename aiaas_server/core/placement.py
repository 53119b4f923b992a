"""Where a batch runs, on the event loop or on a thread: decided by measuring.

Handing a batch to a thread and back costs more than a small model's run, and holding the event
loop for a large one delays everyone. The crossover is kept as a size in input bytes: whatever is
no larger than a batch known to be quick runs inline.
"""

from __future__ import annotations

INLINE_NS = 200_000
"""A batch that takes longer than about this leaves the event loop."""
_STRIKES = 3


class Placement:
    """Learns from measured runs up to which input size a model runs inline.

    Args:
        limit_ns: Longest run for the event loop. Sizes are taken in below three quarters of it
            and given up above five quarters, so that a model near the limit does not swing.
        ceiling: Input bytes known to be quick at the start; -1 is none.
        never: No run belongs on the event loop, however quick: how long the next one takes is
            in the values of its input, as with a graph that has loops.
    """

    __slots__ = ("_give_up_ns", "_limit_ns", "_strikes", "_take_in_ns", "ceiling", "never")

    def __init__(
        self, limit_ns: int = INLINE_NS, ceiling: int = -1, *, never: bool = False
    ) -> None:
        self.never = never
        self.ceiling = ceiling
        self._limit_ns = limit_ns
        self._take_in_ns = limit_ns * 3 // 4
        self._give_up_ns = limit_ns * 5 // 4
        self._strikes = 0

    def copy(self) -> Placement:
        """One that knows the same and goes on learning by itself."""
        return Placement(self._limit_ns, self.ceiling, never=self.never)

    def is_inline(self, size: int) -> bool:
        """Whether a batch of `size` input bytes should run on the event loop."""
        return size <= self.ceiling

    def measured(self, size: int, ns: int) -> None:
        """Take note that a batch of `size` input bytes ran for `ns`.

        One slow run of a small batch may be the machine's doing; three in a row, or one that is
        ten times too slow, are the model's.
        """
        if ns <= self._take_in_ns:
            self._strikes = 0
            if size > self.ceiling and not self.never:
                self.ceiling = size
        elif ns > self._give_up_ns and size <= self.ceiling:
            self._strikes += 1
            if self._strikes >= _STRIKES or ns > 10 * self._give_up_ns:
                self._strikes = 0
                self.ceiling = size - 1
