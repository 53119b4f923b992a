"""`client.tenants`, `client.plans`, `client.keys` and `whoami`, from threads and tasks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    Client,
    ConflictError,
    InputError,
    NotFoundError,
    NotSupportedError,
    PreconditionFailedError,
)
from aiaas_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def caller(either: Any, server: FakeServer) -> Any:
    return either(server.url)


def test_tenants_are_made_listed_changed_and_suspended(caller: Any) -> None:
    tenants = caller.client.tenants
    made = caller.run(tenants.create("acme", description="first"))
    assert (made.name, made.plan, made.state) == ("acme", "basic", "active")
    with pytest.raises(ConflictError, match="never used twice"):
        caller.run(tenants.create("acme"))
    with pytest.raises(BadRequestError, match="plan: there is no plan"):
        caller.run(tenants.create("other", plan="gold"))
    changed = caller.run(tenants.update("acme", plan="unlimited", etag=made.etag))
    assert (changed.plan, changed.description) == ("unlimited", "first")
    with pytest.raises(PreconditionFailedError):
        caller.run(tenants.update("acme", plan="basic", etag=made.etag))
    assert caller.run(tenants.suspend("acme")).state == "suspended"
    assert caller.run(tenants.resume("acme")).state == "active"
    assert [one.name for one in caller.run(tenants.list())] == ["acme", "default"]
    assert len(caller.run(tenants.list(limit=1))) == 1
    with pytest.raises(NotFoundError):
        caller.run(tenants.get("nobody"))


def test_plans_are_made_changed_and_deleted(caller: Any) -> None:
    plans = caller.client.plans
    made = caller.run(plans.create("pro", limits={"in_flight": 64, "jobs": None}))
    assert (made.limits.in_flight, made.limits.jobs, made.limits.burst) == (64, None, 100)
    changed = caller.run(plans.update("pro", limits={"burst": 7}))
    assert (changed.limits.in_flight, changed.limits.burst) == (64, 7)
    assert [one.name for one in caller.run(plans.list())] == ["basic", "pro", "unlimited"]
    caller.run(caller.client.tenants.create("acme", plan="pro"))
    with pytest.raises(ConflictError, match="in use by acme"):
        caller.run(plans.delete("pro"))
    caller.run(caller.client.tenants.update("acme", plan="basic"))
    assert caller.run(plans.delete("pro")) is None
    with pytest.raises(NotFoundError):
        caller.run(plans.get("pro"))


def test_keys_are_made_rotated_and_revoked(caller: Any, server: FakeServer) -> None:
    keys = caller.client.keys
    made = caller.run(keys.create("ci", scopes=["infer"], limits={"burst": 3}))
    assert made.secret.startswith("aias_")
    assert made.secret not in repr(made) + str(made) + made._repr_html_()
    told = caller.run(keys.get(made.id))
    assert (told.name, told.scopes, told.limits.burst) == ("ci", ("infer",), 3)
    assert not hasattr(told, "secret")
    new = caller.run(keys.rotate(made, grace=timedelta(hours=1)))
    assert (new.name, new.scopes) == ("ci", ("infer",))
    old = server.tenants.key(made.id)
    assert old.replaced_by == new.id
    assert old.expires is not None
    assert old.expires == pytest.approx(time.time() + 3600, abs=60)
    with pytest.raises(ConflictError, match="rotated before"):
        caller.run(keys.rotate(made.id))
    for _ in range(2):
        assert caller.run(keys.revoke(new)).state == "revoked"
    assert [one.id for one in caller.run(keys.list())] == [new.id, made.id]
    assert caller.run(keys.list(tenant="acme")) == []


ENDS: dict[str, tuple[Any, dict[str, float]]] = {
    "seconds": (60, {"expires_in": 60.0}),
    "a timedelta": (timedelta(days=90), {"expires_in": 90 * 86400.0}),
    "a datetime": (datetime(2030, 1, 1, tzinfo=UTC), {"expires": 1893456000.0}),
    "never": (None, {}),
}


@pytest.mark.parametrize("how", sorted(ENDS))
def test_an_end_is_a_time_or_a_length(caller: Any, server: FakeServer, how: str) -> None:
    given, sent = ENDS[how]
    caller.run(caller.client.keys.create(scopes=["infer"], expires=given))
    body = json.loads(server.requests[-1].body)
    assert {key: body[key] for key in body if key.startswith("expires")} == sent


def test_what_no_key_can_have_is_told_before_it_is_sent(caller: Any, server: FakeServer) -> None:
    keys = caller.client.keys
    whole = caller.run(keys.create(scopes=["infer"])).secret
    sent = len(server.requests)
    wrong: tuple[tuple[Any, str], ...] = (
        (lambda: keys.create(scopes="infer"), "expected a list of scopes"),
        (lambda: keys.create(scopes=["everything"]), "scopes"),
        (lambda: keys.create(scopes=[]), "scopes"),
        (lambda: keys.create(scopes=["infer"], expires=datetime(2030, 1, 1)), "with its zone"),
        (lambda: keys.create(scopes=["infer"], expires="soon"), "got str"),
        (lambda: keys.create(scopes=["infer"], expires=-1), "expires_in"),
        (lambda: keys.create(scopes=["infer"], limits={"jbos": 1}), "limits.jbos"),
        (lambda: keys.revoke(whole), "a whole key"),
        (lambda: keys.revoke(""), "expected the name of one"),
        (lambda: keys.rotate("abc", grace=-1), "grace"),
        (lambda: caller.client.tenants.create("Acme"), "name"),
        (lambda: caller.client.tenants.update("acme"), "expected one of plan, description"),
        (lambda: caller.client.plans.update("basic"), "expected one of limits, description"),
    )
    for call, text in wrong:
        with pytest.raises(InputError, match=text) as caught:
            caller.run(call())
        assert whole not in repr(caught.value)
    assert len(server.requests) == sent


def test_whoami(caller: Any) -> None:
    me = caller.run(caller.client.whoami())
    assert me.tenant == "default"
    assert "operator" in me.scopes
    raw = caller.run(caller.client.with_raw_response.keys.create(scopes=["infer"]))
    assert raw.status == 201
    assert raw.parse().secret.startswith("aias_")


def test_a_lost_answer_makes_one_key(server: FakeServer) -> None:
    with Client(server.url) as client:
        server.drop(path="/keys")
        client.keys.create("once", scopes=["infer"])
        posts = [one for one in server.requests if one.method == "POST"]
        assert len(posts) == 2
        assert len({one.headers["idempotency-key"] for one in posts}) == 1
        assert [one.name for one in client.keys.list()] == ["once"]


def test_a_server_without_a_registry_has_none(either: Any) -> None:
    with FakeServer(registry=False) as server:
        caller = either(server.url)
        for call in (caller.client.whoami, caller.client.tenants.list, caller.client.keys.list):
            with pytest.raises(NotSupportedError, match="no registry"):
                caller.run(call())


async def test_no_client_shows_its_key(server: FakeServer) -> None:
    key = "aias_aaaaaaaaaaaa_" + "s" * 49
    with Client(server.url, api_key=key) as client:
        with pytest.raises(NotFoundError) as caught:
            client.keys.get("nobody")
        for shown in (client, client.keys, client._sender, caught.value, vars(caught.value)):
            assert "ssss" not in repr(shown)
    async with AsyncClient(server.url, api_key=key) as one:
        for shown in (one, one.keys, one._sender):
            assert "ssss" not in repr(shown)
