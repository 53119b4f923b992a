"""Pages of usage and of the audit cost what is on them, however much there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from aiaas_client.protocol.usage import By
from aiaas_server.core.acts import Act
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.tenant_tables import AUDIT, USAGE
from aiaas_server.tenancy.audit_read import Wanted, entries
from aiaas_server.tenancy.usage import UsageQuery, find_usage

BEGIN, HOUR, DAY = 1_790_000_000 // 86_400 * 86_400, 3600, 86_400
END = BEGIN + 10**8
EVERY: tuple[By, ...] = ("tenant", "key", "model", "version", "hour")
EACH = 40  # amounts of an hour


def amounts(hours: int) -> list[dict[str, Any]]:
    return [
        {
            "tenant": f"t{n % 2}", "hour": BEGIN + hour * HOUR, "key_id": "", "model": f"m{n}",
            "version": 1, "unit": "rows", "amount": hour + n,
        }
        for hour in range(hours)
        for n in range(EACH)
    ]  # fmt: skip


def acts(count: int) -> list[dict[str, Any]]:
    entry = Act("models.deploy", "models:write", "m")
    text = f'{{"act":"{entry.name}","actor":"a","at":1.0,"result":"done","seq":1,"tenant":"t"}}'
    told = {"actor": "a", "act": entry.name, "entry": text, "hash": "", "signature": ""}
    return [
        {**told, "seq": seq, "tenant": f"t{seq % 2}", "at": float(BEGIN + seq)}
        for seq in range(1, count + 1)
    ]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """`filled(hours, count)`: a database with the use of so many hours and so many acts."""
    opened: list[Database] = []

    def fill(hours: int, count: int) -> Database:
        url = f"sqlite:///{tmp_path / f'{hours}.db'}"
        upgrade(url)
        database = Database(url)
        opened.append(database)
        database.submit(lambda c: c.execute(insert(USAGE), amounts(hours))).result()
        database.submit(lambda c: c.execute(insert(AUDIT), acts(count))).result()
        return database

    yield fill
    for database in opened:
        database.close()


def steps(database: Database, work: Callable[[Connection], Any]) -> int:
    """Hundreds of instructions that SQLite carries out for it."""
    count = 0

    def counted() -> int:
        nonlocal count
        count += 1
        return 0

    def run(connection: Connection) -> None:
        raw: Any = connection.connection.driver_connection
        raw.set_progress_handler(counted, 100)
        try:
            work(connection)
        finally:
            raw.set_progress_handler(None, 0)

    database.read_now(run)
    return count


def usage_page(after_hours: int, tenant: str | None, connection: Connection) -> None:
    begin = BEGIN + after_hours * HOUR
    rows, following = find_usage(connection, UsageQuery(EVERY, begin, END, tenant, limit=50))
    assert len(rows) == 50
    assert following is not None


PAGES: dict[str, Callable[[Connection], Any]] = {
    "usage of all": partial(usage_page, 5, None),
    "usage of a tenant": partial(usage_page, 5, "t1"),
    "audit of all": lambda c: entries(c, Wanted(), 50),
    "audit of a tenant": lambda c: entries(c, Wanted("t1", before=300), 50),
    "audit of a time": lambda c: entries(
        c, Wanted(since=float(BEGIN + 100), until=float(BEGIN + 150)), 50
    ),
}


def test_a_page_costs_what_is_on_it(filled: Callable[..., Database]) -> None:
    """Of thirty times as much it is as cheap; without an index, or summing all, it is not."""
    few, many = filled(20, 400), filled(600, 12_000)
    for name, work in PAGES.items():
        assert steps(many, work) <= 2 * steps(few, work) + 10, name


@pytest.mark.parametrize("tenant", [None, "t1"])
@pytest.mark.parametrize(
    "by", [EVERY, ("hour",), ("tenant", "hour"), ("model", "day")], ids="-".join
)
def test_pages_are_the_whole(by: tuple[By, ...], tenant: str | None, database: Database) -> None:
    """Also where an hour of many amounts is a row or two, and where it is cut by a page's end."""
    database.submit(lambda c: c.execute(insert(USAGE), amounts(30))).result()
    asked = UsageQuery(by, BEGIN, END, tenant, limit=10_000)
    whole, following = database.read_now(lambda c: find_usage(c, asked))
    assert following is None
    assert sum(row.amount for row in whole) == sum(
        one["amount"] for one in amounts(30) if tenant in (None, one["tenant"])
    )
    found, after = [], ""
    while True:
        part = asked._replace(limit=7, after=after)
        rows, following = database.read_now(partial(find_usage, query=part))
        found += rows
        if following is None:
            break
        assert len(rows) == 7
        after = following
    assert found == whole
