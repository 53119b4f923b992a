"""Prices and statements from the client and the command line, on a fake and on a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    Client,
    ConflictError,
    InputError,
    NotFoundError,
    StatementLine,
)
from aiaas_client._cli.commands import register
from aiaas_client.testing import FakeServer

runner = CliRunner()
app = typer.Typer()
register(app)
THIS_MONTH = time.strftime("%Y-%m", time.gmtime())


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as found:
        yield found


def run(server: FakeServer, *arguments: str) -> Any:
    return runner.invoke(app, [*arguments, "--url", server.url], env={"COLUMNS": "200"})


def bill(server: FakeServer) -> None:
    line = StatementLine(
        month="2026-01",
        description="mini: rows",
        model="mini",
        unit="rows",
        quantity=Decimal(1500),
        price=Decimal("0.25"),
        per=1000,
        amount=Decimal("0.38"),
    )
    server.prices.bill("2026-01", line)


@pytest.fixture(params=["fake", "real"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    if request.param == "fake":
        with FakeServer() as server, Client(server.url) as client:
            yield client
        return
    with Client.local(data=tmp_path / "data") as client:
        yield client


def test_a_price_book(client: Client) -> None:
    """The same of a real server and of the fake one."""
    added = client.prices.add("rows", "0.25", currency="EUR", per=1000, model="mini*", free=10)
    assert added.amount == Decimal("0.25")
    assert (added.per, added.model, added.free) == (1000, "mini*", 10)
    assert added.valid_from > time.time() - 1
    later = datetime(2127, 1, 1, 0, 0, 1, tzinfo=UTC)
    other = client.prices.add("month", 10, currency="EUR", valid_from=later)
    assert other.valid_from == later.timestamp() + 3599
    assert client.prices.list() == [added, other]
    assert client.prices.list(limit=1) == [added]
    ended = client.prices.end(other)
    assert ended.valid_until == other.valid_from
    assert client.prices.list(ended=True) == [added, ended]
    with pytest.raises(ConflictError, match="ended before"):
        client.prices.end(other.id)
    with pytest.raises(NotFoundError):
        client.prices.end(99)
    with pytest.raises(ConflictError, match="EUR"):
        client.prices.add("rows", "1", currency="USD")
    with pytest.raises(InputError, match="float is no exact amount"):
        client.prices.add("rows", 0.25, currency="EUR")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unit"):
        client.prices.add("smiles", "1", currency="EUR")
    with pytest.raises(InputError, match="its zone"):
        client.prices.add("rows", "1", currency="EUR", valid_from=datetime(2127, 1, 1))


def test_statements(client: Client) -> None:
    client.prices.add("rows", "1", currency="EUR")
    found = client.statements.get()
    assert (found.month, found.state, found.total) == (THIS_MONTH, "open", Decimal(0))
    assert client.statements.get(date.fromisoformat(f"{THIS_MONTH}-01")) == found
    closed = client.statements.close("2026-01")
    assert closed.state == "closed"
    assert client.statements.close("2026-01") == closed
    corrected = client.statements.correct("2026-01", "-1.50", reason="an outage", tenant="default")
    assert corrected.month != "2026-01"
    assert corrected.total == Decimal("-1.50")
    assert client.statements.get("2026-01") == closed
    with pytest.raises(ConflictError, match="not over"):
        client.statements.close(THIS_MONTH)
    with pytest.raises(BadRequestError, match="has not begun"):
        client.statements.get("2999-01")
    for text in ("2026-13", "november", ""):
        with pytest.raises(InputError, match="month"):
            client.statements.get(text)


async def test_tasks_have_them_too(server: FakeServer) -> None:
    bill(server)
    async with AsyncClient(server.url) as client:
        added = await client.prices.add("rows", "1", currency="EUR")
        assert await client.prices.list() == [added]
        found = await client.statements.get("2026-01")
    assert found.total == Decimal("0.38")


def test_prices_are_added_listed_and_ended_by_command(server: FakeServer) -> None:
    command = ("prices", "add", "rows", "0.25", "--per", "1000", "--currency", "EUR")
    result = run(server, *command, "--from", "2127-01-01")
    assert result.exit_code == 0, result.output
    assert "0.25 EUR / 1,000" in result.output
    assert "2127-01-01 00:00:00Z" in result.output
    result = run(server, "prices", "list", "--json")
    (found,) = json.loads(result.output)
    assert (found["amount"], found["per"]) == ("0.25", 1000)
    assert run(server, "prices", "end", "1").exit_code == 0
    assert run(server, "prices", "end", "1").exit_code == 1
    assert run(server, "prices", "add", "rows").exit_code == 2
    assert run(server, *command, "--from", "soon").exit_code == 2


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_prices_are_added_from_a_file(server: FakeServer, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"prices.{kind}"
    if kind == "csv":
        path.write_text(
            "unit,amount,currency,per,model,valid_from\n"
            "rows,0.10,EUR,1000,mini*,2127-01-01\n"
            "month,10,EUR,,,\n"
        )
    else:
        path.write_text(
            '[{"unit": "rows", "amount": 0.10, "currency": "EUR", "per": 1000, "model": "mini*",'
            ' "valid_from": "2127-01-01"}, {"unit": "month", "amount": "10", "currency": "EUR"}]'
        )
    result = run(server, "prices", "add", "--file", str(path))
    assert result.exit_code == 0, result.output
    with Client(server.url) as client:
        first, second = client.prices.list()
    assert (str(first.amount), first.per, first.model) == ("0.10", 1000, "mini*")
    assert (second.unit, second.per) == ("month", 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("unit,amount\nrows,1\n", "price 1 has no currency"),
        ("unit,amount,currency,colour\nrows,1,EUR,red\n", "colour"),
        ("unit,amount,currency\nrows,1,EUR\nrows,many,EUR\n", "price 2 of"),
    ],
    ids=["incomplete", "unknown", "refused"],
)
def test_a_file_that_is_wrong_is_named(
    server: FakeServer, tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "prices.csv"
    path.write_text(text)
    result = run(server, "prices", "add", "--file", str(path))
    assert result.exit_code == 2, result.output
    assert told in result.output + result.stderr


def test_a_statement_by_command(server: FakeServer) -> None:
    bill(server)
    result = run(server, "statement", "2026-01")
    assert result.exit_code == 0, result.output
    for text in ("mini: rows", "1,500", "0.25 / 1,000", "0.38", "total"):
        assert text in result.output
    result = run(server, "statement", "2026-01", "--json")
    assert json.loads(result.output)["total"] == "0.38"
    assert run(server, "statement", "2026-01", "--close").exit_code == 0
    credit = ("--credit", "0.38", "--reason", "an outage", "--tenant", "default")
    result = run(server, "statement", "2026-01", *credit)
    assert result.exit_code == 0, result.output
    assert "-0.38" in result.output
    assert run(server, "statement", "2026-01", "--credit", "1").exit_code == 2
    assert run(server, "statement", "2026-01", "--close", "--charge", "1").exit_code == 2
    assert run(server, "statement", "--close").exit_code == 2
