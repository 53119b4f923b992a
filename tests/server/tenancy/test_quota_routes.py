"""Quotas at a server's routes, and limits of two servers of one database."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from aiaas_client.protocol.scopes import SCOPES
from aiaas_client.protocol.tenants import UNLIMITED, Limits
from aiaas_server.app import Application, create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import Answer, AsgiCaller
from tests.tenants import Tenants
from tests.waiting import until

EVERY = {*SCOPES, "datasets:write", "jobs:read", "jobs:write"} - {"admin"}
"""All that a tenant's key may do, one by one."""

Ask = Callable[..., Awaitable[Answer]]
Open = Callable[..., Awaitable[Ask]]


def limits(**some: Any) -> Limits:
    return UNLIMITED.model_copy(update=some)


@pytest.fixture
async def open_with(tmp_path: Path) -> AsyncIterator[Open]:
    """`ask = await open_with(**limits)`: calls a server as a tenant that has these."""
    async with AsyncExitStack() as stack:

        async def make(**some: Any) -> Ask:
            tenants = Tenants(tmp_path)
            tenants.tenant("acme", limits(**some))
            headers = {"authorization": f"Bearer {tenants.key('acme', [*EVERY])}"}
            app = create_app(Settings(data=tmp_path, tenants=True, jobs=0))
            call = AsgiCaller(await stack.enter_async_context(app))

            async def ask(method: str, path: str, body: Any = b"", **more: str) -> Answer:
                return await call(method, path, body, headers | more)

            return ask

        yield make


def listed(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def bundle(content: bytes) -> dict[str, Any]:
    return {"files": [listed("model.onnx", content)]}


def over(answer: Answer, text: str) -> None:
    assert answer.status == 429
    told = answer.json()
    assert (told["code"], told["retryable"]) == ("quota_exceeded", False)
    assert told["error"].startswith(text)
    assert int(answer.headers["retry-after"]) >= 1


async def test_versions_and_data_sets_are_refused_and_what_is_thrown_away_is_given_back(
    open_with: Open,
) -> None:
    ask = await open_with(stored_bytes=100, models=2)
    drafts = "/api/v1/models/{}/drafts"
    made = await ask("POST", drafts.format("m"), bundle(b"a" * 60))
    assert made.status == 201
    assert (await ask("POST", drafts.format("m"), bundle(b"a" * 60))).status == 200
    answer = await ask("POST", drafts.format("n"), bundle(b"b" * 41))
    over(answer, "stored_bytes: 100 B may be stored, 60 are, this needs 41")
    assert (await ask("POST", drafts.format("n"), bundle(b"b" * 40))).status == 201
    over(await ask("POST", drafts.format("o"), bundle(b"")), "models: 2 may be in the registry")
    dataset = {"files": [listed("a.csv", b"a,b\n1,2\n")], "format": "csv"}
    over(await ask("POST", "/api/v1/datasets/d/drafts", dataset), "stored_bytes: 100 B")
    one = f"{drafts.format('m')}/{made.json()['id']}"
    assert (await ask("DELETE", one)).status in (200, 204)
    answer = await ask("POST", "/api/v1/datasets/d/drafts", dataset)
    assert answer.status == 201, answer.body
    assert (await ask("POST", drafts.format("o"), bundle(b"c"))).status == 201


def form(content: bytes) -> tuple[bytes, str]:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        + content
        + b"\r\n--x--\r\n"
    )
    return body, "multipart/form-data; boundary=x"


async def test_files_of_openai_and_batches_are_refused_and_leave_nothing(open_with: Open) -> None:
    line = {
        "custom_id": "1", "method": "POST", "url": "/v1/embeddings",
        "body": {"model": "none", "input": "x"},
    }  # fmt: skip
    content = json.dumps(line).encode()
    ask = await open_with(stored_bytes=len(content) + 5, jobs=1)

    async def upload(data: bytes) -> Answer:
        body, kind = form(data)
        return await ask("POST", "/v1/files", body, **{"content-type": kind})

    kept = await upload(content)
    assert kept.status == 200, kept.body
    assert (await upload(content)).status == 200, "the same bytes cost nothing"
    for _ in range(3):
        refused = await upload(b"another")
        assert refused.status == 429
        assert "stored_bytes: " in refused.body.decode()
    assert (await upload(b"small")).status == 200
    assert len((await ask("GET", "/v1/files")).json()["data"]) == 3
    batch = {
        "input_file_id": kept.json()["id"], "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }  # fmt: skip
    first = await ask("POST", "/v1/batches", batch)
    assert first.status == 200, first.body
    refused = await ask("POST", "/v1/batches", batch)
    assert refused.status == 429
    assert "jobs: 1 may be queued or run at one time, 1 are" in refused.body.decode()
    ended = await ask("POST", f"/v1/batches/{first.json()['id']}/cancel")
    assert ended.status == 200, ended.body
    assert (await ask("POST", "/v1/batches", batch)).status == 200


async def test_who_has_spent_all_queues_no_jobs_and_no_batches(open_with: Open) -> None:
    """They would be executed and paid beyond the limit; what is there can still be read."""
    ask = await open_with(monthly_spend=Decimal(0))
    body, kind = form(b'{"custom_id": "1"}')
    kept = await ask("POST", "/v1/files", body, **{"content-type": kind})
    batch = {
        "input_file_id": kept.json()["id"], "endpoint": "/v1/embeddings",
        "completion_window": "24h",
    }  # fmt: skip
    refused = await ask("POST", "/v1/batches", batch)
    assert refused.status == 429, refused.body
    assert b"budget_exceeded" in refused.body
    assert b"of 0.00 that it may" in refused.body
    assert (await ask("GET", "/api/v1/jobs")).json()["items"] == []


@pytest.mark.slow
async def test_two_servers_of_one_database_let_in_what_one_would(
    state_url: str, tmp_path: Path
) -> None:
    rate, burst = 200.0, 100
    tenants = Tenants(tmp_path, state_url)
    tenants.tenant("acme", limits(requests_per_second=rate, burst=burst))
    headers = {"authorization": f"Bearer {tenants.key('acme')}"}

    def server(name: str) -> Application:
        if state_url.startswith("sqlite"):  # as two workers have it
            return create_app(Settings(data=tmp_path, tenants=True))
        url = SecretStr(state_url.replace("+psycopg", ""))
        data, secret = tmp_path / name, tmp_path / "secret"
        return create_app(Settings(data=data, database_url=url, tenants=True, secret_file=secret))

    began = time.monotonic()
    admitted = [0, 0]

    async def ask(which: int, call: AsgiCaller, until: float) -> None:
        while time.monotonic() < until:
            answer = await call("GET", "/api/v1/models", headers=headers)
            assert answer.status in (200, 429)
            admitted[which] += answer.status == 200
            await asyncio.sleep(0.001)

    async with server("one") as one, server("two") as two:
        parts = [app._platform.tenancy._leases for app in (one, two) if app._platform]
        await until(lambda: all(part.shares.known == 2 for part in parts))
        end = time.monotonic() + 3.0
        await asyncio.gather(*(ask(n, AsgiCaller(app), end) for n, app in enumerate((one, two))))
        seconds = time.monotonic() - began
    assert sum(admitted) <= rate * seconds + burst + 1
    assert min(admitted) > 0
