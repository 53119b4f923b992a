"""The profile: what it tells of each kind of column, and that any table comes back as it was."""

from __future__ import annotations

import string
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiaas_server.job_process.profile import columns_of, made_dataset
from aiaas_server.job_process.tables import of_arrow, read_table, to_arrow, write_table
from aiaas_server.jobs.table import Field, Table
from tests.server.job_process.ordering import carry_out, table_of
from tests.server.job_process.uploading import read

TEXTS = st.text(string.printable + "äß€", max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "number": FLOATS,
    "integer": st.integers(-(2**62), 2**62),
    "boolean": st.booleans(),
    "category": TEXTS,
    "text": TEXTS,
    "time": st.integers(-(2**62), 2**62).map(lambda ns: np.datetime64(ns, "ns")),
    "image": st.binary(max_size=8),
}


@st.composite
def columns(draw: st.DrawFn) -> dict[str, tuple[str, list[Any]]]:
    """By name, kind and values, None for what is missing."""
    rows = draw(st.integers(1, 6))
    found = {}
    for at in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(sorted(KINDS)))
        values = KINDS[kind] if kind == "integer" else st.none() | KINDS[kind]
        found[f"c{at}"] = kind, draw(st.lists(values, min_size=rows, max_size=rows))
    return found


@given(columns())
@example({"c": ("number", [1.797e308, -1.797e308, None])})
@example({"c": ("number", [1.797e308])})
@example({"c": ("number", [5e-324, 0.0])})
@example({"c": ("boolean", [None])})
def test_a_table_comes_back_as_it_was(tmp_path_factory: Any, found: Any) -> None:
    pytest.importorskip("pyarrow")
    table = Table(
        [Field(name, kind) for name, (kind, _) in found.items()],
        {name: array_of(kind, values) for name, (kind, values) in found.items()},
    )
    again = of_arrow(to_arrow(table))
    assert again.fields == table.fields
    for name, (kind, values) in found.items():
        assert same(again[name], array_of(kind, values)), name
    for column in columns_of(to_arrow(table)):
        assert column.missing == found[column.name][1].count(None)


def array_of(kind: str, values: list[Any]) -> np.ndarray[Any, Any]:
    if kind == "number":
        return np.array([np.nan if v is None else v for v in values], np.float64)
    if kind == "time":
        return np.array(["NaT" if v is None else v for v in values], "M8[ns]")
    if kind == "integer" or (kind == "boolean" and None not in values):
        return np.array(values)
    made = np.empty(len(values), object)
    made[:] = values
    return made


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.dtype != other.dtype:
        return False
    return np.array_equal(one, other, equal_nan=one.dtype.kind in "fM")


def test_whole_numbers_with_gaps_and_arrays_come_back_through_a_file(tmp_path: Path) -> None:
    table = Table(
        [Field("i", "integer"), Field("a", "array")],
        {"i": np.array([1.0, np.nan]), "a": np.arange(12, dtype=np.uint8).reshape(2, 2, 3)},
    )
    write_table(table, tmp_path / "t.parquet")
    again = read_table(tmp_path / "t.parquet")
    assert same(again["i"], table["i"])
    assert same(again["a"], table["a"])
    assert read_table(tmp_path / "t.parquet", ["a"]).names == ["a"]


def test_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        table = table_of({"x": "number", "t": "text"}, {"x": [1.0, None], "t": ["ä", None]})
        made_dataset("d", table, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_numbers_are_told_by_range_and_histogram(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.normal(10, 3, 500)
    text = "x\n" + "".join(f"{n!r}\n" for n in map(float, numbers)) + "NA\n"
    column = read(tmp_path, {"a.csv": text}).columns["x"]
    assert (column.kind, column.dtype, column.missing, column.distinct) == (
        "number", "float64", 1, 500,
    )  # fmt: skip
    told = (column.minimum, column.maximum, column.mean, column.deviation)
    assert told == pytest.approx((numbers.min(), numbers.max(), numbers.mean(), numbers.std()))
    assert (len(column.histogram), len(column.edges), sum(column.histogram)) == (20, 21, 500)
    assert np.diff(column.edges) == pytest.approx(np.ptp(numbers) / 20)
    assert column.histogram == np.histogram(numbers, 20)[0].tolist()


def test_columns_without_anything_to_tell_apart_are_there(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.csv": "same,none,one,big\n7,,a,1e300\n7,NA,a,1e300\n"}).columns
    same_, none, one, big = (found[name] for name in ("same", "none", "one", "big"))
    assert (same_.minimum, same_.maximum, same_.deviation, same_.distinct) == (7, 7, 0, 1)
    assert (sum(same_.histogram), none.missing, none.histogram) == (2, 2, [])
    assert (none.kind, none.minimum, none.distinct) == ("number", None, 0)
    assert [(c.value, c.rows) for c in one.classes] == [("a", 2)]
    assert (big.deviation, sum(big.histogram)) == (0, 2)


def test_classes_are_told_most_frequent_first(tmp_path: Path) -> None:
    labels = ["b"] * 3 + ["a"] * 3 + ["c"] * 5 + [str(n) + "x" for n in range(80)] * 2
    text = "label,flag,few\n" + "".join(f"{n},{len(n) > 1},{len(n)}\n" for n in labels)
    found = read(tmp_path, {"a.csv": text}).columns
    assert [(c.value, c.rows) for c in found["label"].classes[:3]] == [("c", 5), ("a", 3), ("b", 3)]
    assert (len(found["label"].classes), found["label"].distinct) == (50, 83)
    assert [(c.value, c.rows) for c in found["flag"].classes] == [(True, 160), (False, 11)]
    few = Counter(map(len, labels))
    assert {c.value: c.rows for c in found["few"].classes} == few


def test_many_different_values_are_not_counted(tmp_path: Path) -> None:
    column = read(tmp_path, {"a.csv": "x\n" + "".join(f"{n}\n" for n in range(1001))}).columns["x"]
    assert (column.distinct, column.classes) == (None, [])


def test_an_order_is_carried_out_by_the_real_process(tmp_path: Path) -> None:
    from aiaas_server.jobs.orders import Order, Product

    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.csv").write_text("age,label\n1,x\n2,y\n", "utf-8")
    spec: dict[str, Any] = {"kind": "ingest", "name": "d", "files": ["a.csv"]}
    order = Order(job="j", spec=spec, files={"a.csv": "files/a.csv"})
    product = carry_out(order, tmp_path)
    assert isinstance(product, Product), product
    (made,) = product.datasets
    assert (made.name, made.rows, made.format) == ("d", 2, "csv")
    assert [column.name for column in made.columns] == ["age", "label"]
    assert read_table(tmp_path / made.path)["label"].tolist() == ["x", "y"]
    refused = carry_out(order.model_copy(update={"spec": spec | {"max_bytes": 3}}), tmp_path)
    assert refused.code == "too_large", refused  # type: ignore[union-attr]
