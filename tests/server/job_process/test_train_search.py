"""What a search tries, on how many rows, and what it goes by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.jobs import Search, TrainSpec
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process import train_search
from aiaas_server.job_process.train_candidates import candidates, halvings
from aiaas_server.job_process.train_data import material
from aiaas_server.job_process.train_search import (
    Folds,
    Silent,
    cross_validated,
    metric_of,
    searched,
)
from aiaas_server.jobs.recipes import recipe
from aiaas_server.jobs.table import Field, Table


class Heard(Silent):
    """Keeps the steps."""

    def __init__(self) -> None:
        super().__init__(Path())
        self.steps: list[tuple[int, int]] = []

    def progress(self, step: int, total: int = 0, unit: str = "", **told: Any) -> None:
        self.steps.append((step, total))


def search_of(**asked: Any) -> Search:
    return Search.model_validate(asked)


def test_a_grid_tries_every_combination() -> None:
    found = candidates(search_of(params={"a": [1, 2], "b": ["x", "y"]}), 0)
    assert found == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_random_trials_stay_in_their_ranges_and_come_again_with_the_seed() -> None:
    asked = search_of(
        params={
            "c": {"low": 1e-3, "high": 1e3, "log": True},
            "k": {"low": 1, "high": 9},
            "m": ["a"],
        },
        method="random",
        trials=50,
    )
    found = candidates(asked, 7)
    assert found == candidates(asked, 7) != candidates(asked, 8)
    assert len(found) == 50
    assert all(1e-3 <= one["c"] <= 1e3 and one["k"] in range(1, 10) for one in found)
    assert 10 < sum(one["c"] < 1 for one in found) < 40, "by magnitude"


def test_few_values_are_tried_once_each() -> None:
    assert len(candidates(search_of(params={"a": [1, 2, 3]}, method="random", trials=20), 0)) == 3
    few = search_of(params={"k": {"low": 1, "high": 3}}, method="random", trials=20)
    assert sorted(one["k"] for one in candidates(few, 0)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"params": {}}, "names no parameter"),
        ({"params": {"a": []}}, "'a' has no values"),
        ({"params": {"a": 3}}, "'a': expected a list of values"),
        ({"params": {"a": {"low": 1, "high": 2}}}, "'a': expected a list"),
        ({"params": {"a": {"low": 2, "high": 1}}, "method": "random"}, "low < high"),
        ({"params": {"a": {"low": 0, "high": 1, "log": True}}, "method": "random"}, "above 0"),
        ({"params": {"a": {"low": 0, "hi": 1}}, "method": "random"}, "'a': expected a list"),
        ({"params": {"a": list(range(40)), "b": list(range(40))}}, "1600 combinations; at most"),
    ],
)
def test_what_cannot_be_tried_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        candidates(search_of(**asked), 0)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="'acuracy' of classification; did you mean 'accuracy'"):
        metric_of(search_of(params={"c": [1]}, metric="acuracy"), recipe("knn-classifier"))
    with pytest.raises(InvalidInput, match="no metric 'accuracy' of regression"):
        metric_of(search_of(params={"c": [1]}, metric="accuracy"), recipe("knn-regressor"))


def test_halving_doubles_the_rows_of_the_better_half() -> None:
    assert halvings(8, 1600, 3) == [(8, 200), (4, 400), (2, 800), (1, 1600)]
    assert halvings(3, 90, 3) == [(3, 60), (2, 60), (1, 90)]
    assert halvings(1, 90, 3) == [(1, 90)]
    assert halvings(4, 10, 2)[-1] == (1, 10)


def circles() -> Table:
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 2))
    label = np.where((x**2).sum(axis=1) < 1.2, "in", "out").astype(object)
    fields = [Field("a", "number"), Field("b", "number"), Field("label", "category")]
    return Table(fields, {"a": x[:, 0], "b": x[:, 1], "label": label})


@pytest.mark.parametrize("method", ["grid", "halving"])
def test_the_best_of_a_search_has_the_best_score(method: str) -> None:
    """k nearest neighbours need no library: 90 of 96 rows are always the more frequent class."""
    asked = {"params": {"neighbours": [1, 5, 45]}, "method": method, "folds": 2}
    spec = TrainSpec.model_validate(
        {"model": "m", "recipe": "knn-classifier", "dataset": "d@1", "search": asked}
    )
    found, watch = recipe("knn-classifier"), Heard()
    data = material(circles(), spec, found)
    folds = Folds(spec, found, data, watch, 1)
    assert spec.search is not None
    params, told = searched(spec.search, spec, found, folds, data.rows.train, watch)
    assert params.model_dump()["neighbours"] == told["best"]["neighbours"] in (1, 5)
    assert [set(trial["params"]) for trial in told["trials"]] == [{"neighbours"}] * 3
    scores = [trial["mean"]["accuracy"] for trial in told["trials"]]
    assert scores[0] > 0.8
    if method == "grid":
        assert scores == sorted(scores, reverse=True)
    assert watch.steps == [(step + 1, len(watch.steps)) for step in range(len(watch.steps))]
    cv = cross_validated(
        folds, params, data.rows.train, spec.model_copy(update={"folds": 2}), watch
    )
    assert cv["mean"]["accuracy"] == pytest.approx(scores[0]), "the folds are the same ones"
    assert set(cv["mean"]) == set(train_search.METRICS["classification"])


def test_a_wrong_value_of_a_search_is_named_before_anything_is_fitted() -> None:
    asked = {"params": {"neighbours": [5, 0]}}
    spec = TrainSpec.model_validate(
        {"model": "m", "recipe": "knn-classifier", "dataset": "d@1", "search": asked}
    )
    found, watch = recipe("knn-classifier"), Heard()
    data = material(circles(), spec, found)
    folds = Folds(spec, found, data, watch, 1)
    assert spec.search is not None
    with pytest.raises(InvalidInput, match="'neighbours': .* got 0"):
        searched(spec.search, spec, found, folds, data.rows.train, watch)
    assert watch.steps == []


def test_a_candidate_that_cannot_be_tried_is_passed_over_and_none_left_is_an_error() -> None:
    asked = {"params": {"neighbours": [500, 3]}, "folds": 2}
    spec = TrainSpec.model_validate(
        {"model": "m", "recipe": "knn-classifier", "dataset": "d@1", "search": asked}
    )
    found, watch = recipe("knn-classifier"), Heard()
    data = material(circles(), spec, found)
    folds = Folds(spec, found, data, watch, 1)
    assert spec.search is not None
    params, told = searched(spec.search, spec, found, folds, data.rows.train, watch)
    assert params.model_dump()["neighbours"] == 3
    assert told["trials"][-1]["mean"]["accuracy"] is None
    none = spec.search.model_copy(update={"params": {"neighbours": [500, 600]}})
    with pytest.raises(InvalidInput, match="no candidate has a 'accuracy': .*500 are more than"):
        searched(none, spec, found, folds, data.rows.train, watch)
