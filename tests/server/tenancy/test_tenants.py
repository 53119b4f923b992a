"""Tenants and plans over HTTP, for the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.tenancy.served import Served, served


@pytest.fixture
async def server(tmp_path: Path, state_url: str) -> AsyncIterator[Served]:
    found = served(tmp_path, state_url)
    async with found.app:
        yield found


async def test_a_tenant_is_made_listed_and_changed(server: Served) -> None:
    made = await server.ask("POST", "/tenants", {"name": "acme", "description": "first"})
    assert made.status == 201
    assert made.headers["etag"] == f'"{made.json()["etag"]}"'
    assert (made.json()["plan"], made.json()["state"]) == ("basic", "active")
    await server.ask("POST", "/tenants", {"name": "zeta", "plan": "unlimited"})
    page = (await server.ask("GET", "/tenants?limit=2")).json()
    assert [one["name"] for one in page["items"]] == ["acme", "default"]
    page = (await server.ask("GET", f"/tenants?after={page['next']}")).json()
    assert ([one["name"] for one in page["items"]], page["next"]) == (["zeta"], None)
    changed = await server.ask("PATCH", "/tenants/acme", {"plan": "unlimited"})
    assert (changed.json()["plan"], changed.json()["description"]) == ("unlimited", "first")
    assert (await server.ask("GET", "/tenants/acme")).json() == changed.json()


async def test_what_changed_since_it_was_read_stays(server: Served) -> None:
    await server.ask("POST", "/plans", {"name": "pro"})
    await server.ask("POST", "/tenants", {"name": "acme"})
    for path in ("/tenants/acme", "/plans/pro"):
        etag = (await server.ask("GET", path)).headers["etag"]
        patch = {"description": "mine"}
        fresh = await server.ask("PATCH", path, patch, headers={"if-match": etag})
        assert fresh.status == 200
        stale = await server.ask("PATCH", path, {"description": "late"}, headers={"if-match": etag})
        assert stale.status == 412
        assert (await server.ask("GET", path)).json()["description"] == "mine"
        nonsense = await server.ask("PATCH", path, patch, headers={"if-match": '"x"'})
        assert nonsense.status == 400


async def test_a_suspended_tenant_is_out_at_once_and_back_again(server: Served) -> None:
    await server.ask("POST", "/tenants", {"name": "acme"})
    key = (await server.made(scopes=["infer"], tenant="acme"))["secret"]
    assert (await server.ask("GET", "/me", key=key)).status == 200
    for _ in range(2):
        suspended = await server.ask("POST", "/tenants/acme/suspend")
        assert suspended.json()["state"] == "suspended"
        assert (await server.ask("GET", "/me", key=key)).status == 401
    assert (await server.ask("POST", "/tenants/acme/resume")).json()["state"] == "active"
    assert (await server.ask("GET", "/me", key=key)).status == 200


WRONG: dict[str, tuple[str, str, Any, int]] = {
    "upper case": ("POST", "/tenants", {"name": "Acme"}, 400),
    "a slash": ("POST", "/tenants", {"name": "a/b"}, 400),
    "a line end": ("POST", "/tenants", {"name": "acme\n"}, 400),
    "a dash first": ("POST", "/tenants", {"name": "-a"}, 400),
    "too long": ("POST", "/tenants", {"name": "a" * 64}, 400),
    "no name": ("POST", "/tenants", {}, 400),
    "the operator's": ("POST", "/tenants", {"name": "default"}, 409),
    "no such plan": ("POST", "/tenants", {"name": "a", "plan": "gold"}, 400),
    "a state": ("POST", "/tenants", {"name": "a", "state": "erased"}, 400),
    "another's change": ("PATCH", "/tenants/default", {"description": "x"}, 409),
    "the operator asleep": ("POST", "/tenants/default/suspend", b"", 409),
    "a null character": ("POST", "/tenants", {"name": "a", "description": "a\0b"}, 400),
    "nobody": ("GET", "/tenants/nobody", b"", 404),
    "nobody asleep": ("POST", "/tenants/nobody/suspend", b"", 404),
    "no name at all": ("GET", "/tenants/..%2F", b"", 404),
    "a change to no plan": ("PATCH", "/tenants/acme", {"plan": "gold"}, 400),
    "a plan of a built-in name": ("POST", "/plans", {"name": "basic"}, 409),
    "an endless rate": ("POST", "/plans", {"name": "p", "limits": {"burst": 0}}, 400),
    "no rate": ("POST", "/plans", {"name": "p", "limits": {"requests_per_second": 0}}, 400),
    "a text": ("POST", "/plans", {"name": "p", "limits": "all"}, 400),
    "the built-in one removed": ("DELETE", "/plans/basic", b"", 409),
    "the operator's plan": ("PATCH", "/plans/unlimited", {"limits": {"jobs": 1}}, 409),
    "no plan": ("GET", "/plans/nothing", b"", 404),
    "a bad limit of pages": ("GET", "/tenants?limit=0", b"", 400),
}


@pytest.mark.parametrize("what", sorted(WRONG))
async def test_what_is_wrong_is_told(tmp_path: Path, what: str) -> None:
    server = served(tmp_path, f"sqlite:///{tmp_path / 'state.db'}")
    method, path, body, status = WRONG[what]
    async with server.app:
        await server.ask("POST", "/tenants", {"name": "acme"})
        answer = await server.ask(method, path, body)
        assert answer.status == status, answer.body
        assert answer.json()["error"]


async def test_plans_change_for_all_who_have_them_and_stay_while_used(server: Served) -> None:
    made = await server.ask("POST", "/plans", {"name": "pro", "limits": {"in_flight": 5}})
    assert made.status == 201
    assert (made.json()["limits"]["in_flight"], made.json()["limits"]["burst"]) == (5, 100)
    await server.ask("POST", "/tenants", {"name": "acme", "plan": "pro"})
    key = (await server.made(scopes=["infer"], tenant="acme"))["secret"]
    await server.ask("PATCH", "/plans/pro", {"limits": {"in_flight": None, "weight": 3}})
    limits = (await server.ask("GET", "/me", key=key)).json()["limits"]
    assert (limits["in_flight"], limits["burst"], limits["weight"]) == (None, 100, 3)
    used = await server.ask("DELETE", "/plans/pro")
    assert used.status == 409
    assert b"in use by acme" in used.body
    await server.ask("PATCH", "/tenants/acme", {"plan": "basic"})
    assert (await server.ask("DELETE", "/plans/pro")).status == 204
    assert (await server.ask("GET", "/plans/pro")).status == 404


async def test_the_basic_plan_can_be_made_anew_and_be_as_it_was(server: Served) -> None:
    before = (await server.ask("GET", "/plans/basic")).json()
    assert before["built_in"]
    changed = (await server.ask("PATCH", "/plans/basic", {"limits": {"jobs": 9}})).json()
    assert (changed["built_in"], changed["limits"]["jobs"]) == (False, 9)
    await server.ask("POST", "/tenants", {"name": "acme"})
    page = (await server.ask("GET", "/plans")).json()
    assert [one["name"] for one in page["items"]] == ["basic", "unlimited"]
    assert (await server.ask("DELETE", "/plans/basic")).status == 204
    assert (await server.ask("GET", "/plans/basic")).json() == before


async def test_tenants_and_plans_are_the_operators(server: Served) -> None:
    admin = server.tenants.key("acme", ["admin"])
    keeper = server.tenants.key(scopes=["keys:admin", "models:write"])
    await server.app._platform.tenancy.identities.refresh()  # type: ignore[union-attr]
    routes: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/tenants", b""),
        ("POST", "/tenants", {"name": "mine"}),
        ("GET", "/tenants/acme", b""),
        ("GET", "/tenants/nobody", b""),
        ("PATCH", "/tenants/acme", {"plan": "unlimited"}),
        ("POST", "/tenants/acme/resume", b""),
        ("GET", "/plans", b""),
        ("PATCH", "/plans/basic", {"limits": {"jobs": None}}),
        ("DELETE", "/plans/basic", b""),
    )
    for key in (admin, keeper):
        bodies = set()
        for method, path, body in routes:
            answer = await server.ask(method, path, body, key=key)
            assert answer.status == 403, path
            bodies.add(answer.body)
        assert len(bodies) == 1


async def test_the_routes_are_described_without_any_key(server: Served) -> None:
    from tests.server.http.serving import AsgiCaller

    headers = {"authorization": f"Bearer {server.operator}"}
    answer = await AsgiCaller(server.app)("GET", "/openapi.json", headers=headers)
    paths = answer.json()["paths"]
    for path in ("/tenants", "/tenants/{tenant}/suspend", "/plans/{plan}", "/keys/{key}", "/me"):
        assert f"/api/v1{path}" in paths
    assert b"aias_" not in answer.body
    asked = paths["/api/v1/keys"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(asked["properties"]) == {
        *("name", "scopes", "expires", "expires_in", "limits", "tenant"),
    }
