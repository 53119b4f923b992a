"""`Pace`: when a checkpoint is due, so that little is lost and little time goes into them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_SOON: Final = 1.0  # seconds until the first one; each one after waits twice as long
_LATEST: Final = 30.0
_SHARE: Final = 10  # the time between two is at least so many times that of writing one


class Pace:
    """Of the checkpoints of one job; `clock` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wait = _SOON
        self._due = clock() + self._wait

    @property
    def is_due(self) -> bool:
        """Whether to write one now."""
        return self._clock() >= self._due

    def write(self, checkpoint: Callable[[], object]) -> None:
        """Write one; how long that takes counts."""
        began = self._clock()
        checkpoint()
        now = self._clock()
        self._wait = min(2 * self._wait, _LATEST)
        self._due = now + max(self._wait, _SHARE * (now - began))
