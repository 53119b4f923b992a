"""`/api/v1/prices` and `/statements`: who may what, and what is told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.tenancy.months import Month, month_at
from tests.server.http.serving import Answer, AsgiCaller
from tests.server.tenancy.billing import Billing
from tests.tenants import Tenants

PRICE = {"unit": "rows", "amount": "0.25", "per": 1000, "currency": "EUR"}
NOW = month_at(time.time())
BEFORE = month_at(NOW.begin - 1)


class Asker:
    """Calls a server with one of its keys."""

    def __init__(self, app: Any, keys: dict[str, str], data: Path) -> None:
        self._call = AsgiCaller(app)
        self._keys = keys
        self.data = data

    async def __call__(self, who: str, method: str, path: str, body: Any = b"") -> Answer:
        headers = {"authorization": f"Bearer {self._keys[who]}"}
        return await self._call(method, f"/api/v1{path}", body, headers)

    def use(self, tenant: str, month: Month, rows: int) -> None:
        database = Database(f"sqlite:///{self.data / 'state.db'}")
        try:
            Billing(database).use(tenant, month.begin, rows)
        finally:
            database.close()


@pytest_asyncio.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Asker]:
    tenants = Tenants(tmp_path)
    keys = {
        "operator": tenants.key(),
        "acme": tenants.key("acme"),
        "bolt": tenants.key("bolt", ["usage:read"]),
        "blind": tenants.key("bolt", ["infer"]),
    }
    async with create_app(Settings(data=tmp_path, tenants=True)) as app:
        yield Asker(app, keys, tmp_path)


async def test_a_price_from_its_addition_to_its_end(ask: Asker) -> None:
    before = time.time()
    answer = await ask("operator", "POST", "/prices", PRICE)
    assert answer.status == 201, answer.body
    made = answer.json()
    assert made["amount"] == "0.25"
    assert made["valid_from"] % 3600 == 0
    assert before < made["valid_from"] <= time.time() + 3600
    answer = await ask("operator", "POST", "/prices", {**PRICE, "tenant": "acme", "amount": "1"})
    special = answer.json()
    for who, expected in (
        ("operator", [made, special]),
        ("acme", [made, special]),
        ("bolt", [made]),
    ):
        answer = await ask(who, "GET", "/prices")
        assert answer.json() == {"items": expected, "next": None}, who
    answer = await ask("operator", "GET", "/prices?tenant=bolt")
    assert answer.json()["items"] == [made]
    answer = await ask("operator", "GET", "/prices?limit=1")
    assert answer.json() == {"items": [made], "next": str(made["id"])}
    answer = await ask("operator", "GET", f"/prices?limit=1&after={made['id']}")
    assert answer.json() == {"items": [special], "next": None}
    answer = await ask("operator", "DELETE", f"/prices/{made['id']}")
    assert answer.json()["valid_until"] == made["valid_from"]  # it never counts
    answer = await ask("operator", "DELETE", f"/prices/{made['id']}")
    assert answer.status == 409


@pytest.mark.parametrize(
    ("who", "method", "path"),
    [
        ("acme", "POST", "/prices"),
        ("acme", "DELETE", "/prices/1"),
        ("acme", "POST", "/statements/2026-01/close"),
        ("acme", "POST", "/statements/2026-01/corrections"),
        ("acme", "GET", "/statements/2026-01?tenant=bolt"),
        ("acme", "GET", "/statements/2026-01?tenant=nobody"),
        ("acme", "GET", "/prices?tenant=bolt"),
        ("blind", "GET", "/prices"),
        ("blind", "GET", "/statements/2026-01"),
    ],
)
async def test_who_may_not(ask: Asker, who: str, method: str, path: str) -> None:
    answer = await ask(who, method, path, PRICE if method == "POST" else b"")
    assert answer.status == 403, answer.body
    assert answer.json()["code"] == "forbidden"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/prices", {**PRICE, "amount": 0.25}, 400, "decimal text"),
        ("POST", "/prices", {**PRICE, "amount": "-1"}, 400, "amount"),
        ("POST", "/prices", {**PRICE, "unit": "smiles"}, 400, "unit"),
        ("POST", "/prices", {**PRICE, "per": 0}, 400, "per"),
        ("POST", "/prices", {**PRICE, "colour": "red"}, 400, "colour"),
        ("POST", "/prices", {**PRICE, "valid_from": 0}, 400, "valid_from"),
        ("POST", "/prices", {**PRICE, "tenant": "nobody"}, 400, "nobody"),
        ("DELETE", "/prices/7", b"", 404, "no price 7"),
        ("DELETE", "/prices/x", b"", 404, "no price 'x'"),
        ("DELETE", f"/prices/{10**40}", b"", 404, "no price"),
        ("GET", "/prices?ended=perhaps", b"", 400, "ended"),
        ("GET", "/prices?after=x", b"", 400, "after"),
        ("GET", "/statements/2026-13", b"", 400, "2026-13"),
        ("GET", "/statements/9998-01", b"", 400, "has not begun"),
        ("GET", "/statements/2026-01?tenant=nobody", b"", 404, "nobody"),
        ("POST", f"/statements/{NOW}/close", b"", 409, "not over"),
        (
            "POST",
            "/statements/2026-01/corrections",
            {"amount": "1", "reason": "", "tenant": "acme"},
            400,
            "reason",
        ),
        (
            "POST",
            "/statements/2026-01/corrections",
            {"amount": 1.5, "reason": "x", "tenant": "acme"},
            400,
            "decimal text",
        ),
    ],
)
async def test_what_is_wrong_is_named(
    ask: Asker, method: str, path: str, body: Any, status: int, text: str
) -> None:
    answer = await ask("operator", method, path, body)
    assert answer.status == status, answer.body
    assert text in answer.json()["error"]


async def test_a_statement_while_it_is_open_and_closed(ask: Asker) -> None:
    begun = {**PRICE, "valid_from": NOW.begin}
    assert (await ask("operator", "POST", "/prices", begun)).status == 201
    ask.use("acme", NOW, 6000)
    answer = await ask("acme", "GET", f"/statements/{NOW}")
    found = answer.json()
    assert (found["total"], found["currency"], found["state"]) == ("1.50", "EUR", "open")
    assert [line["quantity"] for line in found["lines"]] == ["6000"]
    assert (await ask("operator", "GET", f"/statements/{NOW}?tenant=acme")).json() == found
    assert (await ask("bolt", "GET", f"/statements/{NOW}")).json()["total"] == "0.00"
    answer = await ask("operator", "POST", f"/statements/{BEFORE}/close?tenant=acme")
    closed = answer.json()
    assert (closed["state"], closed["total"]) == ("closed", "0.00")
    credit = {"amount": "-0.40", "reason": "an outage", "tenant": "acme"}
    answer = await ask("operator", "POST", f"/statements/{BEFORE}/corrections", credit)
    assert answer.status == 201, answer.body
    corrected = answer.json()
    assert (corrected["month"], corrected["total"]) == (str(NOW), "1.10")
    assert corrected["lines"][-1]["month"] == str(BEFORE)
    assert (await ask("acme", "GET", f"/statements/{BEFORE}")).json() == closed
