"""Tenants, plans and keys from the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aiaas_client._cli.commands import register
from aiaas_client.testing import FakeServer

Aiaas = Callable[..., Any]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def aiaas(server: FakeServer) -> Aiaas:
    app = typer.Typer()
    register(app)

    def run(*arguments: str, **options: Any) -> Any:
        whole = [*arguments, "--url", server.url]
        return CliRunner().invoke(app, whole, env={"COLUMNS": "250"}, **options)

    return run


@pytest.fixture
def narrow(server: FakeServer) -> Aiaas:
    """The commands in a terminal of 80 columns."""
    app = typer.Typer()
    register(app)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--url", server.url], env={"COLUMNS": "80"})

    return run


def document(done: Any) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_tenant_from_its_beginning_on(aiaas: Aiaas) -> None:
    made = document(aiaas("tenants", "create", "acme", "--description", "first", "--json"))
    assert (made["name"], made["plan"]) == ("acme", "basic")
    assert "acme" in aiaas("tenants", "list").stdout
    shown = aiaas("tenants", "show", "acme").stdout
    assert "requests_per_second" in shown
    assert "20 GiB" in shown
    assert document(aiaas("tenants", "show", "acme", "--json"))["limits"]["in_flight"] == 32
    assert document(aiaas("tenants", "set", "acme", "--plan", "unlimited", "--json"))["plan"]
    assert "suspended" in aiaas("tenants", "suspend", "acme").stdout
    assert "active" in aiaas("tenants", "resume", "acme").stdout
    again = aiaas("tenants", "create", "acme")
    assert again.exit_code == 1
    assert "never used twice" in again.stderr
    assert aiaas("tenants", "set", "acme").exit_code == 2
    assert aiaas("tenants", "show", "nobody").exit_code == 1


def test_a_plan_from_its_beginning_on(aiaas: Aiaas) -> None:
    made = aiaas(
        *("plans", "create", "pro", "--limit", "in_flight=64", "--limit", "jobs=null", "--json")
    )
    assert document(made)["limits"]["in_flight"] == 64
    assert document(made)["limits"]["jobs"] is None
    assert "in_flight=64" in aiaas("plans", "list").stdout
    assert document(aiaas("plans", "set", "pro", "--limit", "burst=7", "--json"))
    assert "no limit" in aiaas("plans", "show", "pro").stdout
    assert "removed" in aiaas("plans", "delete", "pro").stderr
    wrong = aiaas("plans", "create", "p", "--limit", "jbos=1")
    assert wrong.exit_code == 2
    assert "jobs" not in wrong.stdout
    assert aiaas("plans", "set", "basic").exit_code == 2


def test_a_key_stands_alone_on_standard_output(aiaas: Aiaas, server: FakeServer) -> None:
    done = aiaas("keys", "create", "ci", "--scope", "infer", "--expires", "90d")
    assert done.exit_code == 0, done.output
    key = done.stdout.strip()
    assert key.startswith("aias_")
    assert "shown this once" in done.stderr
    assert key not in done.stderr
    key_id = key[5:17]
    ends = server.tenants.key(key_id).expires
    assert ends == pytest.approx(time.time() + 90 * 86400, abs=60)
    listed = aiaas("keys", "list")
    assert "ci" in listed.stdout
    assert key not in listed.stdout
    new = document(aiaas("keys", "rotate", key_id, "--grace", "1h", "--json"))
    assert new["secret"] != key
    kept = aiaas("keys", "revoke", new["id"], input="n\n")
    assert kept.exit_code == 1
    assert server.tenants.key(new["id"]).state == "active"
    assert "is revoked" in aiaas("keys", "revoke", new["id"], "--yes").stderr
    assert document(aiaas("keys", "list", "--json"))[0]["state"] == "revoked"


@pytest.mark.parametrize("text", ["soon", "90x", "-1d", "2030-13-01", ""])
def test_an_end_that_is_none_is_told(aiaas: Aiaas, text: str) -> None:
    done = aiaas("keys", "create", "--expires", text)
    assert done.exit_code == 2
    assert "--expires: expected" in done.stderr


@pytest.mark.parametrize(
    "text", ["2030-01-01", "2030-01-01T00:00:00Z", "2030-01-01T01:00:00+01:00"]
)
def test_a_date_is_of_utc(aiaas: Aiaas, server: FakeServer, text: str) -> None:
    made = document(aiaas("keys", "create", "--expires", text, "--json"))
    assert made["expires"] == 1893456000.0


def test_whoami(aiaas: Aiaas) -> None:
    assert document(aiaas("whoami", "--json"))["tenant"] == "default"
    assert "operator" in aiaas("whoami").stdout


def test_the_id_of_a_key_can_be_read_in_80_columns(aiaas: Aiaas, narrow: Aiaas) -> None:
    made = document(aiaas("keys", "create", "of the web application", "--scope", "admin", "--json"))
    listed = narrow("keys", "list").stdout
    assert made["id"] in listed
    assert "application" in listed
    assert "…" not in listed
    assert "replaced by" not in listed, "no key has been replaced"
    assert max(map(len, listed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("stored=5GB", "there is no limit 'stored'"),
        ("request_per_second=1", "did you mean 'requests_per_second'?"),
        ("stored_bytes=5 apples", "expected bytes, 500MB or 20GiB"),
    ],
)
def test_a_limit_that_is_none_is_told_before_it_is_sent(
    aiaas: Aiaas, limit: str, told: str
) -> None:
    done = aiaas("plans", "create", "small", "--limit", limit)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "PlanRequest" not in done.stderr


def test_a_size_may_have_its_unit(aiaas: Aiaas) -> None:
    made = document(aiaas("plans", "create", "small", "--limit", "stored_bytes=1.5GiB", "--json"))
    assert made["limits"]["stored_bytes"] == 3 << 29


def test_a_wrong_name_is_told_in_words_and_a_made_tenant_with_the_next_step(aiaas: Aiaas) -> None:
    done = aiaas("tenants", "create", "Acme Corp")
    assert "lower-case letters, digits and hyphens" in done.stderr
    assert "aiaas keys create --tenant acme" in aiaas("tenants", "create", "acme").stderr
    assert "there is no plan 'smal'" in aiaas("tenants", "set", "acme", "--plan", "smal").stderr
