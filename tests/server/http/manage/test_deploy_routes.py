"""The routes of drafts, files and erasure, as any HTTP client sees them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from aiaas_server import platform
from aiaas_server.app import create_app
from aiaas_server.core.errors import Conflict
from aiaas_server.settings import Settings
from tests.server.http.edge_caller import EdgeCaller
from tests.server.http.serving import AsgiCaller
from tests.server.registry.deploying import load_it, sha
from tests.waiting import until
from tests.webhook import Hook, hook

CALLERS = {"bare": AsgiCaller, "edge": EdgeCaller}
Call = Any


@pytest.fixture
def alerts() -> Iterator[Hook]:
    """Where the server's alerts go."""
    with hook() as found:
        yield found


@pytest_asyncio.fixture(params=["bare", "edge"])
async def call(
    request: pytest.FixtureRequest,
    make_repository: Any,
    onnx_models: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alerts: Hook,
) -> AsyncIterator[Call]:
    """Calls a server with `--data`, beside a directory that holds the model `public`."""
    repository = make_repository({"public": onnx_models.scale()})
    settings = Settings(
        models=repository,
        data=tmp_path / "data",
        disk_reserve_bytes=0,
        max_model_file_bytes=2**22,
        alert_url=alerts.url,
    )
    monkeypatch.setattr(platform, "Verifier", lambda **limits: LoadsIt())
    async with create_app(settings) as app:
        yield CALLERS[request.param](app)


class LoadsIt:
    """In place of `Verifier`: in this process, since what is deployed here is our own."""

    verify = staticmethod(load_it)

    def expect(self) -> None:
        """Nothing has to be ready."""

    async def close(self) -> None:
        """Nothing is."""


def listed(files: dict[str, bytes], **more: Any) -> dict[str, Any]:
    return {
        "files": [{"name": n, "size": len(c), "sha256": sha(c)} for n, c in files.items()],
        **more,
    }


async def deploy(call: Call, name: str, files: dict[str, bytes], **more: Any) -> Any:
    draft = (await call("POST", f"/api/v1/models/{name}/drafts", listed(files, **more))).json()
    base = f"/api/v1/models/{name}/drafts/{draft['id']}"
    for file in draft["files"]:
        if not file["complete"]:
            answer = await call("PUT", f"{base}/files/{file['name']}", files[file["name"]])
            assert answer.status == 200, answer.body
    return await call("POST", f"{base}/commit", b"")


async def test_a_model_is_brought_committed_exported_and_erased(
    call: Call, onnx_models: SimpleNamespace
) -> None:
    files = {"model.onnx": onnx_models.scale(3.0), "labels.txt": b"a\n" * 5000}
    done = await deploy(call, "m", files, alias="canary", note="first")
    assert done.status == 201
    assert (done.json()["version"], done.json()["state"]) == (1, "verified")
    assert done.json()["inputs"][0]["name"] == "x"
    assert (await deploy(call, "m", files)).status == 200
    for version in ("1", "latest", "canary"):
        for name, content in files.items():
            got = await call("GET", f"/api/v1/models/m/versions/{version}/files/{name}")
            assert (got.status, got.body) == (200, content)
            assert got.headers["etag"] == f'"{sha(content)}"'
    refused = await call("DELETE", "/api/v1/models/m/versions/1")
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    gone = await call("DELETE", "/api/v1/models/m?force=true")
    assert (gone.status, gone.json()["verified"], gone.json()["versions"]) == (200, True, [1])
    got = await call("GET", "/api/v1/models/m/versions/1/files/model.onnx")
    assert (got.status, got.json()["code"]) == (404, "not_found")


async def test_a_body_in_pieces_goes_on_where_it_broke_off(
    call: Call, onnx_models: SimpleNamespace
) -> None:
    content = onnx_models.scale()
    draft = (await call("POST", "/api/v1/models/m/drafts", listed({"model.onnx": content}))).json()
    base = f"/api/v1/models/m/drafts/{draft['id']}"
    file = f"{base}/files/model.onnx"
    pieces = (content[:10], content[10:20], b"")
    answer = await call("PUT", f"{file}?offset=0", pieces)
    assert answer.json()["files"][0]["received"] == 20
    wrong = await call("PUT", f"{file}?offset=19", content[19:])
    assert wrong.status == 409
    assert "received are 20" in wrong.json()["error"]
    assert (await call("POST", f"{base}/commit", b"")).status == 409
    answer = await call("PUT", f"{file}?offset=20", content[20:])
    assert answer.json()["files"][0]["complete"]
    assert (await call("GET", base)).json() == answer.json()
    assert (await call("POST", f"{base}/commit", b"")).status == 201
    assert (await call("GET", base)).status == 404


async def test_a_refused_model_says_why_in_one_line(call: Call) -> None:
    answer = await deploy(call, "m", {"model.onnx": b"no model"})
    assert (answer.status, answer.json()["code"]) == (422, "model_rejected")
    assert "cannot be loaded" in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert not answer.json()["retryable"]


NAMES = {
    "stats": 400, "x" * 300: 400, ".": 400, "..": 400, "a%2Fb": 404, "..%2F..%2Fetc": 404,
    "a%00b": 400, "%C3%A4": 400, "-x": 400, "public": 409, "": 404,
}  # fmt: skip


@pytest.mark.parametrize(("name", "status"), NAMES.items(), ids=[n[:12] for n in NAMES])
async def test_names_that_cannot_be_deployed_to(name: str, status: int, call: Call) -> None:
    answer = await call("POST", f"/api/v1/models/{name}/drafts", listed({"model.onnx": b"x"}))
    assert answer.status == status or (status == 404 and answer.status == 400)
    assert answer.json()["error"]


D = "0" * 64
BODIES: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, "JSON"),
    "no files": ({}, 400, "files"),
    "none": ({"files": []}, 400, "files"),
    "a misspelt key": (listed({"model.onnx": b"x"}) | {"alais": "a"}, 400, "alais"),
    "a path": (listed({"../model.onnx": b"x"}), 400, "files.0.name"),
    "no digest": ({"files": [{"name": "model.onnx", "size": 1, "sha256": "x"}]}, 400, "sha256"),
    "a negative size": ({"files": [{"name": "model.onnx", "size": -1, "sha256": D}]}, 400, "size"),
    "an alias like a version": (listed({"model.onnx": b"x"}, alias="3"), 400, "alias"),
    "version 0": (listed({"model.onnx": b"x"}, version=0), 400, "version"),
    "too large": ({"files": [{"name": "model.onnx", "size": 2**30, "sha256": D}]}, 413, "at most"),
}


@pytest.mark.parametrize(("body", "status", "text"), BODIES.values(), ids=BODIES)
async def test_a_request_that_is_no_draft_is_refused_by_name(
    body: Any, status: int, text: str, call: Call
) -> None:
    answer = await call("POST", "/api/v1/models/m/drafts", body)
    assert (answer.status, text in answer.json()["error"]) == (status, True), answer.body


UPLOADS: dict[str, tuple[str, bytes, dict[str, str], int]] = {
    "no such file": ("labels.txt", b"x", {}, 404),
    "no offset": ("model.onnx?offset=x", b"x", {}, 400),
    "a negative offset": ("model.onnx?offset=-1", b"x", {}, 400),
    "a text": ("model.onnx", b"x", {"content-type": "text/plain"}, 415),
    "compressed": ("model.onnx", b"x", {"content-encoding": "gzip"}, 415),
    "too large": ("model.onnx", b"x" * (2**22 + 1), {}, 413),
    "more than announced": ("model.onnx", b"x" * 200, {"content-length": "200"}, 400),
    "other bytes": ("model.onnx", b"x" * 100, {}, 400),
}


@pytest.mark.parametrize(("path", "body", "headers", "status"), UPLOADS.values(), ids=UPLOADS)
async def test_an_upload_that_does_not_fit_is_refused(
    path: str, body: bytes, headers: dict[str, str], status: int, call: Call
) -> None:
    if status == 413 and not isinstance(call, EdgeCaller):
        headers = {"content-length": str(len(body))}
    asked = listed({"model.onnx": b"y" * 100})
    draft = (await call("POST", "/api/v1/models/m/drafts", asked)).json()
    base = f"/api/v1/models/m/drafts/{draft['id']}"
    answer = await call("PUT", f"{base}/files/{path}", body, headers)
    assert answer.status == status, answer.body
    assert (await call("GET", base)).json()["files"][0]["received"] == 0


@pytest.mark.parametrize(
    "query", ["force=yes", "force=1", "force=true&replacement=x", "replacement=-1"]
)
async def test_an_erasure_is_asked_for_in_plain_words(query: str, call: Call) -> None:
    answer = await call("DELETE", f"/api/v1/models/m/versions/1?{query}")
    assert answer.status == 400


async def test_a_draft_is_thrown_away(call: Call) -> None:
    draft = (await call("POST", "/api/v1/models/m/drafts", listed({"model.onnx": b"x"}))).json()
    base = f"/api/v1/models/m/drafts/{draft['id']}"
    assert (await call("DELETE", base)).status == 204
    assert (await call("DELETE", base)).status == 404
    assert (await call("PUT", f"{base}/files/model.onnx", b"x")).status == 404


async def test_a_client_that_is_cut_off_goes_on_where_it_was(call: Call) -> None:
    """The connection breaks in the middle of a body, on the server's own edge."""
    if not isinstance(call, EdgeCaller):
        pytest.skip("only a connection can break")
    content = bytes(range(251)) * 12_000
    draft = (await call("POST", "/api/v1/models/m/drafts", listed({"model.onnx": content}))).json()
    base = f"/api/v1/models/m/drafts/{draft['id']}"
    file = f"{base}/files/model.onnx"
    _, pipe = call.connect()
    head = f"PUT {file} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(content)}\r\n\r\n"
    pipe.send(head.encode() + content[: len(content) // 2])
    received = 0
    while not received:  # until a batch of it is on the disk
        received = (await call("GET", base)).json()["files"][0]["received"]
    pipe.close()
    rest = None
    while rest is None or rest.status == 409:
        received = (await call("GET", base)).json()["files"][0]["received"]
        rest = await call("PUT", f"{file}?offset={received}", content[received:])
    assert rest.json()["files"][0]["complete"]


async def test_damaged_bytes_break_off_and_are_noted(
    call: Call, onnx_models: SimpleNamespace, tmp_path: Path, alerts: Hook
) -> None:
    """Too late for an error: the answer ends before its end, never with wrong bytes."""
    large = b"labels\n" * 400_000
    await deploy(call, "m", {"model.onnx": onnx_models.scale(), "labels.txt": large})
    file = tmp_path / "data" / "artefacts" / "default" / sha(large)[:2] / sha(large)
    file.write_bytes(large[:-1] + b"!")
    path = "/api/v1/models/m/versions/1/files"
    broken: Any = (AssertionError, Conflict)  # of a connection, and of a bare application
    with pytest.raises(broken, match="closed inside a body|labels.txt: artefact .* is damaged"):
        await call("GET", f"{path}/labels.txt")
    for name in ("labels.txt", "model.onnx"):
        answer = await call("GET", f"{path}/{name}")
        assert answer.status == 409
        assert "version 1 of 'm' is corrupt: labels.txt" in answer.json()["error"]
    await until(lambda: bool(alerts.received))  # once, whoever asks for it again
    ((_, body),) = alerts.received
    told = json.loads(body)
    assert (told["kind"], told["model"], told["version"]) == ("corrupt", "m", 1)
    assert "labels.txt: artefact" in told["reasons"][0]


async def test_a_missing_file_is_told_before_the_answer_begins(
    call: Call, onnx_models: SimpleNamespace, tmp_path: Path
) -> None:
    content = onnx_models.scale()
    await deploy(call, "m", {"model.onnx": content})
    (tmp_path / "data" / "artefacts" / "default" / sha(content)[:2] / sha(content)).unlink()
    answer = await call("GET", "/api/v1/models/m/versions/1/files/model.onnx")
    assert (answer.status, "is missing in the store" in answer.json()["error"]) == (409, True)
