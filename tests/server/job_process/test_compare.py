"""Two versions on the same rows: what differs, what of that is chance, which rows changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.job_process.metrics import classification_metrics, coded, regression_metrics
from aiaas_server.job_process.resampling import (
    draws,
    interval,
    mcnemar,
    resampled,
    weighed_labels,
    weighed_numbers,
)
from aiaas_server.jobs.orders import LaidDataset, Order
from aiaas_server.jobs.table import Field
from tests.server.job_process import cards
from tests.server.job_process.at_hand import made, made_here, refused_here

RANDOM = np.random.default_rng(11)
POINTS = RANDOM.normal(size=(800, 2))
TRUE = np.where(POINTS[:, 0] > 0, "right", "left").astype(object)
FIELDS = [Field("a", "number"), Field("b", "number"), Field("label", "category")]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_exact_test(broken: int, fixed: int) -> None:
    """A two-sided binomial test of one half."""
    from scipy.stats import binomtest

    expected = binomtest(fixed, broken + fixed).pvalue if broken + fixed else 1.0
    assert mcnemar(broken, fixed) == pytest.approx(expected, rel=1e-9)


def test_weights_are_repeated_rows() -> None:
    """A metric of weighed rows is the metric of the rows, each repeated as often."""
    classes = ["ant", "bee", "cat"]
    scores = RANDOM.dirichlet(np.ones(3), 60).round(1) + 0.01
    scores /= scores.sum(axis=1, keepdims=True)
    truth = np.array([*classes, "dog"], object)[RANDOM.integers(0, 4, 60)]
    weighed = weighed_labels(coded(truth, scores, classes), scores, 10)
    numbers, values = RANDOM.normal(size=60), RANDOM.normal(size=60)
    for weights in draws(60, 5, seed=2):
        rows = np.repeat(np.arange(60), weights.astype(int))
        expected = classification_metrics(truth[rows], scores[rows], classes)
        assert {n: m(weights) for n, m in weighed.items()} == {
            name: pytest.approx(expected[name]) for name in weighed
        }
        told = regression_metrics(numbers[rows], values[rows])
        for name, metric in weighed_numbers(numbers, values).items():
            assert metric(weights) == pytest.approx(told[name])


def test_the_interval_is_that_of_the_theory() -> None:
    """The mean of a normal difference: the bootstrap's interval is near the textbook's."""
    truth = np.zeros(2000)
    a, b = np.abs(RANDOM.normal(1.0, 0.3, 2000)), np.abs(RANDOM.normal(1.2, 0.3, 2000))
    drawn = resampled(weighed_numbers(truth, a), weighed_numbers(truth, b), 2000, 1000, seed=1)
    low, high = interval(drawn["mae"], 0.95)
    assert low is not None
    assert high is not None
    half = 1.96 * np.std(b - a) / np.sqrt(2000)
    assert (low + high) / 2 == pytest.approx(np.mean(b - a), abs=0.1 * half)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def order(tmp_path: Path, b: tuple[bytes, dict[str, Any]] | None = None) -> Order:
    """To compare a line at 0.4 with one at 0.1, where 0 is right."""
    cards.bundle(tmp_path / "a", cards.sides(0.4), cards.SIDES)
    model, card = b or (cards.sides(0.1), cards.SIDES)
    cards.bundle(tmp_path / "b", model, card)
    spec = {"kind": "compare", "models": ["m@3", "m@4"], "dataset": "d@1"}
    laid = {f"m@{n}": cards.version(tmp_path / d, f"m@{n}") for n, d in ((3, "a"), (4, "b"))}
    return Order(job="j", spec=spec, datasets={"d@1": points(tmp_path)}, versions=laid)


def points(tmp_path: Path, a: Any = POINTS[:, 0]) -> LaidDataset:
    return cards.dataset(tmp_path / "d.parquet", "d@1", FIELDS, a=a, b=POINTS[:, 1], label=TRUE)


def test_two_classifiers_are_compared(tmp_path: Path) -> None:
    """Metrics of both, differences beyond chance, McNemar's test, and the rows that changed."""
    found = made(order(tmp_path), tmp_path)
    told_a = np.where(POINTS[:, 0] > 0.4, "right", "left")
    told_b = np.where(POINTS[:, 0] > 0.1, "right", "left")
    by_name = {row["metric"]: row for row in found.table}
    assert list(by_name) == ["accuracy", "precision", "recall", "f1", "roc_auc", "log_loss"]
    accuracy = by_name["accuracy"]
    assert accuracy["a"] == pytest.approx(np.mean(told_a == TRUE))
    assert accuracy["b"] == pytest.approx(np.mean(told_b == TRUE))
    assert accuracy["low"] < accuracy["difference"] < accuracy["high"]
    assert accuracy["better"] == by_name["log_loss"]["better"] == "b"
    assert by_name["roc_auc"]["difference"] == 0.0
    assert by_name["roc_auc"]["better"] is None
    fixed = np.flatnonzero((told_a != TRUE) & (told_b == TRUE))
    assert found.details["fixed"]["rows"] == len(fixed)
    assert [row["row"] for row in found.details["fixed"]["shown"]] == fixed[:100].tolist()
    assert found.details["broken"] == {"rows": 0, "shown": []}
    assert found.details["mcnemar"]["p_value"] < 1e-9
    assert made_here(order_again(tmp_path), tmp_path).table == found.table


def order_again(tmp_path: Path) -> Order:
    """The same order over the files that lie there."""
    return Order.model_validate_json((tmp_path / "order.json").read_text())


def test_rows_that_one_version_does_not_answer_are_left_out(tmp_path: Path) -> None:
    """Both are measured on the same rows; whose failures they were is told."""
    nan = {"columns": [{"name": "a", "missing": "nan"}, {"name": "b"}]}
    asked = order(tmp_path, b=(cards.sides(0.1), {**cards.SIDES, "preprocessing": nan}))
    a = POINTS[:, 0].copy()
    a[:5] = np.nan
    found = made_here(asked.model_copy(update={"datasets": {"d@1": points(tmp_path, a)}}), tmp_path)
    assert found.details["failed"]["a"] == 5
    assert found.details["rows"] == 795


def test_versions_of_different_tasks_are_refused(tmp_path: Path) -> None:
    """Both tasks are named."""
    error = refused_here(order(tmp_path, b=(cards.line(1.0), cards.LINE)), tmp_path)
    assert error.message == (
        "only versions of the same task can be compared: m@3 is of 'tabular-classification', "
        "m@4 of 'tabular-regression'"
    )


def test_two_lines_are_compared(tmp_path: Path) -> None:
    """Less error is better; the rows that moved most come first."""
    cards.bundle(tmp_path / "a", cards.line(2.0, 0.5), cards.LINE)
    cards.bundle(tmp_path / "b", cards.line(2.0, 0.1), cards.LINE)
    a = RANDOM.normal(size=200)
    fields = [Field("a", "number"), Field("target", "number")]
    rows = cards.dataset(tmp_path / "d.parquet", "d@1", fields, a=a, target=2 * a)
    laid = {f"m@{n}": cards.version(tmp_path / d, f"m@{n}") for n, d in ((3, "a"), (4, "b"))}
    spec = {"kind": "compare", "models": ["m@3", "m@4"], "dataset": "d@1", "resamples": 200}
    found = made_here(Order(job="j", spec=spec, datasets={"d@1": rows}, versions=laid), tmp_path)
    mae = next(row for row in found.table if row["metric"] == "mae")
    assert [mae["a"], mae["b"]] == pytest.approx([0.5, 0.1], rel=1e-3)
    assert mae["better"] == "b"
    assert found.details["fixed"]["rows"] == 200
