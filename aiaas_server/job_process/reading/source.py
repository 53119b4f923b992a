"""What every reader is given, and how it says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.core.errors import InvalidInput, PayloadTooLarge

MOST_COLUMNS: Final = 4096
_LONGEST_NAME: Final = 255  # characters
_LONGEST_SHOWN: Final = 64


class Source(NamedTuple):
    """A file that was uploaded: its name, for messages, and where it lies."""

    name: str
    path: Path


class Wanted(NamedTuple):
    """How it is to be read.

    Attributes:
        kinds: By column, where it is to be another than it looks.
        most: Bytes that the files may be, and what is in them once it is taken out.
    """

    kinds: Mapping[str, ColumnKind] = {}
    most: int = 2**40


class TooLarge(PayloadTooLarge):
    """What is in the files is larger than a data set may be."""

    job_code = "too_large"


class BadCell(Exception):
    """A value that does not fit its column.

    Attributes:
        row: Its index, from 0.
        expected, got: What a message tells.
    """

    def __init__(self, row: int, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.row = row


def shown(value: object) -> str:
    """A value in a message."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")


def check_size(name: str, size: int, most: int) -> None:
    """Refuse what is larger than a data set may be.

    Raises:
        TooLarge: It is.
    """
    if size > most:
        raise TooLarge(
            f"{name}: expected at most {most} bytes of rows (max_dataset_bytes), got {size}"
        )


def check_names(where: str, names: Sequence[str], kinds: Mapping[str, ColumnKind]) -> None:
    """Refuse names that no column can have, and kinds of columns that are not there.

    Args:
        where: Begins the message.
    Raises:
        InvalidInput: Too many, none, twice the same, empty, too long, or with control characters.
    """
    if not names:
        raise InvalidInput(f"{where}: expected at least one column, got none")
    if len(names) > MOST_COLUMNS:
        raise InvalidInput(
            f"{where}: expected at most {MOST_COLUMNS} columns, got {len(names)}; numbers that "
            "belong together can be one column of arrays (NPZ, or lists in Parquet)"
        )
    seen: dict[str, int] = {}
    for at, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidInput(
                f"{where}: column {at} has no name; an index is written as one by mistake, "
                "which index=False prevents"
            )
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise InvalidInput(
                f"{where}: column {at}: expected a name of at most {_LONGEST_NAME} printable "
                f"characters, got {shown(name)}"
            )
        if name in seen:
            raise InvalidInput(f"{where}: columns {seen[name]} and {at} are both named '{name}'")
        seen[name] = at
    for name in kinds:
        if name not in seen:
            near = get_close_matches(name, names, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            file = where.partition(",")[0]
            raise InvalidInput(f"kinds: {file} has no column {shown(name)}{hint}")
