"""Two trained versions are evaluated, compared and scored by jobs of a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.job_process.tables import read_table
from tests.server.registry.conftest import OpenServer
from tests.server.workshop.test_whole_way import finished, table, upload

pytestmark = pytest.mark.slow


def succeeded(job: dict[str, Any]) -> dict[str, Any]:
    """What a job made."""
    assert job["state"] == "succeeded", (job["error"], job["log"])
    result: dict[str, Any] = job["result"]
    return result


async def test_versions_are_measured_and_answer_whole_data_sets(
    open_server: OpenServer, tmp_path: Path
) -> None:
    """What a training tells of the rows that it held out is what an evaluation finds in them."""
    call = await open_server(jobs=1, disk_reserve_bytes=0)
    await upload(call, "points", table())
    base = {"kind": "train", "model": "sign", "dataset": "points", "target": "label"}
    trained = [
        succeeded(await finished(call, {**base, "recipe": recipe, "params": params}))
        for recipe, params in (
            ("logistic-regression", {}),
            ("decision-tree-classifier", {"max_depth": 1}),
        )
    ]
    asked = {"dataset": "points", "held_out": True}
    evaluated = succeeded(await finished(call, {"kind": "evaluate", "model": "sign@1", **asked}))
    for name in ("accuracy", "f1", "roc_auc", "log_loss"):
        assert evaluated["metrics"][name] == pytest.approx(trained[0]["metrics"][name], abs=1e-5)
    version = (await call("GET", "/api/v1/models/sign/versions/1")).json()
    assert version["metrics"]["evaluation"]["dataset"] == "points@1"
    pair = {"kind": "compare", "models": ["sign@1", "sign@2"], **asked}
    compared = succeeded(await finished(call, pair))
    (accuracy,) = [row for row in compared["table"] if row["metric"] == "accuracy"]
    assert accuracy["a"] == pytest.approx(evaluated["metrics"]["accuracy"])
    assert accuracy["b"] == pytest.approx(trained[1]["metrics"]["accuracy"])
    assert accuracy["better"] == "a"
    scored = succeeded(
        await finished(call, {"kind": "score", "model": "sign@1", "dataset": "points"})
    )
    assert scored["datasets"] == ["sign-scores@1"]
    got = await call("GET", "/api/v1/datasets/sign-scores/versions/1/data")
    (tmp_path / "scores.parquet").write_bytes(got.body)
    rows = read_table(tmp_path / "scores.parquet")
    assert rows.rows == 300
    assert np.mean(rows["prediction"] == rows["label"]) > 0.9
