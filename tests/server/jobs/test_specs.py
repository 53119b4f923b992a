"""What a job asks for is held against what there is, before it waits in the queue."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from aiaas_client.protocol.datasets import Column, Dataset
from aiaas_client.protocol.jobs import SPEC
from aiaas_client.protocol.management import Version
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.recipe import Fitted, Params, Recipe, Training, Watch
from aiaas_server.jobs.specs import check_spec


class _Params(Params):
    depth: int = Field(default=3, ge=1)


class _Classes(Recipe[_Params]):
    name = "classes"
    title = description = ""
    task = "classification"
    modules = ()
    params = _Params

    def fit(self, params: _Params, data: Training, watch: Watch) -> Fitted:
        raise NotImplementedError


class _Values(_Classes):
    name = "values"
    task = "regression"


RECIPES = {"classes": _Classes(), "values": _Values()}
COLUMNS = [
    Column(name="age", kind="integer", distinct=40),
    Column(name="colour", kind="category", distinct=3),
    Column(name="text", kind="text"),
    Column(name="price", kind="number", distinct=90),
    Column(name="same", kind="category", distinct=1),
    Column(name="gone", kind="category", distinct=0, missing=100),
    Column(name="label", kind="category", distinct=2),
]
DATASET = Dataset(name="d", number=1, rows=100, columns=COLUMNS)
LINEAGE = {"target": "label", "features": ["age", "colour"], "dataset": "d@2"}
VERSIONS = {
    "m@1": Version(model="m", version=1, digest="a" * 64, state="verified", lineage=LINEAGE),
    "m@2": Version(model="m", version=2, digest="b" * 64, state="verified"),
}


def check(dataset: Dataset = DATASET, **spec: Any) -> None:
    if spec["kind"] == "train":
        spec = {"model": "m", "recipe": "classes"} | spec
    read = SPEC.validate_python({"dataset": "d@1", **spec})
    check_spec(read, {"d@1": dataset}, VERSIONS, lambda name: RECIPES[name])


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"recipe": "values", "target": "price", "features": ["age", "colour"]},
        {"params": {"depth": 5}, "search": {"params": {"depth": [1, 2]}, "metric": "f1"}},
        {"split": {"by": "group", "column": "colour"}, "class_weight": "balanced"},
    ],
)
def test_what_fits_is_taken(spec: dict[str, Any]) -> None:
    check(kind="train", **spec)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"target": "lable"}, "target: data set 'd@1' has no column 'lable'; did you mean 'label'"),
        ({"features": ["agee"]}, "features: .*no column 'agee'; did you mean 'age'"),
        ({"features": ["label"]}, "'label' is the target"),
        ({"features": ["text"]}, "column 'text' is of kind text.* learns from boolean, category"),
        ({"target": "price"}, "column 'price'.* is of kind number.*predicts classes"),
        ({"recipe": "values"}, "column 'label'.*predicts numbers: expected one of integer, number"),
        ({"target": "same"}, "column 'same'.* has one class only"),
        ({"target": "gone"}, "column 'gone'.* has no value in any row"),
        ({"target": "text"}, "more than 1000 different values"),
        ({"params": {"dept": 1}}, "no parameter 'dept'; did you mean 'depth'"),
        ({"params": {"depth": 0}}, "parameter 'depth'"),
        ({"search": {"params": {"dept": [1]}}}, "search: .*'dept'; did you mean 'depth'"),
        ({"search": {"params": {"depth": [1, 0]}}}, "parameter 'depth'"),
        ({"search": {"params": {"depth": 3}}}, "expected a list of values of 'depth'"),
        ({"search": {"params": {"depth": [1]}, "metric": "mse"}}, "search.metric"),
        ({"split": {"by": "time"}}, "by time needs its column"),
        ({"split": {"by": "group", "column": "colur"}}, "'colur'; did you mean 'colour'"),
        ({"recipe": "values", "target": "price", "class_weight": "balanced"}, "class_weight"),
        ({"cluster": "http://x"}, "expected ray://host:port"),
        ({"cluster": "ray://local"}, "'classes' trains in one process"),
    ],
)
def test_what_does_not_fit_is_named_with_the_nearest_that_does(
    spec: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        check(kind="train", **spec)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"kind": "evaluate", "model": "m@2"}, "'m@2' does not tell what it was trained for"),
        ({"kind": "evaluate", "model": "m@1", "held_out": True}, "was trained on 'd@2'"),
        ({"kind": "evaluate", "model": "m@1", "target": "lbel"}, "did you mean 'label'"),
        ({"kind": "compare", "models": ["m@1", "m@2"]}, "'m@2' does not tell"),
        ({"kind": "score", "model": "m@2", "keep": ["pric"]}, "keep: .*did you mean 'price'"),
    ],
)
def test_versions_and_data_sets_are_to_fit(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        check(**spec)


def test_columns_that_a_version_was_trained_on_are_to_be_there() -> None:
    without = DATASET.model_copy(update={"columns": COLUMNS[1:]})
    with pytest.raises(InvalidInput, match=r"version 'm@1': .*no column 'age'"):
        check(without, kind="score", model="m@1")


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'d@1' has no rows"):
        check(DATASET.model_copy(update={"rows": 0}), kind="evaluate", model="m@1")
