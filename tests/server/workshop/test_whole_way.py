"""The whole way: rows are uploaded, models are trained by jobs, answer calls and are measured."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.job_process.tables import read_table
from tests.server.http.serving import AsgiCaller
from tests.server.registry.conftest import OpenServer

pytestmark = pytest.mark.slow


def table(rows: int = 300) -> bytes:
    """`x`, `y` and whether their sum is positive, as CSV."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(rows, 2))
    lines = [f"{x:.5f},{y:.5f},{'up' if x + y > 0 else 'down'}" for x, y in points]
    return "\n".join(["x,y,label", *lines]).encode()


async def upload(call: AsgiCaller, name: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    files = [{"name": "rows.csv", "size": len(content), "sha256": digest}]
    path = f"/api/v1/datasets/{name}/drafts"
    draft = (await call("POST", path, {"files": files})).json()
    one = f"{path}/{draft['id']}"
    sent = await call("PUT", f"{one}/files/rows.csv", content)
    assert sent.status == 200, sent.body
    done = await call("POST", f"{one}/commit")
    assert done.status == 201, done.body
    made: dict[str, Any] = done.json()
    return made


async def finished(call: AsgiCaller, spec: dict[str, Any]) -> dict[str, Any]:
    """A job, once it has ended: its stream of events tells when."""
    asked = await call("POST", "/api/v1/jobs", {"spec": spec})
    assert asked.status == 202, asked.body
    path = f"/api/v1/jobs/{asked.json()['id']}"
    async with asyncio.timeout(120):
        await call("GET", f"{path}/events")
    job: dict[str, Any] = (await call("GET", path)).json()
    return job


def succeeded(job: dict[str, Any]) -> dict[str, Any]:
    """What a job made."""
    assert job["state"] == "succeeded", (job["error"], job["log"])
    result: dict[str, Any] = job["result"]
    return result


async def test_rows_become_models_that_answer_and_are_measured(
    open_server: OpenServer, data: Path, tmp_path: Path
) -> None:
    """Nothing of a job is left but what it made."""
    call = await open_server(jobs=1, disk_reserve_bytes=0)
    assert (await upload(call, "points", table()))["rows"] == 300
    base = {"kind": "train", "model": "sign", "dataset": "points"}
    spec = {**base, "recipe": "logistic-regression", "alias": "production"}
    job = await finished(call, spec)
    trained = succeeded(job)
    assert trained["versions"] == [1]
    assert trained["metrics"]["accuracy"] > 0.9
    version = (await call("GET", "/api/v1/models/sign/versions/1")).json()
    assert version["lineage"]["job"] == job["id"]
    assert version["lineage"]["dataset"] == "points@1"
    assert version["aliases"] == ["production"]
    profile = (await call("GET", "/api/v1/models/sign/versions/1/profile")).json()
    assert profile["source"] == "training"
    rows = {"instances": [{"x": 3.0, "y": 3.0}, {"x": -3.0, "y": -3.0}]}
    answered = (await call("POST", "/v1/models/sign:predict", rows)).json()
    assert [one["label"] for one in answered["predictions"]] == ["up", "down"]

    stump = {"recipe": "decision-tree-classifier", "params": {"max_depth": 1}, "target": "label"}
    second = succeeded(await finished(call, {**base, **stump}))
    await check_measured(call, trained, second)
    await check_scored(call, tmp_path / "scores.parquet")
    assert not [path for path in (data / "jobs").iterdir() if not path.name.startswith(".")]


async def check_measured(call: AsgiCaller, first: dict[str, Any], second: dict[str, Any]) -> None:
    """What a training tells of the rows that it held out is what an evaluation finds in them."""
    asked = {"dataset": "points", "held_out": True}
    evaluated = succeeded(await finished(call, {"kind": "evaluate", "model": "sign@1", **asked}))
    for name in ("accuracy", "f1", "roc_auc", "log_loss"):
        assert evaluated["metrics"][name] == pytest.approx(first["metrics"][name], abs=1e-5)
    version = (await call("GET", "/api/v1/models/sign/versions/1")).json()
    assert version["metrics"]["evaluation"]["dataset"] == "points@1"
    pair = {"kind": "compare", "models": ["sign@1", "sign@2"], **asked}
    compared = succeeded(await finished(call, pair))
    (accuracy,) = [row for row in compared["table"] if row["metric"] == "accuracy"]
    assert accuracy["a"] == pytest.approx(evaluated["metrics"]["accuracy"])
    assert accuracy["b"] == pytest.approx(second["metrics"]["accuracy"])
    assert accuracy["better"] == "a"


async def check_scored(call: AsgiCaller, path: Path) -> None:
    """A whole data set is answered, as a data set."""
    spec = {"kind": "score", "model": "sign@1", "dataset": "points"}
    assert succeeded(await finished(call, spec))["datasets"] == ["sign-scores@1"]
    got = await call("GET", "/api/v1/datasets/sign-scores/versions/1/data")
    path.write_bytes(got.body)
    rows = read_table(path)
    assert rows.rows == 300
    assert np.mean(rows["prediction"] == rows["label"]) > 0.9
