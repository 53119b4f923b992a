"""One timer for many moments: armed for the earliest of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Timer:
    """Has a call made at the earliest of the moments it was told.

    It knows the call only while it is armed: no cycle with whom it calls.

    Attributes:
        due: That moment on the loop's clock; inf when there is none.
    """

    __slots__ = ("_handle", "due")

    def __init__(self) -> None:
        self._handle: asyncio.TimerHandle | None = None
        self.due = inf

    def by(self, when: float, call: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        """Have `call`, always the same, made at `when` at the latest."""
        if when < self.due:
            self.clear()
            self.due = when
            self._handle = loop.call_at(when, call)

    def clear(self) -> None:
        """Forget all moments; also the first thing to do when called."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.due = inf
