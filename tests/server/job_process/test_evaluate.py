"""A version measured on a data set: in a process of its own, as a server has it done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.datasets import Split
from aiaas_server.jobs.orders import Order
from aiaas_server.jobs.splits import split_rows
from aiaas_server.jobs.table import Field, Table
from tests.server.job_process import cards
from tests.server.job_process.at_hand import made, made_here, refused_here

RANDOM = np.random.default_rng(5)
POINTS = RANDOM.normal(size=(600, 2))
TRUE = np.where(POINTS[:, 0] > 0, "right", "left").astype(object)
FIELDS = [Field("a", "number"), Field("b", "number"), Field("side", "category")]
SPLIT = {"test": 0.25, "by": "stratified", "seed": 3}


def order(tmp_path: Path, spec: dict[str, Any], side: Any = TRUE, **lineage: Any) -> Order:
    """To evaluate a version that draws the line at 0.3 instead of 0."""
    cards.bundle(tmp_path / "m", cards.sides(0.3), cards.SIDES)
    rows = cards.dataset(
        tmp_path / "d.parquet", "d@1", FIELDS, a=POINTS[:, 0], b=POINTS[:, 1], side=side
    )
    spec = {"kind": "evaluate", "model": "m@3", "dataset": "d@1", **spec}
    laid = cards.version(tmp_path / "m", "m@3", **lineage)
    return Order(job="j", spec=spec, datasets={"d@1": rows}, versions={"m@3": laid})


def test_a_classifier_is_measured(tmp_path: Path) -> None:
    """The metrics are those of its answers, stand at the version, and the worst rows are named."""
    found = made(order(tmp_path, {"target": "side"}), tmp_path)
    told = np.where(POINTS[:, 0] > 0.3, "right", "left")
    right = told == TRUE
    assert found.metrics["accuracy"] == pytest.approx(right.mean())
    assert found.metrics["rows"] == 600
    assert found.measured["m@3"]["evaluation"] == found.metrics
    assert found.metrics["dataset"] == "d@1"
    assert np.trace(found.details["confusion"]["counts"]) == right.sum()
    worst = found.details["worst"]
    assert all(not right[row["row"]] and row["answer"] == "left" for row in worst)
    assert [row["score"] for row in worst] == sorted((r["score"] for r in worst), reverse=True)
    assert found.details["calibration"]["rows"]


def test_only_what_was_held_out_and_the_target_of_its_training(tmp_path: Path) -> None:
    """Lineage says which column and which rows; rows without a truth are told, not measured."""
    side = TRUE.copy()
    side[::10] = None
    lineage = {"dataset": "d@1", "target": "side", "split": SPLIT, "features": ["a", "b"]}
    found = made_here(order(tmp_path, {"held_out": True}, side, **lineage), tmp_path)
    table = Table(FIELDS[2:], {"side": side})
    test = split_rows(table, Split.model_validate(SPLIT), "side").test
    kept = [row for row in test if side[row] is not None]
    assert found.metrics["rows"] == len(kept)
    assert found.metrics["without_truth"] == len(test) - len(kept)
    told = np.where(POINTS[kept, 0] > 0.3, "right", "left")
    assert found.metrics["accuracy"] == pytest.approx(np.mean(told == TRUE[kept]))


def test_rows_that_fail_are_told_beside_the_metrics(tmp_path: Path) -> None:
    """A missing value that the version refuses fails that row alone."""
    asked = order(tmp_path, {"target": "side"})
    a = POINTS[:, 0].copy()
    a[[4, 17]] = np.nan
    rows = cards.dataset(tmp_path / "d.parquet", "d@1", FIELDS, a=a, b=POINTS[:, 1], side=TRUE)
    found = made_here(asked.model_copy(update={"datasets": {"d@1": rows}}), tmp_path)
    assert found.metrics["failed"] == 2
    assert found.metrics["rows"] == 598
    assert [row["row"] for row in found.details["failures"]] == [4, 17]
    assert "column 'a'" in found.details["failures"][0]["message"]


@pytest.mark.parametrize(
    ("spec", "lineage", "message"),
    [
        ({}, {}, "nothing says which column is the truth"),
        ({"target": "sidee"}, {}, "no column 'sidee'; there are a, b, side"),
        ({"target": "a"}, {}, "column 'a': none of its labels"),
        ({"target": "side", "held_out": True}, {}, "m@3 has no data set in its lineage"),
        (
            {"target": "side", "held_out": True},
            {"dataset": "d@2", "split": SPLIT},
            "m@3 was trained on d@2; nothing of d@1 was held out for it",
        ),
    ],
)
def test_what_cannot_be_measured_says_why(
    tmp_path: Path, spec: Any, lineage: Any, message: str
) -> None:
    """By the name of the column, the version and the data set."""
    error = refused_here(order(tmp_path, spec, **lineage), tmp_path)
    assert message in error.message
    assert error.code == "invalid_input"


def test_numbers_are_measured(tmp_path: Path) -> None:
    """MSE, MAE and R² of a line, and the greatest errors."""
    cards.bundle(tmp_path / "m", cards.line(2.0), cards.LINE)
    a, noise = RANDOM.normal(size=300), RANDOM.normal(size=300)
    fields = [Field("a", "number"), Field("target", "number")]
    rows = cards.dataset(tmp_path / "d.parquet", "d@1", fields, a=a, target=2 * a + noise)
    asked = Order(
        job="j",
        spec={"kind": "evaluate", "model": "m@3", "dataset": "d@1"},
        datasets={"d@1": rows},
        versions={"m@3": cards.version(tmp_path / "m", "m@3")},
    )
    found = made_here(asked, tmp_path)
    assert found.metrics["mse"] == pytest.approx(np.mean(noise**2), rel=1e-4)
    assert found.metrics["target"] == "target"
    assert found.details["worst"][0]["row"] == np.argmax(np.abs(noise))
