"""CSV: every cell is read as a text first, so that a bad one is told by line and column.

UTF-8, with a header; parted by commas, or by semicolons or tabs where the header is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
from pyarrow import csv as arrow_csv

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.reading.cells import convert, guess
from aiaas_server.job_process.reading.source import (
    BadCell,
    Source,
    Wanted,
    check_names,
    check_size,
    shown,
)
from aiaas_server.job_process.tables import field_of

_BLOCK: Final = 16 << 20  # bytes, and so the longest row
_PIECE: Final = 1 << 20
_LONGEST_HEADER: Final = 1 << 20


class _Layout(NamedTuple):
    names: list[str]
    delimiter: str


def read(source: Source, wanted: Wanted) -> Any:
    """The table.

    Raises:
        InvalidInput: It cannot be read; names the line, and the column where it is about one.
        TooLarge: It is larger than a data set may be.
    """
    size = source.path.stat().st_size
    if not size:
        raise InvalidInput(f"{source.name}: expected a header and rows, got an empty file")
    check_size(source.name, size, wanted.most)
    csv.field_size_limit(_BLOCK)
    layout = _layout(source)
    check_names(f"{source.name}, line 1", layout.names, wanted.kinds)
    return _typed(source, layout, _texts(source, layout), wanted)


def _layout(source: Source) -> _Layout:
    """Columns by the header; the delimiter is the one that occurs most in its first line."""
    try:
        with source.path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(_LONGEST_HEADER)
            delimiter = max(",;\t", key=first.count)
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter), [])
    except UnicodeDecodeError:
        raise _not_utf8(source) from None
    except csv.Error as error:
        raise InvalidInput(f"{source.name}, line 1: {error}") from None
    return _Layout([name.strip() for name in header], delimiter)


def _texts(source: Source, layout: _Layout) -> list[Any]:
    """The columns, the last one first, so that each can be taken out of the list."""
    uneven = False

    def note(row: Any) -> str:
        nonlocal uneven
        uneven = True
        return "skip"

    try:
        found = arrow_csv.read_csv(
            source.path,
            read_options=arrow_csv.ReadOptions(column_names=layout.names, block_size=_BLOCK),
            parse_options=arrow_csv.ParseOptions(
                delimiter=layout.delimiter, newlines_in_values=True, invalid_row_handler=note
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(layout.names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        raise _unreadable(source, layout, str(error)) from None
    if uneven:
        raise _wrong_number(source, layout)
    if found.num_rows < 2:
        raise InvalidInput(f"{source.name}: expected rows below the header, got none")
    _check_end(source, layout, found)
    columns: list[Any] = found.slice(1).columns  # the header was read as a row
    return columns[::-1]


def _typed(source: Source, layout: _Layout, texts: list[Any], wanted: Wanted) -> Any:
    fields, columns = [], []
    for name in layout.names:
        column = texts.pop()  # as soon as it is converted, it is free
        kind: ColumnKind = wanted.kinds.get(name) or guess(column)
        if kind in ("array", "image"):
            raise InvalidInput(f"kinds: column '{name}': a CSV file holds no {kind}s")
        try:
            column = convert(column, kind)
        except BadCell as error:
            line = _line_of(source.path, layout, error.row)
            hint = "" if name in wanted.kinds else f"; kinds={{'{name}': 'text'}} reads it as it is"
            raise InvalidInput(
                f"{source.name}, line {line}, column '{name}': {error}{hint}"
            ) from None
        fields.append(field_of(name, column.type, kind))
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


# What is wrong, looked for once something is


def _check_end(source: Source, layout: _Layout, found: Any) -> None:
    """A quote that is never closed makes one cell of the rest of the file: that is no row."""
    last = found.slice(max(0, found.num_rows - 1)).to_pylist()
    if not any(text and "\n" in text for row in last for text in row.values()):
        return
    begins = 1
    with source.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=layout.delimiter, strict=True)
        try:
            for _ in reader:
                begins = reader.line_num + 1
        except csv.Error:
            text = "a quote is opened here and never closed"
            raise InvalidInput(f"{source.name}, line {begins}: {text}") from None


def _records(path: Path, layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each record, the header's first."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(file, delimiter=layout.delimiter)
        line = 1
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1


def _line_of(path: Path, layout: _Layout, row: int) -> int:
    for index, (line, _) in enumerate(_records(path, layout)):
        if index == row + 1:
            return line
    return row + 2


def _wrong_number(source: Source, layout: _Layout) -> InvalidInput:
    expected = len(layout.names)
    for line, cells in _records(source.path, layout):
        if len(cells) != expected:
            return InvalidInput(
                f"{source.name}, line {line}: expected {expected} cells, got {len(cells)}"
            )
    return InvalidInput(f"{source.name}: expected {expected} cells in every line")


def _unreadable(source: Source, layout: _Layout, reason: str) -> InvalidInput:
    if "UTF8" in reason.upper().replace("-", ""):
        return _not_utf8(source)
    last = 1
    try:
        for line, _ in _records(source.path, layout):
            last = line
    except csv.Error:
        pass
    if "straddling" in reason or "cannot" in reason.lower():
        return InvalidInput(
            f"{source.name}, line {last}: a quote is opened and not closed, or a row is longer "
            f"than {_BLOCK} bytes"
        )
    return InvalidInput(f"{source.name}: {reason[:300]}")


def _not_utf8(source: Source) -> InvalidInput:
    """Names the line of the first byte that is none."""
    line, rest = 1, b""
    with source.path.open("rb") as file:
        while piece := file.read(_PIECE):
            whole = rest + piece
            end = whole.rfind(b"\n") + 1
            ready, rest = whole[:end], whole[end:]
            if found := _first_undecodable(ready):
                return _at(source, line, ready, found.start)
            line += ready.count(b"\n")
    found = _first_undecodable(rest)
    return _at(source, line, rest, found.start if found else 0)


def _first_undecodable(content: bytes) -> UnicodeDecodeError | None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return error
    return None


def _at(source: Source, line: int, content: bytes, place: int) -> InvalidInput:
    line += content.count(b"\n", 0, place)
    byte = shown(f"0x{content[place]:02x}") if content else "nothing"
    return InvalidInput(f"{source.name}, line {line}: expected UTF-8, got the byte {byte}")
