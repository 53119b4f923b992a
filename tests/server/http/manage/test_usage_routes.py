"""`GET /api/v1/usage`: sums of the caller's tenant, in parts, and everything as a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from aiaas_client import Client
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.tenancy import usage_rows
from aiaas_server.tenancy.meter import Used
from tests.server.http.serving import AsgiCaller
from tests.tenants import Tenants
from tests.waiting import wait_until

NOV = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
HOUR, DAY = 3600, 86_400
AMOUNTS = {
    Used("acme", NOV, "a" * 12, "m", 1, "requests"): 1,
    Used("acme", NOV + HOUR, "a" * 12, "m", 2, "requests"): 2,
    Used("acme", NOV + DAY, "b" * 12, "m", 1, "requests"): 4,
    Used("acme", NOV + DAY, "b" * 12, "=n", 1, "bytes_in"): 2**53 + 1,
    Used("acme", NOV + 40 * DAY, "", "", 0, "stored_byte_seconds"): 2**62,
    Used("bob", NOV, "c" * 12, "m", 1, "requests"): 100,
}


class Asking:
    """Asks for usage with a key."""

    def __init__(self, call: AsgiCaller, keys: dict[str, str]) -> None:
        self._call = call
        self.keys = keys

    async def __call__(self, query: str = "", who: str = "acme") -> Any:
        headers = {"authorization": f"Bearer {self.keys[who]}"}
        return await self._call("GET", f"/api/v1/usage?{query}", headers=headers)

    async def rows(self, query: str, who: str = "acme") -> list[tuple[Any, ...]]:
        answer = await self(f"start=2026-11-01&end=2027-01-01&{query}", who)
        assert answer.status == 200, answer.body
        document = answer.json()
        assert document["next"] is None
        return [
            tuple(value for name, value in row.items() if value is not None)
            for row in document["items"]
        ]


@pytest.fixture
async def ask(tmp_path: Path, state_url: str) -> AsyncIterator[Asking]:
    tenants = Tenants(tmp_path, state_url)
    keys = {
        "acme": tenants.key("acme"),
        "bob": tenants.key("bob", ["usage:read"]),
        "infer": tenants.key("acme", ["infer"]),
        "operator": tenants.key("default", ["admin"]),
    }
    database = Database(state_url)
    database.submit(lambda connection: usage_rows.add(connection, AMOUNTS.items())).result()
    database.close()
    url = None if state_url.startswith("sqlite") else SecretStr(state_url)
    settings = Settings(data=tmp_path, tenants=True, database_url=url)
    async with create_app(settings) as app:
        yield Asking(AsgiCaller(app), keys)


async def test_sums_of_the_callers_tenant(ask: Asking) -> None:
    assert await ask.rows("") == [
        ("bytes_in", 2**53 + 1),
        ("requests", 7),
        ("stored_byte_seconds", 2**62),
    ]
    assert await ask.rows("unit=requests", "bob") == [("requests", 100)]
    assert await ask.rows("by=version&unit=requests") == [(1, "requests", 5), (2, "requests", 2)]
    assert await ask.rows("by=key&unit=requests&model=m&version=1") == [
        ("a" * 12, "requests", 1),
        ("b" * 12, "requests", 4),
    ]


@pytest.mark.parametrize(
    ("by", "begin"),
    [("hour", (NOV, NOV + HOUR, NOV + DAY)), ("day", (NOV, NOV, NOV + DAY)), ("month", (NOV,) * 3)],
)
async def test_sums_by_time(ask: Asking, by: str, begin: tuple[int, ...]) -> None:
    sums: dict[int, int] = {}
    for at, amount in zip(begin, (1, 2, 4), strict=True):
        sums[at] = sums.get(at, 0) + amount
    told = await ask.rows(f"by={by}&unit=requests")
    assert told == [(at, "requests", amount) for at, amount in sums.items()]
    december = await ask.rows("by=month&unit=stored_byte_seconds")
    assert december == [(NOV + 30 * DAY, "stored_byte_seconds", 2**62)]


async def test_only_the_operator_asks_for_others(ask: Asking) -> None:
    assert await ask.rows("by=tenant&unit=requests", "operator") == [
        ("acme", "requests", 7),
        ("bob", "requests", 100),
    ]
    assert await ask.rows("tenant=bob", "operator") == [("requests", 100)]
    misspelt = await ask("tenant=bbo", "operator")
    assert (misspelt.status, b"there is no tenant 'bbo'" in misspelt.body) == (404, True)
    assert await ask.rows("tenant=*&unit=requests", "operator") == [("requests", 107)]
    assert await ask.rows("unit=requests", "operator") == []  # its own
    assert await ask.rows("tenant=acme&unit=requests") == [("requests", 7)]
    assert (await ask("tenant=bob")).status == 403
    assert (await ask("tenant=nobody")).body.replace(b"nobody", b"bob").split(b"request_id")[0] == (
        await ask("tenant=bob")
    ).body.split(b"request_id")[0]
    assert await ask.rows("by=tenant&unit=requests") == [("acme", "requests", 7)]
    assert (await ask(who="infer")).status == 403


@pytest.mark.parametrize("by", ["key,model,version,hour", "model,month", "day"])
async def test_parts_add_up_to_the_whole(ask: Asking, by: str) -> None:
    whole = await ask.rows(f"by={by}")
    found: list[tuple[Any, ...]] = []
    after = ""
    while True:
        query = f"start=2026-11-01&end=2027-01-01&by={by}&limit=1&after={after}"
        document = (await ask(query)).json()
        (row,) = document["items"]
        found.append(tuple(value for value in row.values() if value is not None))
        if document["next"] is None:
            break
        after = document["next"]
    assert found == whole


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("by=colour", "by: expected some of"),
        ("by=hour,day", "by: expected one of"),
        ("start=soon", "start: expected seconds"),
        ("start=2026-11-02&end=2026-11-01", "end: expected a time behind start"),
        ("unit=euro", "unit: expected one of"),
        ("version=one", "version: expected a number"),
        ("version=99999999999", "version: expected a number"),
        ("model=%00", "model: expected at most 255"),
        ("format=xls", "format: expected json"),
        ("limit=0", "limit: expected 1 to 1000"),
        ("after=x", "after: expected what"),
        ("by=model&after=WyIiXQ", "after: expected what"),
        ("by=hour&after=WyJhIiwiciJd", "after: expected what"),
        ("by=hour&after=" + "W10" * 600, "after: expected what"),
        ("colour=red", "usage is not asked for by that"),
    ],
)
async def test_what_cannot_be_asked_is_told(ask: Asking, query: str, told: str) -> None:
    answer = await ask(query)
    assert answer.status == 400, answer.body
    assert told in answer.json()["error"]


async def test_everything_as_a_file(ask: Asking) -> None:
    times = "start=2026-11-01&end=2027-01-01"
    answer = await ask(f"format=csv&{times}")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert sum(int(row["amount"]) for row in rows if row["unit"] == "requests") == 7
    assert {row["tenant"] for row in rows} == {"acme"}
    assert rows[0]["time"] == "2026-11-01T00:00:00+00:00"
    assert "'=n" in {row["model"] for row in rows}  # no spreadsheet runs it
    answer = await ask(f"format=jsonl&by=model&{times}")
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert {"model": "m", "unit": "requests", "amount": 7} in lines


async def test_a_file_of_more_than_a_page(ask: Asking, state_url: str) -> None:
    many = {Used("acme", NOV, "", f"m{n:05}", 1, "rows"): n for n in range(1, 3001)}
    database = Database(state_url)
    database.submit(lambda connection: usage_rows.add(connection, many.items())).result()
    database.close()
    answer = await ask("format=jsonl&unit=rows&start=2026-11-01")
    amounts = [json.loads(line)["amount"] for line in answer.body.splitlines()]
    assert amounts == list(range(1, 3001))


async def test_nothing_is_asked_for_without_data(tmp_path: Path) -> None:
    async with create_app(Settings(models=tmp_path)) as app:
        assert (await AsgiCaller(app)("GET", "/api/v1/usage")).status == 404


def test_in_this_process(
    tmp_path: Path, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    """`Client.local` with data counts its calls, whichever thread they run in, and tells them."""
    root = make_repository({"m": onnx_models.scale(2)})
    x = np.ones((3, 4), np.float32)
    with Client.local(root, data=tmp_path / "data") as client:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: client.model("m").infer(x=x), range(8)))
        wait_until(lambda: client.usage.get(model="m").total.get("requests", 0) >= 8)
        total = client.usage.get("model,day").total
    assert (total["requests"], total["rows"], total["bytes_in"]) == (8, 24, 8 * 48)
