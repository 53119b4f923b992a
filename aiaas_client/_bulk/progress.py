"""Telling how far bulk work has come: rich or tqdm if installed, else plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol, TextIO

Report = Callable[[int, int | None], object]
"""Called with the items done so far and their total, None when that is not known."""

_SECONDS_BETWEEN_LINES = 1.0


class Progress(Protocol):
    """Shows how many items are done."""

    def advance(self, count: int = 1) -> None:
        """So many more items are done."""

    def close(self) -> None:
        """The work has ended, one way or another."""


def open_progress(
    wanted: bool | Report,
    total: int | None,
    title: str,
    stream: TextIO | None = None,
    *,
    is_bytes: bool = False,
) -> Progress:
    """Choose how to show progress.

    Args:
        wanted: False for nothing, True for a bar (nothing when `stream` is no terminal), or a
            callable that is told `(done, total)`.
        total: Items to come, if known.
        title: The model's name.
        stream: Where the bar goes; standard error by default.
        is_bytes: Whether items are bytes, and told as such.
    """
    if wanted is False:
        return Silent()
    if wanted is not True:
        return Callback(wanted, total)
    shown: TextIO | None = stream or sys.stderr  # None in a program without a console
    if shown is None or not shown.isatty():
        return Silent()
    bar = _rich(total, title, shown, is_bytes) or _tqdm(total, title, shown, is_bytes)
    return bar or Lines(total, title, shown)


class Silent:
    """Shows nothing."""

    def advance(self, count: int = 1) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Callback:
    """Tells a function of the caller's."""

    def __init__(self, report: Report, total: int | None) -> None:
        self._report = report
        self._total = total
        self._done = 0

    def advance(self, count: int = 1) -> None:
        """Count and tell."""
        self._done += count
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

    def advance(self, count: int = 1) -> None:
        """Count; write if the last line is old."""
        self._done += count
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
    def __init__(self, step: Callable[[int], object], end: Callable[[], object]) -> None:
        self._step = step
        self._end = end

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        self._step(count)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._end()


def _rich(total: int | None, title: str, stream: TextIO, is_bytes: bool) -> Progress | None:
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress
    except ImportError:
        return None
    count = DownloadColumn() if is_bytes else MofNCompleteColumn()
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), count]
    bar = RichProgress(*columns, TimeRemainingColumn(), console=Console(file=stream))
    task = bar.add_task(title, total=total)
    bar.start()
    return _Bar(lambda count: bar.advance(task, count), bar.stop)


def _tqdm(total: int | None, title: str, stream: TextIO, is_bytes: bool) -> Progress | None:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    sizes: dict[str, Any] = {"unit": "B", "unit_scale": True} if is_bytes else {}
    bar = tqdm(total=total, desc=title, file=stream, **sizes)
    return _Bar(bar.update, bar.close)
