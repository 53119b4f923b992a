"""Telling how far bulk work has come: rich or tqdm if installed, else plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol, TextIO

Report = Callable[[int, int | None], object]
"""Called with the items handed out so far and their total, None when that is not known."""

_SECONDS_BETWEEN_LINES = 1.0


class Progress(Protocol):
    """Shows how many items are done."""

    def advance(self) -> None:
        """One more item has been handed out."""

    def close(self) -> None:
        """The work has ended, one way or another."""


def open_progress(
    wanted: bool | Report, total: int | None, title: str, stream: TextIO | None = None
) -> Progress:
    """Choose how to show progress.

    Args:
        wanted: False for nothing, True for a bar (nothing when `stream` is no terminal), or a
            callable that is told `(done, total)`.
        total: Items to come, if known.
        title: The model's name.
        stream: Where the bar goes; standard error by default.
    """
    if wanted is False:
        return Silent()
    if wanted is not True:
        return Told(wanted, total)
    shown: TextIO | None = stream or sys.stderr  # None in a program without a console
    if shown is None or not shown.isatty():
        return Silent()
    return _rich(total, title, shown) or _tqdm(total, title, shown) or Lines(total, title, shown)


class Silent:
    """Shows nothing."""

    def advance(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Told:
    """Tells a function of the caller's."""

    def __init__(self, report: Report, total: int | None) -> None:
        self._report = report
        self._total = total
        self._done = 0

    def advance(self) -> None:
        """Count and tell."""
        self._done += 1
        self._report(self._done, self._total)

    def close(self) -> None:
        """Nothing."""


class Lines:
    """Plain lines, at most one a second and one at the end."""

    def __init__(
        self,
        total: int | None,
        title: str,
        stream: TextIO,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._suffix = "" if total is None else f" of {total}"
        self._title = title
        self._stream = stream
        self._clock = clock
        self._done = 0
        self._next = clock() + _SECONDS_BETWEEN_LINES

    def advance(self) -> None:
        """Count; write if the last line is old."""
        self._done += 1
        if self._clock() >= self._next:
            self._next = self._clock() + _SECONDS_BETWEEN_LINES
            self._write()

    def close(self) -> None:
        """Write the last line."""
        self._write()

    def _write(self) -> None:
        self._stream.write(f"{self._title}: {self._done}{self._suffix}\n")
        self._stream.flush()


class _Bar:
    def __init__(self, step: Callable[[], object], end: Callable[[], object]) -> None:
        self._step = step
        self._end = end

    def advance(self) -> None:
        """Move the bar."""
        self._step()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._end()


def _rich(total: int | None, title: str, stream: TextIO) -> Progress | None:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        return None
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(file=stream))
    task = bar.add_task(title, total=total)
    bar.start()
    return _Bar(lambda: bar.advance(task), bar.stop)


def _tqdm(total: int | None, title: str, stream: TextIO) -> Progress | None:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    bar = tqdm(total=total, desc=title, file=stream)
    return _Bar(bar.update, bar.close)
