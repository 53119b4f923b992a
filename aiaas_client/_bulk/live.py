"""Showing how a job comes on: a bar with a table of its metrics, or plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from html import escape
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from aiaas_client.protocol.jobs import JobEvent, Progress

Tell = Callable[["Progress"], object]
"""Called with each progress of a job as it is told."""

MOST_ROWS = 10  # of the live table
_SECONDS_BETWEEN_LINES = 1.0


class JobView(Protocol):
    """Shows what a job tells."""

    is_shown: bool
    """Whether anybody sees it."""

    def hear(self, event: JobEvent) -> None:
        """Something was told."""

    def close(self) -> None:
        """Nobody waits any more."""


def open_view(wanted: bool | Tell, title: str, stream: TextIO | None = None) -> JobView:
    """Choose how to show a job.

    Args:
        wanted: False for nothing; True for a bar and a table in a terminal (with rich) or a
            notebook, else lines; or a callable that is told each progress.
        title: What the job is called.
        stream: Where it goes; standard error by default.
    """
    if wanted is False:
        return Hidden()
    if wanted is not True:
        return Teller(wanted)
    if stream is None and (display := _notebook()) is not None:
        return Notebook(Board(title), display)
    shown: TextIO | None = stream or sys.stderr  # None in a program without a console
    if shown is None:
        return Hidden()
    return (_rich(Board(title), shown) if shown.isatty() else None) or Lines(Board(title), shown)


class Hidden:
    """Shows nothing."""

    is_shown = False

    def hear(self, event: JobEvent) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Teller:
    """Tells a function of the caller's."""

    is_shown = True

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def hear(self, event: JobEvent) -> None:
        """Tell of progress, and of nothing else."""
        if event.kind == "progress":
            self._tell(_progress(event))

    def close(self) -> None:
        """Nothing."""


class Board:
    """What has been told of a job: where it is, and a row of metrics for each step."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.state = ""
        self.now: Progress | None = None
        self.names: list[str] = []  # of metrics, in the order they came
        self.rows: list[tuple[str, dict[str, float]]] = []

    def hear(self, event: JobEvent) -> None:
        """Note it."""
        if event.kind == "state":
            attempt = event.data.get("attempt", 1)
            again = f", attempt {attempt}" if isinstance(attempt, int) and attempt > 1 else ""
            self.state = f"{event.data.get('state', '')}{again}"
        elif event.kind == "progress":
            self.now = one = _progress(event)
            if one.metrics:
                self.names += [name for name in one.metrics if name not in self.names]
                step = _step(one) or one.phase
                if self.rows and self.rows[-1][0] == step:
                    self.rows.pop()
                self.rows.append((step, one.metrics))

    @property
    def where(self) -> str:
        """`training, epoch 3 of 10`; before the first progress the state."""
        if self.now is None or self.is_over:
            return self.state
        return ", ".join(part for part in (self.now.phase, _step(self.now)) if part) or self.state

    @property
    def pace(self) -> str:
        """`1,234 rows/s, 8 s left`."""
        if self.now is None or self.is_over:
            return ""
        rate = f"{self.now.rate:,.0f} rows/s" if self.now.rate else ""
        left = "" if self.now.left is None else f"{_span(self.now.left)} left"
        return ", ".join(part for part in (rate, left) if part)

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state.partition(",")[0] in ("succeeded", "failed", "cancelled")

    def cells(self, metrics: dict[str, float]) -> list[str]:
        """A row of the table behind the step."""
        return [_number(metrics.get(name)) for name in self.names]

    def line(self) -> str:
        """All of it in one line."""
        shown = [] if self.is_over or self.now is None else self.now.metrics.items()
        metrics = ", ".join(f"{name} {_number(value)}" for name, value in shown)
        parts = [part for part in (self.where, metrics, self.pace) if part]
        return f"{self.title}: {'; '.join(parts)}"


class Lines:
    """Plain lines, at most one a second, one for each state."""

    is_shown = True

    def __init__(
        self, board: Board, stream: TextIO, clock: Callable[[], float] = monotonic
    ) -> None:
        self._board = board
        self._stream = stream
        self._clock = clock
        self._next = clock()
        self._held = False

    def hear(self, event: JobEvent) -> None:
        """Write, if the last line is old or this is another state."""
        if event.kind == "state":
            self.close()
        self._board.hear(event)
        self._held = event.kind == "progress" or self._held
        if event.kind == "state" or (self._held and self._clock() >= self._next):
            self._write()

    def close(self) -> None:
        """Write what was held back."""
        if self._held:
            self._write()

    def _write(self) -> None:
        self._held = False
        self._next = self._clock() + _SECONDS_BETWEEN_LINES
        self._stream.write(f"{self._board.line()}\n")
        self._stream.flush()


class Notebook:
    """One output of a cell, written over again."""

    is_shown = True

    def __init__(self, board: Board, display: Callable[..., Any]) -> None:
        self._board = board
        self._output = display(self, display_id=True)

    def hear(self, event: JobEvent) -> None:
        """Write it anew, but not for a line of the log."""
        self._board.hear(event)
        if event.kind != "log":
            self._output.update(self)

    def close(self) -> None:
        """It stays as it is."""

    def _repr_html_(self) -> str:
        board = self._board
        head = f"<p>{escape('; '.join(part for part in (board.title, board.where) if part))}"
        now = board.now
        if now is not None and now.total and not board.is_over:
            head += f' <progress value="{now.step}" max="{now.total}"></progress>'
        head += f" {escape(board.pace)}</p>"
        names = _html_row("th", ["", *board.names])
        rows = (_html_row("td", [step, *board.cells(m)]) for step, m in board.rows[-MOST_ROWS:])
        return f"{head}<table>{names}{''.join(rows)}</table>" if board.rows else head


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


class _Live:
    """A bar above the last rows of the table, drawn by rich."""

    is_shown = True

    def __init__(self, board: Board, live: Any, draw: Callable[[Board], Any]) -> None:
        self._board = board
        self._live = live
        self._draw = draw
        live.start()

    def hear(self, event: JobEvent) -> None:
        """Draw it anew, a few times a second."""
        self._board.hear(event)
        self._live.update(self._draw(self._board))

    def close(self) -> None:
        """Leave it as it is."""
        self._live.stop()


def _rich(board: Board, stream: TextIO) -> JobView | None:
    try:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.markup import escape as plain
        from rich.progress_bar import ProgressBar
        from rich.table import Column, Table
        from rich.text import Text
    except ImportError:
        return None

    def draw(board: Board) -> Any:
        head = Table.grid(padding=(0, 2))
        now = board.now
        total = now.total if now is not None and now.total else None
        done = 0 if now is None else now.step
        is_over = board.is_over
        bar = ProgressBar(total or 1, (total or 1) if is_over else done if total else 0, width=32)
        head.add_row(Text(f"{board.title}: {board.where}"), bar, Text(board.pace))
        if not board.rows:
            return head
        named = [Column(plain(name), overflow="fold") for name in board.names]
        table = Table(Column(no_wrap=True), *named, box=None)
        for step, metrics in board.rows[-MOST_ROWS:]:
            table.add_row(Text(step), *board.cells(metrics))
        return Group(head, table)

    console = Console(file=stream)
    return _Live(board, Live(draw(board), console=console, refresh_per_second=8), draw)


def _notebook() -> Callable[..., Any] | None:
    """What displays in a notebook; None elsewhere, a shell of IPython too."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    display: Callable[..., Any] = sys.modules["IPython.display"].display
    return display


def _progress(event: JobEvent) -> Progress:
    from aiaas_client.protocol.jobs import Progress

    return Progress.model_validate(event.data)


def _step(one: Progress) -> str:
    """`epoch 3 of 10`."""
    if not one.step and not one.total:
        return ""
    unit = one.unit.removesuffix("s") or "step"
    return f"{unit} {one.step} of {one.total}" if one.total else f"{unit} {one.step}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _span(seconds: float) -> str:
    """`8 s`, `3 min`, `1.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
