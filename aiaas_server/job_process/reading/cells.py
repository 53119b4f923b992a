"""Columns of texts, as a CSV file has them: what they hold, and how they become that.

Around numbers, booleans and times blanks count for nothing, and what is in `MISSING` is no value.
Of categories and texts only the empty cell is none, since `NA` may be a country.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
from pyarrow import compute

from aiaas_client.protocol.datasets import MOST_CLASSES, ColumnKind
from aiaas_server.job_process.reading.source import BadCell, shown

pc: Any = compute  # its functions are made when it is loaded: no type checker sees them

MISSING: Final = (
    "", "?", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None",
    "<NA>", "NaT",
)  # fmt: skip
MOSTLY: Final = 0.9
"""Share of cells from which on the others are taken for mistakes, and told."""
_FEW: Final = 10  # cells of which no share says anything
_FEW_CLASSES: Final = 20  # that a column of any length may have
_LONGEST_CLASS: Final = 100  # characters
_TRUE: Final = ("true", "t", "yes", "y", "1", "1.0")
_FALSE: Final = ("false", "f", "no", "n", "0", "0.0")

_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INTEGER: Final = r"^[+-]?[0-9]+(\.0*)?$"
_PLAIN_INTEGER: Final = r"^[+-]?[0-9]+$"
_CODE: Final = r"^[+-]?0[0-9]+$"  # 00123: a number would lose what it begins with
_BOOLEAN: Final = r"(?i)^(true|false)$"
_TIME: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?$"
)
_ZONED: Final = r":.*(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"


def guess(texts: Any) -> ColumnKind:
    """What a column of texts holds; of one without any value, numbers."""
    cells = present(texts)
    count = len(cells) - cells.null_count
    if not count:
        return "number"
    if _matching(cells, _BOOLEAN) == count:
        return "boolean"
    if _mostly(_matching(cells, _NUMBER), count) and not _matching(cells, _CODE):
        return _kind_of_numbers(cells, count)
    if _mostly(_matching(cells, _TIME), count):
        return "time"
    return kind_of_texts(texts)


def _kind_of_numbers(cells: Any, count: int) -> ColumnKind:
    if _matching(cells, _PLAIN_INTEGER) < count:
        return "number"
    try:
        _integers(cells)
    except pa.ArrowInvalid:  # longer than 64 bits: names of things, not counts
        return kind_of_texts(cells)
    return "integer"


def kind_of_texts(texts: Any) -> ColumnKind:
    """`category` where they are short and repeat, `text` otherwise."""
    distinct = pc.count_distinct(texts).as_py()
    longest = pc.max(pc.utf8_length(texts)).as_py() or 0
    repeat = distinct <= MOST_CLASSES and (distinct <= len(texts) / 2 or distinct <= _FEW_CLASSES)
    return "category" if repeat and longest <= _LONGEST_CLASS else "text"


def convert(texts: Any, kind: ColumnKind) -> Any:
    """A column of texts as one of another kind.

    Raises:
        BadCell: The first value that is none of it.
    """
    if kind in ("category", "text"):
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
    expected, pattern, make = _WAYS[kind]
    cells = present(texts)
    fits = pc.match_substring_regex(cells, pattern)
    first = pc.index(fits, pa.scalar(False)).as_py()
    if first < 0:
        try:
            found = make(cells)
        except pa.ArrowInvalid:
            first = first_failing(cells, make)
        else:
            if kind != "number":
                return found
            first = pc.index(pc.is_finite(found), pa.scalar(False)).as_py()
            if first < 0:
                return found
    raise BadCell(first, expected, shown(cells[first].as_py()))


def first_failing(cells: Any, make: Callable[[Any], object]) -> int:
    """The index of the first value with which `make` fails, by halves."""
    start, end = 0, len(cells)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            make(cells.slice(start, middle - start))
        except pa.ArrowInvalid:
            end = middle
        else:
            start = middle
    return start


def present(texts: Any) -> Any:
    """The texts without blanks around them; null where there is no value."""
    trimmed = pc.utf8_trim_whitespace(texts)
    missing = pc.is_in(trimmed, value_set=pa.array(MISSING))
    return pc.if_else(missing, pa.scalar(None, pa.string()), trimmed)


def _matching(cells: Any, pattern: str) -> int:
    found: int = pc.sum(pc.match_substring_regex(cells, pattern)).as_py() or 0
    return found


def _mostly(matching: int, count: int) -> bool:
    return matching == count or (count >= _FEW and matching >= MOSTLY * count)


def _unsigned(cells: Any) -> Any:
    return pc.replace_substring_regex(cells, r"^\+", "")


def _numbers(cells: Any) -> Any:
    return _unsigned(cells).cast(pa.float64())


def _integers(cells: Any) -> Any:
    plain = pc.replace_substring_regex(_unsigned(cells), r"\.0*$", "")
    return plain.cast(pa.int64())


def _booleans(cells: Any) -> Any:
    truth = pc.is_in(pc.utf8_lower(cells), value_set=pa.array(_TRUE))
    return pc.if_else(pc.is_null(cells), pa.scalar(None, pa.bool_()), truth)


def _times(cells: Any) -> Any:
    """Those that name a zone in universal time, the others as they are."""
    zoned = pc.match_substring_regex(cells, _ZONED)
    nothing = pa.scalar(None, pa.string())
    local = pc.if_else(zoned, nothing, cells).cast(pa.timestamp("ns"))
    apart = pc.if_else(zoned, cells, nothing).cast(pa.timestamp("ns", "UTC"))
    return pc.coalesce(local, apart.cast(pa.timestamp("ns")))


_WAYS: Final[dict[str, tuple[str, str, Callable[[Any], Any]]]] = {
    "number": ("a number", _NUMBER, _numbers),
    "integer": ("a whole number", _INTEGER, _integers),
    "boolean": ("true or false", rf"(?i)^({'|'.join((*_TRUE, *_FALSE))})$", _booleans),
    "time": ("a date or time, such as 2024-05-31 or 2024-05-31T17:30:00Z", _TIME, _times),
}
