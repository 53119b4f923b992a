"""Jobs over HTTP: asked for, listed, followed, cancelled and forgotten."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_client.protocol.jobs import JobFile, JobResult, Progress
from aiaas_server.jobs import queue
from aiaas_server.jobs.events import News
from aiaas_server.state.database import Connection
from aiaas_server.state.tables import DATASETS
from tests.server.http.serving import AsgiCaller
from tests.server.registry.bringing import TENANT, Bringer
from tests.server.registry.conftest import OpenServer

COLUMNS = [
    {"name": "x", "kind": "number", "distinct": 9},
    {"name": "label", "kind": "category", "distinct": 2},
]
EVALUATE: dict[str, Any] = {"kind": "evaluate", "model": "m", "dataset": "d", "target": "label"}


@pytest.fixture
def brought(bringer: Bringer, onnx_models: SimpleNamespace) -> Bringer:
    """A version of `m` and a data set `d` of two versions, the second erased."""
    bringer.bring("m", onnx_models.scale(2.0))
    for number, state in ((1, "ready"), (2, "erased")):
        bringer.database.submit(partial(add_dataset, number=number, state=state)).result()
    return bringer


def add_dataset(connection: Connection, number: int, state: str) -> None:
    connection.execute(
        DATASETS.insert().values(
            tenant=TENANT,
            name="d",
            number=number,
            state=state,
            digest="a" * 64,
            size=1,
            rows=3,
            columns=COLUMNS,
            format="csv",
            lineage={},
            created=0.0,
            created_by="me",
        )
    )


async def ask(call: AsgiCaller, spec: dict[str, Any] = EVALUATE, **more: Any) -> Any:
    answer = await call("POST", "/api/v1/jobs", {"spec": spec, **more})
    return answer.status, answer.json()


async def test_a_job_waits_with_its_references_resolved(
    brought: Bringer, open_server: OpenServer
) -> None:
    call = await open_server()
    status, job = await ask(call, note="why not", attempts=2)
    assert status == 202
    assert (job["state"], job["kind"], job["note"], job["attempts"]) == (
        "queued", "evaluate", "why not", 2,
    )  # fmt: skip
    assert job["spec"]["model"] == "m@1"
    assert job["spec"]["dataset"] == "d@1"
    got = await call("GET", f"/api/v1/jobs/{job['id']}")
    assert got.json() == job
    for query, found in (("", 1), ("?state=queued&model=m", 1), ("?kind=train", 0)):
        listed = (await call("GET", f"/api/v1/jobs{query}")).json()
        assert len(listed["items"]) == found


@pytest.mark.parametrize(
    ("spec", "status", "told"),
    [
        ({"dataset": "e"}, 404, "no data set 'e'"),
        ({"dataset": "d@2"}, 404, "erased"),
        ({"model": "n"}, 404, "n"),
        ({"model": "m@9"}, 404, "9"),
        ({"target": "lable"}, 400, "did you mean 'label'"),
        ({"kind": "levitate"}, 400, "kind"),
        (
            {"kind": "train", "recipe": "logistic-regresion", "model": "n"},
            400,
            "logistic-regression",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused_at_once(
    spec: dict[str, Any], status: int, told: str, brought: Bringer, open_server: OpenServer
) -> None:
    got, answer = await ask(await open_server(), {**EVALUATE, **spec})
    assert got == status, answer
    assert told in answer["error"]


async def test_cancelled_and_forgotten(brought: Bringer, open_server: OpenServer) -> None:
    """Its events are told to the end, and again from behind one that is known."""
    call = await open_server()
    _, job = await ask(call)
    path = f"/api/v1/jobs/{job['id']}"
    refused = await call("DELETE", path)
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    ended = (await call("POST", f"{path}/cancel")).json()
    assert ended["state"] == "cancelled"
    stream = await call("GET", f"{path}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    blocks = [b for b in stream.body.decode().split("\n\n") if b.startswith("id:")]
    assert ['"queued"' in blocks[0], '"cancelled"' in blocks[1]] == [True, True]
    first = blocks[0].partition("\n")[0].removeprefix("id: ")
    rest = await call("GET", f"{path}/events", headers={"last-event-id": first})
    assert rest.body.count(b"id: ") == 1
    assert (await call("DELETE", path)).status == 204
    for method, suffix in (("GET", ""), ("GET", "/events"), ("POST", "/cancel"), ("GET", "/log")):
        assert (await call(method, path + suffix)).status == 404


async def test_files_and_log_of_a_job_that_is_done(
    brought: Bringer, open_server: OpenServer, tmp_path: Path
) -> None:
    """A report is a page that may run nothing; another tenant's job is none."""
    call = await open_server()
    _, job = await ask(call)
    report = b"<p>good</p>"
    row = brought.keep(report)

    def end(connection: Connection) -> None:
        claimed = queue.claim(connection, "a")
        assert claimed is not None
        queue.renew(connection, claimed.hold, News([Progress(step=1)], ["one", "two"]))
        file = JobFile(name="report.html", size=len(report), sha256=row)
        queue.succeed(connection, claimed.hold, JobResult(files=[file]))

    brought.database.submit(end).result()
    path = f"/api/v1/jobs/{job['id']}"
    assert (await call("GET", f"{path}/log")).body == b"one\ntwo\n"
    got = await call("GET", f"{path}/files/report.html")
    assert got.body == report
    assert got.headers["content-type"].startswith("text/html")
    assert "sandbox" in got.headers["content-security-policy"]
    missing = await call("GET", f"{path}/files/other")
    assert (missing.status, "report.html" in missing.json()["error"]) == (404, True)
    assert (await call("POST", f"{path}/cancel")).status == 409


async def test_a_stream_tells_of_a_job_until_it_ends(
    brought: Bringer, open_server: OpenServer
) -> None:
    call = await open_server()
    _, job = await ask(call)
    path = f"/api/v1/jobs/{job['id']}"
    stream = asyncio.create_task(call("GET", f"{path}/events"))
    await asyncio.sleep(0)
    assert not stream.done()
    await call("POST", f"{path}/cancel")
    assert b'"cancelled"' in (await stream).body


async def test_recipes_are_told_with_their_parameters(
    brought: Bringer, open_server: OpenServer
) -> None:
    call = await open_server()
    items = (await call("GET", "/api/v1/recipes")).json()["items"]
    names = [item["name"] for item in items]
    assert "logistic-regression" in names
    assert names == sorted(names)
    one = (await call("GET", "/api/v1/recipes/logistic-regression")).json()
    assert one["task"] == "classification"
    assert one["params"]["properties"]
    assert (await call("GET", "/api/v1/recipes/magic")).status == 404
    paths = (await call("GET", "/openapi.json")).json()["paths"]
    assert "/api/v1/jobs/{job}/events" in paths
