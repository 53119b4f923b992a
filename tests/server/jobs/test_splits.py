"""Held-out rows: the same ones each time, no row twice, and refused where a side would be empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client.protocol.datasets import Split
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.splits import folds_of, split_rows, texts_of
from aiaas_server.jobs.table import Field, Table


def frame(rows: int, labels: list[str] | None = None) -> Table:
    names = labels or ["a" if row % 3 else "b" for row in range(rows)]
    return Table(
        [
            Field("x", "number"),
            Field("when", "time"),
            Field("who", "category"),
            Field("y", "category"),
        ],
        {
            "x": np.arange(rows, dtype=np.float64),
            "when": np.arange(rows)[::-1].astype("datetime64[s]").astype("datetime64[ns]"),
            "who": np.array([f"p{row % 7}" for row in range(rows)], object),
            "y": np.array(names, object),
        },
    )


def refusal_of(table: Table, split: Split) -> str:
    """Why there are no such parts; "" where there are."""
    try:
        split_rows(table, split, "y")
    except InvalidInput as error:
        return error.message
    return ""


@given(
    rows=st.integers(14, 300),
    test=st.floats(0.01, 0.7),
    validation=st.sampled_from([0.0, 0.1, 0.25]),
    by=st.sampled_from([None, "random", "stratified", "time", "group"]),
    seed=st.integers(0, 99),
)
def test_every_row_is_on_one_side_and_the_same_one_again(
    rows: int, test: float, validation: float, by: str | None, seed: int
) -> None:
    column = {"time": "when", "group": "who"}.get(by or "")
    split = Split(test=test, validation=validation, by=by, column=column, seed=seed)  # type: ignore[arg-type]
    table = frame(rows)
    if problem := refusal_of(table, split):  # two parts, rounded up, take all that there is
        assert "0 would be left to learn from" in problem
        assert rows * (1 - test - validation) < 2
        return
    found = split_rows(table, split, "y")
    assert sorted(np.concatenate(found).tolist()) == list(range(rows))
    assert len(found.train) > 0
    assert len(found.test) > 0
    assert bool(len(found.validation)) == bool(validation)
    again = split_rows(table, split, "y")
    assert all((one == two).all() for one, two in zip(found, again, strict=True))
    if by == "group":
        sides = [set(table["who"][side]) for side in found]
        assert sum(map(len, sides)) == len(set.union(*sides))
    if by == "time":
        when = table["when"]
        assert when[found.train].max() < when[found.test].min()


def test_classes_are_held_out_in_equal_shares() -> None:
    table = frame(1000, ["rare"] * 50 + ["often"] * 950)
    found = split_rows(table, Split(test=0.2, validation=0.1, by="stratified"), "y")
    assert [(table["y"][side] == "rare").sum() for side in found] == [35, 5, 10]
    assert [len(side) for side in found] == [700, 100, 200]


def test_another_seed_holds_out_other_rows() -> None:
    one, two = (split_rows(frame(100), Split(seed=seed), "y").test for seed in (0, 1))
    assert one.tolist() != two.tolist()


def test_a_rare_class_is_only_learned_from_unless_shares_were_asked_for() -> None:
    table = frame(20, ["only"] + ["a", "b"] * 9 + ["a"])
    assert 0 in split_rows(table, Split(), "y").train
    with pytest.raises(InvalidInput, match="class 'only' of column 'y' has 1 row; at least 2"):
        split_rows(table, Split(by="stratified"), "y")


@pytest.mark.parametrize(
    ("rows", "split", "message"),
    [
        (20, Split(test=0.6, validation=0.4), "leave no rows to learn from"),
        (20, Split(by="time"), "need 'column'"),
        (20, Split(by="group", column="nobody"), "no column 'nobody'; there are x, when, who, y"),
        (20, Split(by="time", column="who"), "expected a column of times or numbers, 'who' is"),
        (1, Split(), "0 would be left to learn from|none may be empty"),
        (1, Split(by="random"), "none may be empty"),
        (1, Split(by="group", column="who"), "has 1 different values; at least 2"),
        (2, Split(by="random", validation=0.3), "none may be empty"),
    ],
)
def test_what_cannot_be_divided_is_refused(rows: int, split: Split, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        split_rows(frame(rows), split, "y")


def test_a_missing_time_is_named() -> None:
    table = frame(10)
    when = table["when"].copy()
    when[4] = np.datetime64("NaT")
    with pytest.raises(InvalidInput, match="'when' is missing in row 4"):
        split_rows(
            table.with_column(Field("when", "time"), when), Split(by="time", column="when"), "y"
        )


@given(rows=st.integers(2, 100), folds=st.integers(2, 10), classes=st.integers(1, 4))
def test_folds_share_every_class(rows: int, folds: int, classes: int) -> None:
    if rows < folds:
        with pytest.raises(InvalidInput, match="cannot be divided"):
            folds_of(None, rows, folds, 0)
        return
    strata = np.arange(rows) % classes
    parts = folds_of(strata, rows, folds, 3)
    assert sorted(np.concatenate([held_out for _, held_out in parts]).tolist()) == list(range(rows))
    for one in range(classes):
        counts = [(strata[held_out] == one).sum() for _, held_out in parts]
        assert max(counts) - min(counts) <= 1


def test_labels_are_texts_as_a_server_says_them() -> None:
    table = Table(
        [
            Field("i", "integer"),
            Field("n", "number"),
            Field("b", "boolean"),
            Field("c", "category"),
        ],
        {
            "i": np.array([3, -1]),
            "n": np.array([3.0, np.nan]),
            "b": np.array([True, None], object),
            "c": np.array(["是", None], object),
        },
    )
    assert [texts_of(table, name).tolist() for name in table.names] == [
        ["3", "-1"],
        ["3", None],
        ["true", None],
        ["是", None],
    ]
