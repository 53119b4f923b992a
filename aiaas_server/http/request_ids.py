"""Ids of requests that bring none: unique in this process and, in practice, anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count, repeat


class RequestIds:
    """Counts upwards from a random start.

    Attributes:
        next: Gives one; a function without a frame of its own, since most requests need one.
    """

    __slots__ = ("next",)

    next: Callable[[], bytes]

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin elsewhere, as each process must."""
        prefix = os.urandom(8).hex().encode()
        self.next = map(b"%s-%x".__mod__, zip(repeat(prefix), count(1))).__next__


IDS = RequestIds()
os.register_at_fork(after_in_child=IDS.renew)
