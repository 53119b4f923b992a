"""Jobs that measure and score leave a report for a person to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.jobs.orders import Order
from aiaas_server.jobs.table import Field
from tests.server.job_process import cards
from tests.server.job_process.at_hand import made_here

POINTS = np.random.default_rng(2).normal(size=(120, 2))
FIELDS = [Field("a", "number"), Field("b", "number"), Field("side", "category")]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"kind": "evaluate", "model": "m@1", "target": "side"}, ("Confusion", "Calibration")),
        (
            {"kind": "compare", "models": ["m@1", "m@2"], "target": "side", "resamples": 100},
            ("Differences", "Rows that changed", "broken", "100 resamples"),
        ),
        ({"kind": "score", "model": "m@1"}, ("Answers", "rows by answer", "m-scores")),
    ],
    ids=["evaluate", "compare", "score"],
)
def test_the_report_is_a_file_of_the_job(
    tmp_path: Path, spec: dict[str, Any], told: tuple[str, ...]
) -> None:
    """Under one name whatever the kind, with what came out and what it came from."""
    side = np.where(POINTS[:, 0] > 0, "right", "left").astype(object)
    for number, bound in ((1, 0.3), (2, 0.1)):
        cards.bundle(tmp_path / f"m{number}", cards.sides(bound), cards.SIDES)
    rows = cards.dataset(
        tmp_path / "d.parquet", "d@1", FIELDS, a=POINTS[:, 0], b=POINTS[:, 1], side=side
    )
    versions = {f"m@{at}": cards.version(tmp_path / f"m{at}", f"m@{at}") for at in (1, 2)}
    order = Order(
        job="j", spec={**spec, "dataset": "d@1"}, datasets={"d@1": rows}, versions=versions
    )
    product = made_here(order, tmp_path)
    text = (tmp_path / product.files["report.html"]).read_text("utf-8")
    for one in (*told, "m@1", "d@1"):
        assert one in text


def test_numbers_are_reported_with_their_residuals(tmp_path: Path) -> None:
    """Rows that got no answer leave no hole in it."""
    cards.bundle(tmp_path / "m", cards.line(2.0), cards.LINE)
    values = POINTS[:, 0].copy()
    values[3] = np.nan
    rows = cards.dataset(
        tmp_path / "d.parquet",
        "d@1",
        [Field("a", "number"), Field("y", "number")],
        a=values,
        y=2.1 * POINTS[:, 0],
    )
    order = Order(
        job="j",
        spec={"kind": "evaluate", "model": "m@1", "dataset": "d@1", "target": "y"},
        datasets={"d@1": rows},
        versions={"m@1": cards.version(tmp_path / "m", "m@1")},
    )
    product = made_here(order, tmp_path)
    assert product.metrics["failed"] == 1
    text = (tmp_path / product.files["report.html"]).read_text("utf-8")
    assert "Residuals" in text
    assert "nan" not in text.lower()
