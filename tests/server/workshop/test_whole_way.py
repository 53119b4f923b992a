"""The whole way: rows are uploaded, a model is trained by a job, and it answers calls."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


async def test_rows_become_a_model_that_answers(open_server: OpenServer, data: Path) -> None:
    """Nothing of the job is left but what it made."""
    call = await open_server(jobs=1, disk_reserve_bytes=0)
    assert (await upload(call, "points", table()))["rows"] == 300
    spec = {
        "kind": "train",
        "model": "sign",
        "recipe": "logistic-regression",
        "dataset": "points",
        "alias": "production",
    }
    job = await finished(call, spec)
    assert job["state"] == "succeeded", (job["error"], job["log"])
    assert job["result"]["versions"] == [1]
    assert job["result"]["metrics"]["accuracy"] > 0.9
    version = (await call("GET", "/api/v1/models/sign/versions/1")).json()
    assert version["lineage"]["job"] == job["id"]
    assert version["lineage"]["dataset"] == "points@1"
    assert version["aliases"] == ["production"]
    profile = (await call("GET", "/api/v1/models/sign/versions/1/profile")).json()
    assert profile["source"] == "training"
    rows = {"instances": [{"x": 3.0, "y": 3.0}, {"x": -3.0, "y": -3.0}]}
    answered = (await call("POST", "/v1/models/sign:predict", rows)).json()
    assert [one["label"] for one in answered["predictions"]] == ["up", "down"]
    assert not [path for path in (data / "jobs").iterdir() if not path.name.startswith(".")]
