"""Payloads of the command line: from files, from standard input, or written out."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aiaas_client._cli.server import UseError
from aiaas_client.protocol.texts import decode_text

FILES = frozenset({"image", "audio", "bytes"})  # kinds of payload that are files as they are
# Endings of files that are handed over; a word with one of them, or with a /, means a file.
SUFFIXES = frozenset(
    [
        "json",
        "csv",
        "txt",
        "md",
        "png",
        "jpg",
        "jpeg",
        "webp",
        "gif",
        "bmp",
        "tif",
        "tiff",
        "wav",
        "flac",
        "ogg",
        "pdf",
        "npy",
    ]
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# What reads as a number where nothing says what a column holds: 007 and 1_000 are no numbers.
PLAIN_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
LONGEST_NAME = 80  # characters of a file, or of a text in its place, in a message
NOT_FINITE = frozenset({"nan", "inf", "+inf", "-inf", "infinity", "-infinity"})
TRUTHS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}


class Given(NamedTuple):
    """One payload of the command line.

    Attributes:
        payload: Or why there is none, of a line that is no record.
        place: Where it stands among several: a file, a line of it, a number; "" where it is alone.
    """

    payload: Any
    place: str = ""


def payloads_from(inputs: Sequence[str], kind: str, columns: Mapping[str, str]) -> list[Given]:
    """The payloads that the arguments stand for.

    Args:
        inputs: Names of files, `-`, or payloads.
        kind: Of payload that the model's task takes.
        columns: Name to kind of the columns of a tabular model; empty where nothing tells them.
    Raises:
        UseError: A file is missing or not of that kind.
    """
    if not inputs:
        raise UseError("expected a file, -, or --text; see `aiaas predict --help`")
    found = [(name, _read(name, kind, columns)) for name in inputs]
    if len(found) == 1:
        return found[0][1]
    return [Given(one.payload, _joined(name, one.place)) for name, ones in found for one in ones]


def _joined(name: str, place: str) -> str:
    shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}..."
    return f"{shown}, {place}" if place else shown


def _read(name: str, kind: str, columns: Mapping[str, str]) -> list[Given]:
    if name == "-":
        return _of_bytes(sys.stdin.buffer.read(), "", kind, columns)
    path = Path(name)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # far too long, or with characters no file name has
        is_file = False
    if is_file:
        return _of_bytes(path.read_bytes(), path.suffix.lower(), kind, columns)
    if kind in FILES:
        raise UseError(f"no file {name!r}")
    if looks_like_a_path(name):
        raise UseError(f"no file {name!r}; a text is given by --text")
    return _of_text(name, "", kind, columns)


def looks_like_a_path(text: str) -> bool:
    """Whether an argument means a file: a word with a / or a known ending, or a whole path."""
    if text.startswith(("{", "[", '"')) or "\n" in text or len(text) > 4096:
        return False
    suffix = text.rpartition(".")[2].lower()
    if any(character.isspace() for character in text):
        return text.startswith(("/", "./", "../", "~/")) and suffix in SUFFIXES
    return "/" in text or "\\" in text or ("." in text and suffix in SUFFIXES)


def _of_bytes(content: bytes, suffix: str, kind: str, columns: Mapping[str, str]) -> list[Given]:
    if kind in FILES:
        return [Given(content)]
    try:
        text = decode_text(content)
    except UnicodeDecodeError:
        if kind == "any":
            return [Given(content)]
        raise UseError("the input is not UTF-8 text") from None
    return _of_text(text, suffix, kind, columns)


def _of_text(text: str, suffix: str, kind: str, columns: Mapping[str, str]) -> list[Given]:
    if suffix == ".csv":
        return csv_records(text, columns)
    # A text model takes JSON as well (a query with documents), from a file or written out.
    is_text = kind == "text" and suffix != ".json"
    if is_text and not text.lstrip().startswith(("{", "[", '"')):
        return [Given(text.removesuffix("\n"))]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if is_text:
            return [Given(text.removesuffix("\n"))]
        if kind == "any":
            return [Given(text)]
        raise UseError(f"expected JSON, a record or a list of values: {error}") from None
    if not _is_many(value, kind):
        return [Given(value)]
    return [Given(one, f"record {number}") for number, one in enumerate(value, 1)]


def _is_many(value: Any, kind: str) -> bool:
    """Whether a JSON value is a list of payloads; a list of numbers or texts may be one record."""
    several = (str, list, dict) if kind == "text" else (list, dict)
    return isinstance(value, list) and bool(value) and all(isinstance(v, several) for v in value)


def csv_records(text: str, columns: Mapping[str, str]) -> list[Given]:
    """The lines of a CSV file as records, each cell as its column says (see `payloads_from`).

    Columns without a name, such as a frame's index, are left out. A line with more or fewer cells
    than the header is a `UseError` in its place.

    Raises:
        UseError: The header, or a whole file, that cannot be read.
    """
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        header = next(rows, [])
        twice = next((name for name in header if name and header.count(name) > 1), None)
        if twice is not None:
            raise UseError(f"the CSV file has two columns {twice!r}")
        return [
            Given(_record(header, row, columns), f"record {number}, line {rows.line_num}")
            for number, row in enumerate(filter(None, rows), 1)
        ]
    except csv.Error as error:
        raise UseError(f"the CSV file, line {rows.line_num}: {error}") from None


def _record(
    header: Sequence[str], row: Sequence[str], columns: Mapping[str, str]
) -> dict[str, Any] | UseError:
    if len(row) != len(header):
        return UseError(f"expected {len(header)} cells as in the header, got {len(row)}")
    cells = zip(header, row, strict=True)
    return {name: cell_of(text, columns.get(name, "")) for name, text in cells if name}


def cell_of(text: str, kind: str) -> Any:
    """A cell of a CSV file: empty is missing; the others as their column takes them.

    Where nothing tells the kind, what reads as a plain number is one.
    """
    if not text:
        return None
    if kind in ("category", "text"):
        return text
    bare = text.strip()
    if kind == "boolean":
        return TRUTHS.get(bare.lower(), text)
    if kind == "number" and bare.lower() in NOT_FINITE:
        return float(bare)
    if not (NUMBER if kind == "number" else PLAIN_NUMBER).fullmatch(bare):
        return text
    if bare.lstrip("+-").isdigit() and len(bare) < 400:
        return int(bare)
    return float(bare)
