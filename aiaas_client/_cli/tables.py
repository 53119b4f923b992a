"""Tables that lose nothing: a column without values is left out, a narrow one has longer lines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from aiaas_client._cli.plain import escape

_GAP = 1
_NARROWEST = 8  # characters of a column whose words are broken


def print_rows(names: Sequence[str], rows: Sequence[Sequence[str]], nothing: str) -> None:
    """Print rows of plain text in the width of the terminal, or `nothing` where there are none."""
    console = Console()
    if rows:
        console.print(table_of(names, rows, console.width))
    else:
        console.print(escape(nothing))


def table_of(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table of plain text, no wider than `width` where that can be.

    Words are broken, those of the widest column first, and never cut: what a cell holds, such as
    the id of a key, can be read and copied at any width.
    """
    kept = [at for at in range(len(names)) if any(row[at] for row in rows)]
    columns = [[names[at], *(row[at] for row in rows)] for at in kept]
    table = Table(box=None, padding=(0, _GAP, 0, 0))
    widths = _widths(columns, width - _GAP * len(columns))
    for column, wide in zip(columns, widths, strict=True):
        table.add_column(escape(column[0]), width=wide, overflow="fold")
    for row in rows:
        table.add_row(*(escape(row[at]) for at in kept))
    return table


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Of each column: its longest line, where there is room, else down to its longest word."""
    widths = [max(map(len, cells)) for cells in columns]
    words = [max(len(word) for cell in cells for word in cell.split() or [""]) for cells in columns]
    for floors in (words, [min(word, _NARROWEST) for word in words]):
        while sum(widths) > room:
            slack = [wide - floor for wide, floor in zip(widths, floors, strict=True)]
            at = max(range(len(widths)), key=lambda at: (slack[at] > 0, widths[at]))
            if slack[at] <= 0:
                break
            widths[at] -= 1
    return widths
