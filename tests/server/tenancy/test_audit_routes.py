"""The audit at a server: every act through its routes, every refusal at its door."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.routing import Route

from aiaas_client.protocol.audit import AuditEntry, act_named
from aiaas_server.app import Application, create_app
from aiaas_server.settings import Settings
from aiaas_server.tenancy.audit import Audit
from tests.server.http.serving import AsgiCaller
from tests.server.registry.bringing import Bringer
from tests.tenants import Tenants

pytestmark = pytest.mark.asyncio
NO_ACTS = {
    ("PUT", "/api/v1/models/{model}/drafts/{draft}/files/{name}"),  # a piece of an upload
    ("PUT", "/api/v1/datasets/{dataset}/drafts/{draft}/files/{name}"),
    ("POST", "/api/v1/feedback"),  # data
}
PROTOCOL_ACTS = (
    ("POST", "/v2/repository/models/m/load", "repository.load"),
    ("POST", "/v2/repository/models/m/unload", "repository.unload"),
    ("POST", "/v2/logging", "logging.set"),
    ("POST", "/v2/trace/setting", "trace.set"),
    ("POST", "/v2/models/m/trace/setting", "models.trace.set"),
    ("POST", "/v1/files", "files.create"),
    ("DELETE", "/v1/files/x", "files.delete"),
    ("POST", "/v1/batches", "batches.create"),
    ("POST", "/v1/batches/x/cancel", "batches.cancel"),
)


class Asking:
    """A server, and what its audit has."""

    def __init__(self, app: Application, key: str) -> None:
        self.call = AsgiCaller(app)
        self.key = key

    @property
    def audit(self) -> Audit:
        platform = self.call.app._platform
        assert platform is not None
        return platform.tenancy.audit

    async def __call__(
        self, method: str, path: str, body: Any = b"", key: str | None = None, **headers: str
    ) -> Any:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        given["authorization"] = f"Bearer {self.key if key is None else key}"
        if not isinstance(body, bytes):
            given["content-type"] = "application/json"
        return await self.call(method, path, body, given)

    async def entries(self, query: str = "", key: str | None = None) -> list[AuditEntry]:
        """The first first."""
        answer = await self("GET", f"/api/v1/audit?limit=1000{query}", key=key)
        assert answer.status == 200, answer.body
        return [AuditEntry(**one) for one in answer.json()["items"]][::-1]


@asynccontextmanager
async def asking(data: Path, **settings: Any) -> AsyncIterator[Asking]:
    tenants = Tenants(data)
    key = tenants.key()
    async with create_app(Settings(data=data, tenants=True, **settings)) as app:
        yield Asking(app, key)


def writing_routes(app: Application) -> list[tuple[str, str]]:
    """Method and path of all management routes that write."""
    routes = app._routes._router.routes
    return [
        (method, route.path)
        for route in routes
        if isinstance(route, Route) and route.path.startswith("/api/v1/")
        for method in sorted(route.methods or ())
        if method not in ("GET", "HEAD")
    ]


async def test_every_management_route_that_writes_leaves_a_beginning_and_a_result(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path) as ask:
        routes = writing_routes(ask.call.app)
        assert len(routes) >= 20
        assert set(routes) > NO_ACTS
        seen = 0
        for method, path in routes:
            concrete = re.sub(r"\{[^}]+\}", "1", path)
            answer = await ask(method, concrete, {})
            assert answer.status < 500, (method, path, answer.body)
            entries = (await ask.entries())[seen:]
            seen += len(entries)
            if (method, path) in NO_ACTS:
                assert entries == []
                continue
            first, second = entries
            assert (first.result, second.begun) == ("begun", first.seq), path
            assert second.result == ("done" if answer.status < 400 else "failed"), path
            assert second.status == answer.status, path
            assert second.act == first.act
            assert re.fullmatch(r"[a-z]+(\.[a-z]+)+", first.act), first.act
            assert first.scope, path
            assert first.request_id == answer.headers["x-request-id"]
            assert second.body == hashlib.sha256(b"{}").hexdigest() or answer.status >= 400
        verification = (await ask("GET", "/api/v1/audit/verify")).json()
        assert verification["intact"]
        assert verification["unfinished"] == []


@pytest.mark.parametrize(
    ("method", "path", "act"), PROTOCOL_ACTS, ids=[act for _, _, act in PROTOCOL_ACTS]
)
async def test_acts_of_other_dialects_are_on_record_too(
    method: str, path: str, act: str, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "m.onnx").write_bytes(onnx_models.identity())
    async with asking(tmp_path / "data", models=models, jobs=1) as ask:
        answer = await ask(method, path, {})
        first, second = await ask.entries()
        assert (first.act, second.act) == (act, act)
        assert (second.begun, second.status) == (first.seq, answer.status)


async def test_reading_and_inference_leave_nothing(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "m.onnx").write_bytes(onnx_models.identity())
    async with asking(tmp_path / "data", models=models) as ask:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}
        asked: tuple[tuple[str, str, Any], ...] = (
            ("POST", "/v2/models/m/infer", {"inputs": [tensor]}),
            ("POST", "/v2/repository/index", {}),
            ("GET", "/v2/logging", b""),
            ("GET", "/api/v1/models", b""),
        )
        for method, path, body in asked:
            answer = await ask(method, path, body)
            assert answer.status == 200, answer.body
        assert await ask.entries() == []


async def test_a_change_is_told_with_who_what_and_digests(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    bringer = Bringer(tmp_path)
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    bringer.close()
    async with asking(tmp_path) as ask:
        body = {"version": 1}
        answer = await ask("PUT", "/api/v1/models/m/aliases/production", body)
        assert answer.status == 200, answer.body
        _, result = await ask.entries()
        assert (result.act, result.object) == ("models.aliases.set", "m/production")
        assert result.address == "127.0.0.1"
        assert result.actor == ask.key.split("_")[1]
        assert result.body == hashlib.sha256(json.dumps(body).encode()).hexdigest()
        assert len(result.before) == len(result.after) == 64
        assert result.before != result.after


async def test_a_repeated_request_is_one_act(tmp_path: Path) -> None:
    async with asking(tmp_path) as ask:
        path, body = "/api/v1/models/m/drafts", {"files": []}
        for _ in range(3):
            await ask("POST", path, body, idempotency_key="k")
        failed = await ask.entries()
        draft = {"name": "model.onnx", "size": 3, "sha256": "0" * 64}
        for number in range(3):
            answer = await ask("POST", path, {"files": [draft]}, idempotency_key="k2")
            assert answer.status == 201, answer.body
            assert ("idempotency-replayed" in answer.headers) == (number > 0)
        entries = (await ask.entries())[len(failed) :]
        assert [one.result for one in entries] == ["begun", "done"]
        assert entries[1].act == "models.drafts.create"
        assert entries[1].object == answer.json()["id"]


@pytest.mark.slow  # the wait for a lock of SQLite
async def test_without_the_database_nothing_is_done(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    bringer = Bringer(tmp_path)
    bringer.bring("m", onnx_models.scale(1.0))
    bringer.close()
    async with asking(tmp_path) as ask:
        before = (await ask("GET", "/api/v1/models/m")).json()
        with sqlite3.connect(tmp_path / "state.db", isolation_level=None) as other:
            other.execute("BEGIN IMMEDIATE")
            answer = await ask("PATCH", "/api/v1/models/m", {"description": "other"})
            other.execute("ROLLBACK")
        assert answer.status == 503
        assert answer.json()["code"] == "state_unavailable"
        assert (await ask("GET", "/api/v1/models/m")).json() == before
        assert await ask.entries() == []


async def test_an_act_that_cannot_be_noted_is_never_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(tmp_path) as ask:
        database = ask.audit.database
        write, calls = database.write, []

        async def away(work: Any, **more: Any) -> Any:
            from aiaas_server.core.errors import StateUnavailable

            calls.append(work)
            raise StateUnavailable("the database does not answer; try again")

        monkeypatch.setattr(database, "write", away)
        draft = {"name": "model.onnx", "size": 3, "sha256": "0" * 64}
        answer = await ask("POST", "/api/v1/models/m/drafts", {"files": [draft]})
        assert answer.status == 503
        assert len(calls) == 1, "the beginning, and nothing behind it"
        monkeypatch.setattr(database, "write", write)
        assert (await ask("GET", "/api/v1/models")).json()["items"] == []


async def test_refusals_at_the_door_are_told_and_a_flood_of_them_is_counted(
    tmp_path: Path,
) -> None:
    async with asking(tmp_path) as ask:
        wrong = ask.key[:-1] + ("A" if ask.key[-1] != "A" else "B")
        for _ in range(10_000):
            answer = await ask.call(
                "GET", "/v2", headers={"authorization": f"Bearer {wrong}"}, client="10.0.0.7"
            )
            assert answer.status in (401, 429)
        await ask.audit.flush()
        entries = await ask.entries("&result=refused")
        assert {one.status for one in entries} == {401, 429}
        assert len(entries) <= 4
        assert {one.address for one in entries} == {"10.0.0.7"}
        await ask.audit.flush(last=True)
        assert sum(one.count or 0 for one in await ask.entries("&result=refused")) == 10_000
        everything = [one.model_dump_json() for one in await ask.entries()]
        assert not any(wrong[20:40] in text for text in everything)


async def test_what_a_key_may_not_do_is_told_with_its_id(tmp_path: Path) -> None:
    reader = Tenants(tmp_path).key("acme", ["models:read"])
    async with asking(tmp_path) as ask:
        assert (await ask("DELETE", "/api/v1/models/m", key=reader)).status == 403
        assert (await ask("GET", "/api/v1/audit", key=reader)).status == 403
        await ask.audit.flush()
        first, second = await ask.entries()
        assert (first.act, first.tenant, first.status) == ("models.delete", "acme", 403)
        assert first.actor == second.actor == reader.split("_")[1]
        assert second.act == "authorize"
        assert first.result == second.result == "refused"


async def test_a_key_in_the_wrong_place_gets_into_no_entry(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    secret = tenants.key("acme")
    async with asking(tmp_path) as ask:
        await ask("DELETE", f"/api/v1/models/{secret}", x_request_id=secret)
        await ask("POST", f"/api/v1/jobs/{secret}/cancel", {"key": secret})
        await ask.call("GET", f"/v2?api_key={secret}")
        await ask("POST", "/api/v1/jobs/unknown/cancel", {"key": secret}, x_request_id=secret)
        await ask.audit.flush(last=True)
    with sqlite3.connect(tmp_path / "state.db") as other:
        rows = other.execute("SELECT * FROM audit").fetchall()
    assert len(rows) >= 4  # of refusals, and of the act that was tried and its end
    assert not any(secret[18:40] in str(row) for row in rows)


async def test_a_tenant_is_told_of_its_own_and_the_operator_of_all(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    keys = {name: tenants.key(name) for name in ("acme", "other")}
    async with asking(tmp_path) as ask:
        for key in keys.values():
            await ask("DELETE", "/api/v1/models/m", key=key)
        assert {one.tenant for one in await ask.entries(key=keys["acme"])} == {"acme"}
        assert await ask.entries("&tenant=other", key=keys["acme"]) == []
        assert await ask.entries("&tenant=nobody", key=keys["acme"]) == []
        assert {one.tenant for one in await ask.entries()} == {"acme", "other"}
        assert {one.tenant for one in await ask.entries("&tenant=other")} == {"other"}
        assert (await ask("GET", "/api/v1/audit/verify", key=keys["acme"])).status == 403


async def test_entries_are_found_by_each_filter_and_in_parts(tmp_path: Path) -> None:
    async with asking(tmp_path) as ask:
        for name in ("a", "b", "a"):
            await ask("DELETE", f"/api/v1/models/{name}")
        await ask("POST", "/api/v1/jobs/x/cancel")
        entries = await ask.entries()
        assert len(entries) == 8
        actor = ask.key.split("_")[1]
        for query, count in (
            ("&object=a", 4),
            ("&object=%25", 0),
            ("&act=models.delete", 6),
            ("&act=models.*", 6),
            ("&act=jobs.*&result=failed", 1),
            (f"&actor={actor}", 8),
            ("&actor=somebody", 0),
            (f"&since={entries[4].at!r}", 4),
            (f"&until={entries[4].at!r}", 4),
        ):
            assert len(await ask.entries(query)) == count, query
        first = (await ask("GET", "/api/v1/audit?limit=3")).json()
        assert [one["seq"] for one in first["items"]] == [8, 7, 6]
        rest = (await ask("GET", f"/api/v1/audit?limit=6&after={first['next']}")).json()
        assert [one["seq"] for one in rest["items"]] == [5, 4, 3, 2, 1]
        assert rest["next"] is None
        lines = (await ask("GET", "/api/v1/audit/export?object=a")).body.splitlines()
        assert [json.loads(line)["object"] for line in lines] == ["a"] * 4
        for wrong in ("since=x", "until=nan", "object_=a", "limit=0"):
            assert (await ask("GET", f"/api/v1/audit?{wrong}")).status == 400, wrong


async def test_the_report_counts_acts_and_names_what_is_too_much(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    used, idle = tenants.key("acme", ["models:read", "models:write"]), tenants.key("idle")
    async with asking(tmp_path) as ask:
        for _ in range(2):
            await ask("DELETE", "/api/v1/models/m", key=used)
        await ask("POST", "/api/v1/jobs/x/cancel", key=used[:-1])
        await ask.audit.flush(last=True)
        (entry, *_) = await ask.entries()
        import time

        month = time.strftime("%Y-%m", time.gmtime(entry.at))
        report = (await ask("GET", f"/api/v1/audit/report?month={month}")).json()
        (counted,) = report["acts"]
        assert (counted["act"], counted["tenant"]) == ("models.delete", "acme")
        assert (counted["failed"], counted["done"]) == (2, 0)
        (refusal,) = report["refusals"]
        assert (refusal["code"], refusal["count"]) == ("unauthorized", 1)
        keys = {one["id"]: one for one in report["keys"]}
        assert keys[used.split("_")[1]]["used_scopes"] == ["models:write"]
        assert keys[used.split("_")[1]]["never_used"] == ["models:read"]
        assert "infer" in keys[idle.split("_")[1]]["never_used"]
        assert report["idle_tenants"] == ["idle"]
        own = (await ask("GET", f"/api/v1/audit/report?month={month}", key=used)).status
        assert own == 403
        empty = (await ask("GET", "/api/v1/audit/report?month=1999-01")).json()
        assert (empty["entries"], empty["acts"]) == (0, [])
        for wrong in ("", "2026-13", "2026-1", "x"):
            answer = await ask("GET", f"/api/v1/audit/report?month={wrong}")
            assert answer.status == 400, wrong


async def test_keys_unused_for_ninety_days_are_named(tmp_path: Path) -> None:
    key = Tenants(tmp_path).key("acme")
    with sqlite3.connect(tmp_path / "state.db") as other:
        other.execute("UPDATE keys SET created = created - 91 * 86400")
    async with asking(tmp_path) as ask:
        report = (await ask("GET", "/api/v1/audit/report?month=2020-01")).json()
        unused = [one["id"] for one in report["keys"] if one["unused"]]
        assert unused == [key.split("_")[1]]


async def test_a_server_without_tenants_has_an_audit_too(tmp_path: Path) -> None:
    async with create_app(Settings(data=tmp_path)) as app:
        call = AsgiCaller(app)
        await call("DELETE", "/api/v1/models/m")
        answer = await call("GET", "/api/v1/audit")
        assert {one["actor"] for one in answer.json()["items"]} == {"operator"}
    assert (tmp_path / "audit.head").exists()


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/keys", "keys.create"),
        ("POST", "/keys/{key}/rotate", "keys.rotate"),
        ("DELETE", "/keys/{key}", "keys.delete"),
        ("PUT", "/models/{model}/aliases/{alias}", "models.aliases.set"),
        ("PATCH", "/models/{model}/traffic", "models.traffic.update"),
        ("POST", "/models/{model}/rollback", "models.rollback"),
        ("POST", "/models/{model}/drafts", "models.drafts.create"),
    ],
)
async def test_operations_are_named_by_their_path(method: str, path: str, name: str) -> None:
    assert act_named(method, path) == name
