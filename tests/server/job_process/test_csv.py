"""CSV: what columns become, and that what is wrong is told by line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.core.errors import InvalidInput, PayloadTooLarge
from tests.server.job_process.uploading import read

GUESSES: dict[str, tuple[list[str], ColumnKind, list[Any]]] = {
    "whole numbers": (["1", "-2", "+3", " 4 "], "integer", [1, -2, 3, 4]),
    "numbers": (["1", "2.5", ".5", "1e-3"], "number", [1.0, 2.5, 0.5, 0.001]),
    "numbers with gaps": (["1.5", "", "NA", "?"], "number", [1.5, None, None, None]),
    "whole numbers with gaps": (["1", "nan", "3"], "integer", [1.0, None, 3.0]),
    "nothing at all": (["", "NULL", "n/a"], "number", [None, None, None]),
    "booleans": (["true", "FALSE", "True", ""], "boolean", [True, False, True, None]),
    "labels": (["cat", "dog", "cat", "NA"], "category", ["cat", "dog", "cat", "NA"]),
    "codes": (["007", "008"], "category", ["007", "008"]),
    "many digits": (["9" * 20, "1"], "category", ["9" * 20, "1"]),
    "not finite": (["inf", "1"], "category", ["inf", "1"]),
    "long texts": (["x" * 101, "y"], "text", ["x" * 101, "y"]),
    "dates": (["2024-05-31", ""], "time", ["2024-05-31T00:00:00", None]),
    "times": (
        ["2024-05-31T17:30", "2024-05-31 17:30:00.5", "2024-05-31T17:30:00+02:00"],
        "time",
        ["2024-05-31T17:30:00", "2024-05-31T17:30:00.5", "2024-05-31T15:30:00"],
    ),
}  # fmt: skip


def cells_of(array: np.ndarray[Any, Any]) -> list[Any]:
    """Values, None for what is missing."""
    if array.dtype.kind == "M":
        return [None if np.isnat(v) else v for v in array]
    return [None if v is None or v != v else v for v in array.tolist()]


@pytest.mark.parametrize(("cells", "kind", "values"), GUESSES.values(), ids=GUESSES)
def test_a_column_is_what_its_cells_look_like(
    cells: list[str], kind: ColumnKind, values: list[Any], tmp_path: Path
) -> None:
    text = "x,other\n" + "".join(f"{cell},z\n" for cell in cells)
    found = read(tmp_path, {"a.csv": text})
    assert found.kinds["x"] == kind
    expected = [np.datetime64(v) if kind == "time" and v else v for v in values]
    assert cells_of(found.table["x"]) == expected
    assert found.columns["x"].missing == values.count(None)


AS_ASKED: dict[str, tuple[list[str], ColumnKind, list[Any]]] = {
    "a number as a category": (["1", "2"], "category", ["1", "2"]),
    "a category as a boolean": (["yes", "no", ""], "boolean", [True, False, None]),
    "numbers as booleans": (["1", "0"], "boolean", [True, False]),
    "a number as a whole one": (["1.0", "2", "NA"], "integer", [1.0, 2.0, None]),
    "a whole number as a number": (["1", "2"], "number", [1.0, 2.0]),
    "codes as whole numbers": (["007", "8"], "integer", [7, 8]),
    "labels as texts": (["a", "a"], "text", ["a", "a"]),
}


@pytest.mark.parametrize(("cells", "kind", "values"), AS_ASKED.values(), ids=AS_ASKED)
def test_a_column_is_read_as_the_kind_that_was_asked_for(
    cells: list[str], kind: ColumnKind, values: list[Any], tmp_path: Path
) -> None:
    text = "x,other\n" + "".join(f"{cell},z\n" for cell in cells)
    found = read(tmp_path, {"a.csv": text}, {"x": kind})
    assert (found.kinds["x"], cells_of(found.table["x"])) == (kind, values)


SAME: dict[str, bytes] = {
    "plain": b'a,b\n1,"x\ny"\n2,z\n',
    "a mark of order": b'\xef\xbb\xbfa,b\n1,"x\ny"\n2,z\n',
    "lines of Windows, semicolons": b'a;b\r\n1;"x\ny"\r\n2;z\r\n',
    "tabs": b'a\tb\n1\t"x\ny"\n2\tz\n',
    "empty lines, and none at the end": b'a,b\n\n1,"x\ny"\n\n2,z',
    "quoted numbers and names": b'"a"," b "\n"1","x\ny"\n"2","z"\n',
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_however_it_is_written_it_is_the_same(content: bytes, tmp_path: Path) -> None:
    table = read(tmp_path, {"a.csv": content}).table
    assert table.names == ["a", "b"]
    assert (table["a"].tolist(), table["b"].tolist()) == ([1, 2], ["x\ny", "z"])


def rows(count: int) -> str:
    return "".join(f"{at},q\n" for at in range(count))


BAD: dict[str, tuple[str | bytes, dict[str, ColumnKind], str]] = {
    "a bad cell": (
        "age,t\n" + rows(15) + "x,r\n",
        {},
        r"a.csv, line 17, column 'age': expected a number, got 'x'; kinds=\{'age': 'text'\}",
    ),
    "a bad cell behind longer ones": (
        'age,t\n1,"two\nlines"\n\n2,a\nx,b\n',
        {"age": "number"},
        "line 6, column 'age': expected a number, got 'x'$",
    ),
    "no whole number": ("a\n1\n2.5\n", {"a": "integer"}, "line 3.*a whole number, got '2.5'"),
    "no boolean": ("a\ntrue\nmaybe\n", {"a": "boolean"}, "line 3.*true or false, got 'maybe'"),
    "no such day": ("a\n2020-02-28\n2020-02-30\n", {"a": "time"}, "line 3.*got '2020-02-30'"),
    "no time": ("a\nyesterday\n", {"a": "time"}, "line 2.*a date or time"),
    "beyond floats": ("a\n1\n1e999\n", {"a": "number"}, "line 3.*got '1e999'"),
    "hexadecimal": ("a\n0x1f\n", {"a": "integer"}, "line 2.*got '0x1f'"),
    "too many cells": ("a,b\n1,2\n\n1,2,3\n", {}, "a.csv, line 4: expected 2 cells, got 3"),
    "too few cells": ('a,b\n"1\n2",2\n1\n', {}, "a.csv, line 4: expected 2 cells, got 1"),
    "a name twice": ("a,b,a\n1,2,3\n", {}, "line 1: columns 1 and 3 are both named 'a'"),
    "no name": (",b\n1,2\n", {}, "line 1: column 1 has no name; .*index=False"),
    "a long name": ("x" * 256 + "\n1\n", {}, "line 1: column 1: expected a name of at most 255"),
    "Latin-1": ("a,b\n1,2\nä,3\n".encode("latin-1"), {}, "line 3: expected UTF-8, got the byte"),
    "a header in Latin-1": ("ä\n1\n".encode("latin-1"), {}, "line 1: expected UTF-8"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), {}, "line 1: expected UTF-8"),
    "a binary file": (b"\x89PNG\r\n\x1a\n\0\0", {}, "a.csv, line 1: expected UTF-8"),
    "empty": ("", {}, "a.csv: expected a header and rows, got an empty file"),
    "only a header": ("a,b\n", {}, "a.csv: expected rows below the header, got none"),
    "only line ends": ("\n\n", {}, "at least one column, got none"),
    "an open quote": ('a,b\n1,"x\n2,3\n4,5\n', {}, "line 2: a quote is opened here and never"),
    "a kind of no column": ("age\n1\n", {"agee": "text"}, "no column 'agee'; did you mean 'age'"),
    "a kind that no cell has": ("a\n1\n", {"a": "image"}, "column 'a': a CSV file holds no images"),
    "too many columns": (",".join(f"c{n}" for n in range(5000)) + "\n", {}, "at most 4096 columns"),
}


@pytest.mark.parametrize(("content", "kinds", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_told_by_line_and_column(
    content: str | bytes, kinds: dict[str, ColumnKind], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, {"a.csv": content}, kinds)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(PayloadTooLarge, match=r"at most 5 bytes .*\(max_dataset_bytes\), got 8"):
        read(tmp_path, {"a.csv": "a,b\n1,2\n"}, most=5)


def test_a_name_tells_the_format_or_it_has_to_be_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"a.bin: its name does not tell .* csv, parquet, npz"):
        read(tmp_path, {"a.bin": "a\n1\n"})
    with pytest.raises(InvalidInput, match=r"expected one file of format csv, got a.csv, b.csv"):
        read(tmp_path, {"a.csv": "a\n1\n", "b.csv": "a\n1\n"})
