"""The routes of data sets, as any HTTP client sees them."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio
from pyarrow import parquet

from aiaas_server import platform
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.tables import DATASET_DRAFTS, JOBS
from aiaas_server.workshop import datasets as workshop_datasets
from aiaas_server.workshop.datasets import Datasets
from tests.server.http.edge_caller import EdgeCaller
from tests.server.http.serving import AsgiCaller
from tests.server.registry.deploying import files_below, sha
from tests.server.workshop.reading import read_here

CSV = b"age,label,born\n1,a,2020-01-01\n2,b,2020-01-02\n3,a,\n"
BASE = "/api/v1/datasets"
Call = Any
CALLERS: dict[str, Callable[[Any], Any]] = {"bare": AsgiCaller, "edge": EdgeCaller}


@pytest_asyncio.fixture
async def open_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Any]]:
    """`call = await open_server(kind, **settings)`: a server with a data directory."""
    monkeypatch.setattr(platform, "Datasets", partial(Datasets, run=read_here))
    (tmp_path / "models").mkdir()
    async with AsyncExitStack() as stack:

        async def make(kind: str = "bare", **settings: Any) -> Call:
            given: dict[str, Any] = {"disk_reserve_bytes": 0, "max_dataset_bytes": 2**22} | settings
            app = create_app(Settings(models=tmp_path / "models", data=tmp_path / "data", **given))
            return CALLERS[kind](await stack.enter_async_context(app))

        yield make


@pytest_asyncio.fixture(params=["bare", "edge"])
async def call(request: pytest.FixtureRequest, open_server: Callable[..., Any]) -> Call:
    """Calls a server."""
    return await open_server(request.param)


def listed(files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    return {
        "files": [{"name": n, "size": len(c), "sha256": sha(c)} for n, c in files.items()],
        **more,
    }


async def open_draft(call: Call, name: str, files: dict[str, bytes], **more: Any) -> str:
    """Open a draft and send what is missing; gives its path."""
    answer = await call("POST", f"{BASE}/{name}/drafts", listed(files, **more))
    assert answer.status in (200, 201), answer.body
    path = f"{BASE}/{name}/drafts/{answer.json()['id']}"
    for file in answer.json()["files"]:
        if not file["complete"]:
            sent = await call("PUT", f"{path}/files/{file['name']}", files[file["name"]])
            assert sent.status == 200, sent.body
    return path


async def upload(call: Call, name: str, content: bytes = CSV, **more: Any) -> Any:
    path = await open_draft(call, name, {"a.csv": content}, **more)
    return await call("POST", f"{path}/commit", b"")


async def test_a_data_set_is_brought_looked_at_and_fetched(call: Call, tmp_path: Path) -> None:
    done = await upload(call, "d", note="first", description="ages", kinds={"age": "number"})
    assert done.status == 201, done.body
    told = done.json()
    assert (told["number"], told["rows"], told["format"], told["note"]) == (1, 3, "csv", "first")
    assert [(c["name"], c["kind"], c["missing"]) for c in told["columns"]] == [
        ("age", "number", 0), ("label", "category", 0), ("born", "time", 1),
    ]  # fmt: skip
    assert len(told["columns"][0]["histogram"]) == 20
    assert "created_now" not in told
    assert (await upload(call, "d", kinds={"age": "number"})).status == 200
    second = (await upload(call, "d", CSV + b"4,c,\n")).json()
    assert (second["number"], second["rows"], second["description"]) == (2, 4, "ages")
    for asked, number in (("1", 1), ("2", 2), ("latest", 2)):
        found = await call("GET", f"{BASE}/d/versions/{asked}")
        assert (found.status, found.json()["number"]) == (200, number)
        data = await call("GET", f"{BASE}/d/versions/{asked}/data")
        assert sha(data.body) == found.json()["digest"]
        assert data.headers["etag"] == f'"{sha(data.body)}"' == found.headers["etag"]
        assert int(data.headers["content-length"]) == len(data.body) == found.json()["size"]
    table = parquet.read_table(io.BytesIO(data.body))
    assert table.column("age").to_pylist() == [1, 2, 3, 4]
    page = (await call("GET", BASE)).json()
    assert [(one["name"], one["number"]) for one in page["items"]] == [("d", 2)]
    assert page["items"][0]["columns"][0] == found.json()["columns"][0] | {
        "edges": [], "histogram": [], "classes": [],
    }  # fmt: skip
    versions = (await call("GET", f"{BASE}/d/versions?limit=1")).json()
    assert (versions["items"][0]["number"], versions["next"]) == (2, "2")
    rest = (await call("GET", f"{BASE}/d/versions?limit=1&after=2")).json()
    assert rest["items"][0]["number"] == 1
    kept = {path for path in files_below(tmp_path / "data") if "artefacts" in path}
    assert len(kept) == 2  # the rows of each version; of what was sent nothing is left
    assert list((tmp_path / "data" / "reading").iterdir()) == []


async def test_an_upload_goes_on_where_it_broke_off(call: Call) -> None:
    draft = (await call("POST", f"{BASE}/d/drafts", listed({"a.csv": CSV}))).json()
    path = f"{BASE}/d/drafts/{draft['id']}"
    half = await call("PUT", f"{path}/files/a.csv?offset=0", (CSV[:10], CSV[10:20], b""))
    assert half.json()["files"][0]["received"] == 20
    early = await call("POST", f"{path}/commit", b"")
    assert (early.status, "1 of 1 files are missing" in early.json()["error"]) == (409, True)
    again = await call("POST", f"{BASE}/d/drafts", listed({"a.csv": CSV}))
    assert (again.status, again.json()["id"]) == (200, draft["id"])
    wrong = await call("PUT", f"{path}/files/a.csv?offset=19", CSV[19:])
    assert (wrong.status, "received are 20" in wrong.json()["error"]) == (409, True)
    whole = await call("PUT", f"{path}/files/a.csv?offset=20", CSV[20:])
    assert whole.json()["files"][0]["complete"]
    assert (await call("GET", path)).json() == whole.json()
    assert (await call("POST", f"{path}/commit", b"")).status == 201
    assert (await call("GET", path)).status == 404


async def test_what_cannot_be_read_is_told_and_read_otherwise_without_sending_again(
    call: Call, tmp_path: Path
) -> None:
    content = b"age\n" + b"1\n" * 20 + b"old\n"
    refused = await upload(call, "d", content)
    assert (refused.status, refused.json()["code"]) == (400, "invalid_request")
    assert "a.csv, line 22, column 'age': expected a number, got 'old'" in refused.json()["error"]
    assert (await call("GET", f"{BASE}/d/versions")).status == 404
    asked = listed({"a.csv": content}, kinds={"age": "category"})
    draft = await call("POST", f"{BASE}/d/drafts", asked)
    assert (draft.status, draft.json()["files"][0]["complete"]) == (200, True)
    done = await call("POST", f"{BASE}/d/drafts/{draft.json()['id']}/commit", b"")
    assert (done.status, done.json()["columns"][0]["kind"]) == (201, "category")


async def test_sizes_are_limited_before_and_behind_the_packing(call: Call, tmp_path: Path) -> None:
    large = {"files": [{"name": "a.csv", "size": 2**22 + 1, "sha256": "0" * 64}]}
    refused = await call("POST", f"{BASE}/d/drafts", large)
    assert (refused.status, refused.json()["code"]) == (413, "payload_too_large")
    assert "4194304 bytes together (max_dataset_bytes)" in refused.json()["error"]
    held = io.BytesIO()
    parquet.write_table(pa.table({"a": ["x" * 100] * 10**5}), held)
    packed = held.getvalue()
    path = await open_draft(call, "d", {"a.parquet": packed})
    refused = await call("POST", f"{path}/commit", b"")
    assert refused.status == 413
    assert "a.parquet: expected at most 4194304 bytes of rows" in refused.json()["error"]
    assert (await call("DELETE", path)).status == 204
    assert files_below(tmp_path / "data") == set()


async def test_erasing_leaves_a_memory_and_no_bytes(call: Call, tmp_path: Path) -> None:
    first = (await upload(call, "d")).json()
    second = (await upload(call, "d", CSV + b"4,c,\n")).json()
    twin = (await upload(call, "twin")).json()  # the same rows, another name
    assert twin["digest"] == first["digest"]
    assert (await call("DELETE", f"{BASE}/d/versions/latest")).status == 404
    shared = (await call("DELETE", f"{BASE}/d/versions/1")).json()
    assert (shared["gone"], shared["kept"]) == ([], [first["digest"]])
    assert (await call("DELETE", f"{BASE}/d/versions/1")).status == 404
    left = (await call("GET", f"{BASE}/d/versions/1")).json()
    assert (left["state"], left["rows"], left["columns"][0]["minimum"]) == ("erased", 3, None)
    gone = await call("GET", f"{BASE}/d/versions/1/data")
    assert (gone.status, "'d@1' was erased" in gone.json()["error"]) == (404, True)
    await open_draft(call, "d", {"a.csv": b"other\n1\n"})
    erased = (await call("DELETE", f"{BASE}/d")).json()["items"]
    assert [(one["number"], one["gone"]) for one in erased] == [(2, [second["digest"]])]
    assert (await call("GET", f"{BASE}/d/versions/latest")).status == 404
    assert (await call("DELETE", f"{BASE}/twin/versions/1")).json()["gone"] == [first["digest"]]
    assert files_below(tmp_path / "data") == set()
    assert (await upload(call, "d")).json()["number"] == 3


def write_beside(tmp_path: Path, statement: Any) -> None:
    """Write to the database of a server."""
    database = Database(f"sqlite:///{tmp_path / 'data' / 'state.db'}")
    database.submit(lambda c: c.execute(statement)).result()
    database.close()


def job_on(dataset: str, state: str = "queued") -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex, "tenant": "default", "kind": "train", "subject": "m",
        "spec": {"kind": "train", "dataset": dataset}, "state": state, "attempts": 3,
        "progress": {}, "log": [], "created": time.time(), "created_by": "me",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/d/versions/1", "/d"])
@pytest.mark.parametrize("state", ["queued", "running"])
async def test_what_a_job_needs_is_not_erased_under_it(
    path: str, state: str, open_server: Callable[..., Any], tmp_path: Path
) -> None:
    call = await open_server()
    await upload(call, "d")
    job = job_on("d@1", state)
    others = [job_on("d@1", "succeeded"), job_on("d@11"), job_on("d@1") | {"tenant": "other"}]
    for row in (job, *others):
        write_beside(tmp_path, JOBS.insert().values(**row))
    refused = await call("DELETE", f"{BASE}{path}")
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    assert f"data set 'd@1' is needed by job '{job['id']}'" in refused.json()["error"]
    assert (await call("GET", f"{BASE}/d/versions/1/data")).status == 200
    ended = JOBS.update().where(JOBS.c.id == job["id"]).values(state="cancelled")
    write_beside(tmp_path, ended)
    assert (await call("DELETE", f"{BASE}{path}")).status == 200


async def test_a_full_disk_takes_nothing_but_gives_and_erases(
    open_server: Callable[..., Any],
) -> None:
    await upload(await open_server(), "d")
    full = await open_server(disk_reserve_bytes=2**60)
    refused = await full("POST", f"{BASE}/d/drafts", listed({"a.csv": b"a\n1\n"}))
    assert (refused.status, refused.json()["code"]) == (507, "storage_full")
    assert (await full("GET", f"{BASE}/d/versions/1/data")).status == 200
    assert (await full("DELETE", f"{BASE}/d/versions/1")).status == 200


async def test_damaged_rows_are_told_and_made_whole_by_the_same_upload(
    open_server: Callable[..., Any], tmp_path: Path
) -> None:
    call = await open_server()
    digest = (await upload(call, "d")).json()["digest"]
    (tmp_path / "data" / "artefacts" / "default" / digest[:2] / digest).write_bytes(b"PAR1")
    refused = await call("GET", f"{BASE}/d/versions/1/data")
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    assert "upload it again" in refused.json()["error"]
    assert (await upload(call, "d")).status == 200
    assert sha((await call("GET", f"{BASE}/d/versions/1/data")).body) == digest


async def test_old_drafts_and_lost_directories_go_at_the_start(
    open_server: Callable[..., Any], tmp_path: Path
) -> None:
    call = await open_server()
    path = await open_draft(call, "d", {"a.csv": CSV})
    young = await open_draft(call, "e", {"a.csv": b"a\n1\n"})
    old = DATASET_DRAFTS.update().where(DATASET_DRAFTS.c.name == "d")
    aged = old.values(created=time.time() - 24 * 3600 - 1)
    write_beside(tmp_path, aged)
    assert (await call("GET", path)).status == 404
    lost = tmp_path / "data" / "reading" / "abc"
    lost.mkdir()
    lost.with_name("abc.lock").touch()
    await open_server()
    assert list((tmp_path / "data" / "reading").iterdir()) == []
    kept = {place for place in files_below(tmp_path / "data") if "artefacts" in place}
    assert len(kept) == 1
    assert (await call("POST", f"{young}/commit", b"")).status == 201


async def test_a_server_without_its_packages_says_which(
    open_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = await open_server()
    monkeypatch.setattr(workshop_datasets, "find_spec", lambda name: None)
    refused = await upload(call, "d")
    assert (refused.status, refused.json()["code"]) == (501, "not_supported")
    assert "aiaas-client[server,platform,train]" in refused.json()["error"]


HOSTILE = (
    ("GET", "/d/versions/0"), ("GET", "/d/versions/-1"), ("GET", "/d/versions/1.0"),
    ("GET", "/d/versions/99999999999999999999"), ("GET", "/d/versions/9999999999"),
    ("GET", "/d/versions/%00/data"), ("DELETE", "/d/versions/x"), ("DELETE", "/nosuch"),
    ("GET", "/nosuch/versions"), ("GET", "/d/versions?after=x"), ("GET", "/?limit=0"),
    ("GET", "/d/drafts/" + "0" * 32), ("POST", "/d/drafts/x/commit"), ("DELETE", "/d/drafts/x"),
    ("PUT", "/d/drafts/x/files/a.csv"), ("POST", "/a%2Fb/drafts"), ("POST", "/%00/drafts"),
)  # fmt: skip
BODIES: tuple[dict[str, Any], ...] = (
    {}, {"files": []}, {"files": [{"name": "../x", "size": 1, "sha256": "0" * 64}]},
    {"files": [{"name": "a", "size": -1, "sha256": "0" * 64}]},
    listed({"a.csv": CSV}, kinds={"a": "colour"}), listed({"a.csv": CSV}, format="xls"),
    listed({"a.csv": CSV}, unknown=1), listed({"a.csv": CSV}, note="\0"),
    listed({f"{n}.csv": CSV for n in range(9)}),
)  # fmt: skip


async def test_nothing_that_is_written_anywhere_fails_inside(call: Call) -> None:
    await upload(call, "d")
    for method, path in HOSTILE:
        answer = await call(method, BASE + path, b"" if method != "POST" else listed({"a": b"x"}))
        assert 400 <= answer.status < 500, (method, path, answer.status, answer.body)
        assert answer.json()["error"]
    for body in BODIES:
        answer = await call("POST", f"{BASE}/e/drafts", body)
        assert answer.status == 400, (body, answer.body)


@pytest.mark.slow
async def test_files_are_read_in_a_process_of_their_own(
    open_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "Datasets", Datasets)
    call = await open_server()
    done = await upload(call, "d")
    assert (done.status, done.json()["rows"]) == (201, 3), done.body
    refused = await upload(call, "e", b"a,b\n1\n")
    assert (refused.status, refused.json()["code"]) == (400, "invalid_request")
    assert "a.csv, line 2: expected 2 cells, got 1" in refused.json()["error"]
