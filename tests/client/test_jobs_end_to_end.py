"""From a frame to a served model on the real server, in this process: `Client.local(data=...)`."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    Client,
    InputError,
    JobCancelledError,
    NotFoundError,
)
from aiaas_client._bulk.live import Board, Lines

pytestmark = pytest.mark.slow

TIMEOUT = 120.0  # seconds; a job takes a few


def flowers(rows: int = 90) -> dict[str, Any]:
    """Three classes that one number tells apart, beside one that tells nothing."""
    random = np.random.default_rng(0)
    kind = np.arange(rows) % 3
    return {
        "width": kind + random.normal(0.0, 0.1, rows),
        "noise": random.normal(size=rows),
        "label": np.array(["iris", "lily", "rose"])[kind],
    }


def test_a_frame_becomes_a_model(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(flowers())
    with Client.local(data=tmp_path / "data", jobs=1) as client:
        data = client.datasets.upload("flowers", frame)
        assert [column.kind for column in data.columns] == ["number", "number", "category"]
        assert client.datasets.upload("flowers", frame).created_now is False
        pd.testing.assert_frame_equal(data.to_frame(), frame, check_dtype=False)

        with pytest.raises(BadRequestError, match="did you mean 'label'"):
            client.jobs.train("m", recipe="decision-tree-classifier", dataset=data, target="labl")
        with pytest.raises(BadRequestError, match="did you mean"):
            client.jobs.train("m", recipe="decision-tree-clasifier", dataset=data)

        job = client.jobs.train("m", recipe="decision-tree-classifier", dataset=data, note="first")
        assert client.jobs.get(job.id).id == job.id
        told: list[str] = []
        assert job.wait(TIMEOUT, progress=lambda one: told.append(one.phase)) is job
        assert "training" in told
        assert [one.phase for one in job.history()] == told
        assert job.version == "m@1"
        assert job.metrics["accuracy"] > 0.8
        assert b"<html" in job.report(tmp_path / "report.html").read_bytes()[:200]
        assert "parity" in job.log()

        shown = io.StringIO()
        lines = Lines(Board(job.title), shown, lambda: 0.0)
        for event in job.events():
            lines.hear(event)
        assert shown.getvalue().splitlines()[-1] == "train m: succeeded"

        version = client.models.version("m", 1)
        assert (version.lineage["job"], version.lineage["dataset"]) == (job.id, "flowers@1")
        answer = client.model("m").predict({"width": 2.0, "noise": 0.0})
        assert answer.label == "rose"

        client.datasets.delete("flowers", all=True)
        with pytest.raises(InputError, match="erased"):
            client.datasets.get("flowers@1").to_frame()
        job.delete()  # the version stays
        assert client.models.version("m", 1).state == "verified"
        with pytest.raises(NotFoundError):
            job.refresh()


def test_it_is_all_there_on_an_event_loop(tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text("a,b\n" + "1,2\n3,4\n" * 20)
    (tmp_path / "bad.csv").write_text("a,b\n" + "1,2\n" * 20 + "x,3\n")

    async def run() -> None:
        async with AsyncClient.local(data=tmp_path / "data", jobs=1) as client:
            with pytest.raises(BadRequestError, match=r"bad\.csv, line 22, column 'a'"):
                await client.datasets.upload("d", tmp_path / "bad.csv")
            data = await client.datasets.upload("d", tmp_path / "good.csv")
            assert (data.rows, data.ref) == (40, "d@1")
            assert "ridge" in [one.name for one in await client.jobs.recipes()]
            job = await client.jobs.train("m", recipe="ridge", dataset=data, target="b")
            await job.cancel()
            with pytest.raises(JobCancelledError):
                await job.wait(TIMEOUT)
            async with job.events() as events:
                last = [event async for event in events][-1]
            assert last.data["state"] == "cancelled"
            with pytest.raises(NotFoundError):
                await client.models.version("m", 1)

    asyncio.run(run())
