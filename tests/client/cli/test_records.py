"""CSV cells become what their columns say, and nothing is guessed where the card tells."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aiaas_client._cli.records import cell_of, csv_records, looks_like_a_path
from aiaas_client._cli.server import UseError


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("01", "category", "01"),
        ("1_0", "category", "1_0"),
        ("007", "text", "007"),
        ("1e5", "text", "1e5"),
        ("nan", "category", "nan"),
        ("inf", "text", "inf"),
        ("true", "text", "true"),
        (" a ", "text", " a "),
        ("1_000", "number", "1_000"),
        ("1,5", "number", "1,5"),
        ("٣", "number", "٣"),
        ("007", "number", 7),
        ("+5", "number", 5),
        (" 2.5 ", "number", 2.5),
        (".5", "number", 0.5),
        ("5.", "number", 5.0),
        ("1e5", "number", 1e5),
        ("0x10", "number", "0x10"),
        ("9223372036854775809", "number", 2**63 + 1),
        ("-inf", "number", -math.inf),
        ("true", "boolean", True),
        ("FALSE", "boolean", False),
        ("1", "boolean", True),
        ("0", "boolean", False),
        ("yes", "boolean", "yes"),
        ("12", "", 12),
        ("-1.5e-3", "", -0.0015),
        ("007", "", "007"),
        ("1_000", "", "1_000"),
        ("nan", "", "nan"),
        ("", "number", None),
        ("", "text", None),
        ("", "", None),
    ],
)
def test_a_cell_is_read_as_its_column_says(text: str, kind: str, value: Any) -> None:
    found = cell_of(text, kind)
    assert found == value
    assert type(found) is type(value)


def test_a_number_column_knows_nan_and_very_long_numbers() -> None:
    assert math.isnan(cell_of("NaN", "number"))
    assert cell_of("9" * 5000, "number") == math.inf


def test_records_have_the_columns_of_the_header() -> None:
    text = "\r\n".join(['id,"a, b",c', '01,"x\ny",2', "", "02,,3", ""])
    columns = {"id": "text", "a, b": "text", "c": "number"}
    assert csv_records(text, columns) == [
        ({"id": "01", "a, b": "x\ny", "c": 2}, "record 1, line 3"),
        ({"id": "02", "a, b": None, "c": 3}, "record 2, line 5"),
    ]
    assert csv_records(",a\n0,1\n", {}) == [({"a": 1}, "record 1, line 2")]
    assert csv_records("a,b\n", {}) == []
    assert csv_records("", {}) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("a,a\n1,2\n", "two columns 'a'", id="twice"),
        pytest.param("a\n" + "x" * 200_000, "line 2: field larger than", id="a huge cell"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_told(text: str, told: str) -> None:
    with pytest.raises(UseError, match=told):
        csv_records(text, {})


def test_a_line_that_is_no_record_keeps_its_place() -> None:
    first, short, long = csv_records("a,b\n1,2\n1\n1,2,3\n", {})
    assert first == ({"a": 1, "b": 2}, "record 1, line 2")
    for (problem, place), number, cells in ((short, 2, 1), (long, 3, 3)):
        assert isinstance(problem, UseError)
        assert str(problem) == f"expected 2 cells as in the header, got {cells}"
        assert place == f"record {number}, line {number + 1}"


@pytest.mark.parametrize(
    ("text", "is_path"),
    [
        ("rows.csv", True),
        ("a/b", True),
        ("C:\\x", True),
        ("no suffix", False),
        ("hello", False),
        ('{"a": "b/c.json"}', False),
        ("[1, 2]", False),
        ("two\nlines.txt", False),
        ("x" * 5000 + ".txt", False),
    ],
)
def test_paths_and_texts_are_told_apart(text: str, is_path: bool) -> None:
    assert looks_like_a_path(text) is is_path
