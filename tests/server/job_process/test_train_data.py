"""What a training refuses before anything is fitted, and what it learns from otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.datasets import Split
from aiaas_client.protocol.jobs import TrainSpec
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.train_data import material, target_of, weights_of
from aiaas_server.jobs.recipes import recipe
from aiaas_server.jobs.table import Field, Table
from tests.server.job_process.ordering import table_of

KINDS = {
    "x": "number",
    "gap": "number",
    "note": "text",
    "colour": "category",
    "when": "time",
    "label": "category",
    "value": "number",
    "count": "integer",
}


def frame(rows: int = 12, **columns: list[Any]) -> Table:
    """A frame that can be learned from, but for the columns that are given."""
    made: dict[str, list[Any]] = {
        "x": [float(row) for row in range(rows)],
        "gap": [None] * rows,
        "note": ["text"] * rows,
        "colour": ["red", None, "blue", "red"] * (rows // 4),
        "when": list(range(rows)),
        "label": ["yes", "no"] * (rows // 2),
        "value": [row * 0.5 for row in range(rows)],
        "count": [row % 3 for row in range(rows)],
    }
    return table_of(KINDS, {**made, **columns})


def spec_of(**more: Any) -> TrainSpec:
    asked = {"model": "m", "recipe": "logistic-regression", "dataset": "d@1", **more}
    return TrainSpec.model_validate(asked)


def test_columns_that_cannot_be_learned_from_are_left_out_and_said() -> None:
    spec = spec_of(split=Split(by="group", column="count"))
    found = material(frame(), spec, recipe("logistic-regression"))
    assert found.target == "label"
    assert found.classes == ("no", "yes")
    assert found.table.names == ["x", "colour", "value"]
    assert found.left_out["gap"] == "every value is missing"
    assert "kind 'text'" in found.left_out["note"]
    assert "kind 'time'" in found.left_out["when"]
    assert "the split goes by it" in found.left_out["count"]


@pytest.mark.parametrize(
    ("name", "columns", "asked", "message"),
    [
        ("ridge", {}, {"target": "valeu"}, "no column 'valeu'; did you mean 'value'"),
        ("ridge", {}, {}, "target 'label' is a column of kind 'category'; .* learns numbers"),
        ("ridge", {"value": [1.0] * 12}, {"target": "value"}, "'value' is 1 in every row"),
        (
            "ridge",
            {"value": [None] * 3 + [1.0] * 9},
            {"target": "value"},
            "in 3 of 12 rows: 0, 1, 2",
        ),
        (
            "ridge",
            {"value": [np.inf, *range(11)]},
            {"target": "value"},
            "'value' is infinite in row 0",
        ),
        ("svm-classifier", {"label": ["yes"] * 12}, {}, "'label' is 'yes' in every row"),
        ("svm-classifier", {"label": [None, "a", "b"] * 4}, {}, "in 4 of 12 rows: 0, 3, 6, 9"),
        ("svm-classifier", {}, {"target": "value"}, "'value' is 0.5 in row 1: numbers with"),
        ("svm-classifier", {}, {"target": "when"}, "kind 'time'; .* learns labels"),
        ("ridge", {}, {"target": "value", "features": ["gap"]}, "missing in 'gap': nothing to"),
        ("ridge", {}, {"target": "value", "features": ["note"]}, "'note' is of kind 'text'"),
        ("ridge", {}, {"target": "value", "features": ["X1"]}, "features: there is no column 'X1'"),
        ("ridge", {}, {"target": "value", "features": ["x", "value"]}, "'value' is the target"),
        ("ridge", {}, {"target": "value", "features": ["x", "x"]}, "'x' comes twice"),
        (
            "logistic-regression",
            {"label": ["a", "b"] * 5 + ["c", "a"]},
            {"split": Split(by="stratified")},
            "class 'c' of column 'label' has 1 row",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused(
    name: str, columns: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        material(frame(**columns), spec_of(recipe=name, **asked), recipe(name))


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(InvalidInput, match="data set 'd@1' has no rows"):
        material(frame().take(slice(0, 0)), spec_of(), recipe("ridge"))


def test_a_data_set_of_nothing_but_the_target_is_refused() -> None:
    with pytest.raises(InvalidInput, match="beside the target 'label' the data set has none"):
        material(frame().select(["label", "note"]), spec_of(), recipe("knn-classifier"))


def test_too_many_classes_are_refused() -> None:
    rows = 3000
    table = Table(
        [Field("x", "number"), Field("y", "integer")],
        {"x": np.zeros(rows), "y": np.arange(rows)},
    )
    with pytest.raises(InvalidInput, match=r"'y' has \d+ different labels; at most 1000"):
        material(table, spec_of(), recipe("knn-classifier"))


def test_labels_of_numbers_are_ordered_by_their_size_and_targets_by_name() -> None:
    table = frame(count=[10, 9, 2] * 4)
    found = material(table, spec_of(target="count"), recipe("knn-classifier"))
    assert found.classes == ("2", "9", "10")
    assert target_of(frame().select(["x", "count"]), None) == "count"


def test_rows_for_early_stopping_have_classes_that_are_learned() -> None:
    """Of a class that only stands there nothing can be said."""
    table = frame(when=[0] * 12, x=list(range(12)), label=["a", "b"] * 4 + ["c"] * 2 + ["a", "b"])
    spec = spec_of(split=Split(by="time", column="x", test=2 / 12, validation=2 / 12))
    found = material(table, spec, recipe("gradient-boosting-classifier"))
    assert found.classes == ("a", "b")
    assert found.rows.validation.tolist() == [8, 9]
    assert found.whole(spec, 1).validation is None


def test_rare_classes_weigh_more() -> None:
    target = np.array([0, 0, 0, 1], np.float64)
    assert weights_of(target, ("a", "b"), "balanced") == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert weights_of(target, ("a", "b"), {"b": 5.0}) == pytest.approx([1, 1, 1, 5])
    assert weights_of(target, ("a", "b"), None) is None


@pytest.mark.parametrize(
    ("asked", "classes", "message"),
    [
        ({"z": 1.0}, ("a", "b"), "no class 'z'; there are 'a', 'b'"),
        ({"a": -1.0}, ("a", "b"), "'a': expected 0 or more, got -1"),
        ({"a": float("nan")}, ("a", "b"), "'a': expected 0 or more, got nan"),
        ("balanced", (), "regression has no classes"),
    ],
)
def test_weights_that_mean_nothing_are_refused(
    asked: Any, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        weights_of(np.array([0.0, 1.0]), classes, asked)
