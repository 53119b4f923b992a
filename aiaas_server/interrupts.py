"""Ctrl+C while modules are imported.

An exception in the middle of an import has nobody to tell, and a library that is just being set up
may swallow it: the program would go on as if nobody had asked.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """In the block SIGINT ends the process, as a shell expects of a command that it has ended.

    Only for the main thread, and while nothing is open that has to be closed.
    """
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
