"""A tenant deploys models that turn bad: the server stays, and so does what others are answered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.http.serving import Answer
from tests.server.registry.verification.hostile import plus, serialized
from tests.server.tenancy.hostile_models import BAD_ON_A_NUMBER, GOOD_OR_REFUSED, long_text
from tests.server.tenancy.served import Served, served

TOLD = {  # by status, what may be said of an input that a model cannot stand
    200: {""},
    400: {"invalid_request"},
    422: {"inference_failed", "output_too_large"},
    500: {"inference_failed", "model_crashed"},
    504: {"deadline_exceeded"},
}
PARTS = 6
SOUND = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


class Side:
    """One tenant of a server."""

    def __init__(self, server: Served, tenant: str) -> None:
        self._server = server
        self._key = server.tenants.key(tenant)

    async def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        given = {"authorization": f"Bearer {self._key}", **headers}
        return await self._server._call(method, path, body, given)

    async def deploy(self, name: str, content: bytes) -> Answer:
        """Bring one file; the answer to its commit."""
        digest = hashlib.sha256(content).hexdigest()
        files = [{"name": "model.onnx", "size": len(content), "sha256": digest}]
        place = f"/api/v1/models/{name}/drafts"
        draft = await self.ask("POST", place, {"files": files})
        if draft.status != 201:
            return draft
        place = f"{place}/{draft.json()['id']}"
        put = await self.ask("PUT", f"{place}/files/model.onnx", content)
        assert put.status == 200, put.body
        return await self.ask("POST", f"{place}/commit")

    async def infer(self, name: str, document: Any, timeout: int = 60_000) -> Answer:
        headers = {"x-request-timeout-ms": str(timeout)}
        return await self.ask("POST", f"/v2/models/{name}/infer", document, **headers)


def number(value: int) -> dict[str, Any]:
    return {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [value]}]}


def ones(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """Inputs of ones, or of a text that expressions stumble over."""
    (one,) = inputs
    shape = [1 if dim < 0 else dim for dim in one["shape"]]
    count = 1
    for dim in shape:
        count *= dim
    element: Any = "a" * 40 + "c" if one["datatype"] == "BYTES" else 1
    return {
        "inputs": [
            {
                "name": one["name"],
                "datatype": one["datatype"],
                "shape": shape,
                "data": [element] * count,
            }
        ]
    }


@pytest.fixture
async def sides(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Side, Side]]:
    """A hostile tenant and another one, whose models may take 1 GiB where a test says no other."""
    url = f"sqlite:///{tmp_path / 'state.db'}"
    memory = getattr(request, "param", 1 << 30)
    server = served(tmp_path, url, sandbox_memory_bytes=memory, verify_timeout=20)
    both = Side(server, "acme"), Side(server, "beta")
    async with server.app:
        yield both


async def tried(hostile: Side, name: str, content: bytes, document: Any) -> str:
    """Deploy a model and ask it; what is wrong with how that is answered, or ""."""
    brought = await hostile.deploy(name, content)
    if brought.status in (400, 422):
        return "" if brought.json()["code"] in ("model_rejected", "invalid_request") else "deploy"
    if brought.status != 201:
        return f"deployed: {brought.status} {brought.body[:200]!r}"
    answer = await hostile.infer(name, document or ones(brought.json()["inputs"]), 3000)
    code = "" if answer.status == 200 else answer.json()["code"]
    if code in TOLD.get(answer.status, ()):
        return ""
    return f"{answer.status} {answer.body[:200]!r}"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
async def test_bad_models_are_refused_or_fail_alone(sides: tuple[Side, Side], part: int) -> None:
    hostile, other = sides
    assert (await other.deploy("good", serialized(plus()))).status == 201
    asked = [(f"a-{name}", made(), number(n)) for name, (made, n) in BAD_ON_A_NUMBER.items()]
    asked += [(f"b-{name}", made(), None) for name, made in GOOD_OR_REFUSED.items()]
    assert len(asked) >= 40
    over = asyncio.Event()
    statuses = set[int]()

    async def watch() -> None:
        while not over.is_set():
            statuses.add((await other.infer("good", SOUND)).status)
            await asyncio.sleep(0.05)  # it shares a processor with those that it watches

    watching = asyncio.create_task(watch())
    try:
        mine = asked[part::PARTS]
        wrong = {name: await tried(hostile, name, *what) for name, *what in mine}
    finally:
        over.set()
        await watching
    assert {name: problem for name, problem in wrong.items() if problem} == {}
    assert statuses == {200}


@pytest.mark.slow
@pytest.mark.parametrize("sides", [16 << 30], ids=["16 GiB"], indirect=True)  # time ends it, always
async def test_three_deaths_are_the_end_of_one_model_alone(sides: tuple[Side, Side]) -> None:
    hostile, other = sides
    for side, name, content in (
        (hostile, "dies", long_text()),
        (hostile, "fine", serialized(plus())),
        (other, "dies", serialized(plus())),
    ):
        assert (await side.deploy(name, content)).status == 201
    told = set[tuple[int, str]]()

    async def quarantined() -> bool:
        answer = await hostile.infer("dies", number(1 << 23), 400)
        told.add((answer.status, answer.json()["code"]))
        assert (await other.infer("dies", SOUND)).status == 200
        assert (await hostile.infer("fine", SOUND)).status == 200
        return b"quarantined" in answer.body

    for _ in range(600):
        if await quarantined():
            break
        await asyncio.sleep(0.1)
    assert {status for status, _ in told} <= {503, 504}
    assert (await hostile.infer("dies", number(1))).status == 503
    assert (await other.infer("dies", SOUND)).status == 200
    answer = await hostile.deploy("dies", serialized(plus()))
    assert answer.status == 201, answer.body
    version = answer.json()["version"]
    path = f"/v2/models/dies/versions/{version}/infer"
    assert (await hostile.ask("POST", path, SOUND)).status == 200
