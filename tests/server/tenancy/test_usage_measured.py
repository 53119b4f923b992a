"""What is used over time: stored bytes and jobs that run, each second of them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update

from aiaas_client.protocol.jobs import JobResult
from aiaas_server.jobs import queue
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.tables import ARTEFACTS, JOB_EVENTS
from aiaas_server.state.tenant_tables import USAGE
from aiaas_server.tenancy import measured, usage_rows
from aiaas_server.tenancy.meter import Meter
from aiaas_server.tenancy.metering import Metering
from tests.server.tenancy.amounts import read_amounts

HOUR = 3600
BEGIN = 100 * HOUR


def store(connection: Connection, digest: str, size: int, created: float, **more: Any) -> None:
    values = {"tenant": "acme", "digest": digest, "size": size, "created": created, **more}
    connection.execute(ARTEFACTS.insert().values(values))


def measure(connection: Connection, now: int, name: str = measured.STORED) -> None:
    amounts = measured.stored if name == measured.STORED else measured.ran
    usage_rows.measure(connection, name, now, amounts)


def by_hour(connection: Connection, unit: str) -> dict[int, int]:
    asked = select(USAGE.c.hour, USAGE.c.amount).where(USAGE.c.unit == unit)
    return {row.hour // HOUR: row.amount for row in connection.execute(asked)}


def test_bytes_are_counted_from_when_they_came(database: Database) -> None:
    def work(connection: Connection) -> None:
        store(connection, "a", 1000, BEGIN - 5 * HOUR)
        measure(connection, BEGIN)  # it begins now: nothing before is counted
        store(connection, "b", 10, BEGIN + 600)
        store(connection, "c", 7, BEGIN + 700, tenant="bob")
        store(connection, "d", 10**6, BEGIN, leaving=True)
        for now in (BEGIN + 60, BEGIN + 60, BEGIN + 30, BEGIN + HOUR + 100, BEGIN + 2 * HOUR):
            measure(connection, now)

    database.submit(work).result()
    found = database.read_now(lambda c: read_amounts(c, "tenant", "hour"))
    assert found == {
        ("acme", str(BEGIN), "stored_byte_seconds"): 1000 * HOUR + 10 * (HOUR - 600),
        ("acme", str(BEGIN + HOUR), "stored_byte_seconds"): 1010 * HOUR,
        ("bob", str(BEGIN), "stored_byte_seconds"): 7 * (HOUR - 700),
        ("bob", str(BEGIN + HOUR), "stored_byte_seconds"): 7 * HOUR,
    }


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(times=st.lists(st.integers(0, 5 * HOUR), max_size=20), end=st.integers(1, 6 * HOUR))
def test_whenever_it_is_measured_the_sum_is_the_same(
    times: list[int], end: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('m') / 'state.db'}"
    upgrade(url)
    database = Database(url)

    def work(connection: Connection) -> dict[int, int]:
        store(connection, "a", 3, BEGIN - 1)
        for at in (0, *times, max([end, *times])):
            measure(connection, BEGIN + at)
        return by_hour(connection, "stored_byte_seconds")

    found = database.submit(work).result()
    database.close()
    assert sum(found.values()) == 3 * max([end, *times])
    assert max(found.values()) <= 3 * HOUR


def enqueue(connection: Connection, tenant: str = "acme", by: str = "k" * 12) -> str:
    row = queue.enqueue(
        connection, tenant=tenant, by=by, kind="train", subject="digits", spec={}, attempts=3
    )
    return row.id


def at(connection: Connection, job: str, times: list[float]) -> None:
    """Have the states of a job be told at these times: the first, `queued`, and the others."""
    asked = select(JOB_EVENTS.c.seq).where(JOB_EVENTS.c.job_id == job).order_by(JOB_EVENTS.c.seq)
    for seq, time in zip(connection.execute(asked).scalars().all(), times, strict=True):
        change = update(JOB_EVENTS).where(JOB_EVENTS.c.seq == seq).values(at=time)
        connection.execute(change)


def test_each_attempt_of_a_job_is_counted_once(database: Database) -> None:
    """It ran from 10 to 25, was put back, and ran from 40 to 52.5."""

    def work(connection: Connection) -> None:
        def measured_at(*times: int) -> None:
            for time in times:
                measure(connection, BEGIN + time, measured.RAN)

        told = [BEGIN + time for time in (0, 10, 25, 40, 52.5)]
        measured_at(0)
        job = enqueue(connection)
        enqueue(connection, by="operator")  # which waits
        measured_at(5)
        first = queue.claim(connection, "a")
        assert first is not None
        at(connection, job, told[:2])
        measured_at(12, 24)
        queue.put_back(connection, first.hold, spent=True)
        at(connection, job, told[:3])
        measured_at(26, 26, 35)
        second = queue.claim(connection, "b")
        assert second is not None
        assert second.row.id == job
        at(connection, job, told[:4])
        measured_at(45, 50)
        queue.succeed(connection, second.hold, JobResult())
        at(connection, job, told)
        measured_at(70, 90)

    database.submit(work).result()
    ran = database.read_now(lambda c: read_amounts(c, "tenant", "key_id", "model"))
    assert ran == {("acme", "k" * 12, "digits", "job_us"): 27_500_000}


def test_nobody_pays_for_a_server_that_is_gone(database: Database) -> None:
    """A job ran when all servers ended; it is found an hour later, and goes on."""

    def work(connection: Connection) -> None:
        measure(connection, BEGIN, measured.RAN)
        job = enqueue(connection, by="operator")
        first = queue.claim(connection, "a")
        assert first is not None
        queue.expire(connection, gone=["a"])
        second = queue.claim(connection, "b")
        assert second is not None
        at(connection, job, [BEGIN + t for t in (0, 10, HOUR, HOUR + 1)])
        for now in (12, HOUR + 3, HOUR + 8):
            measure(connection, BEGIN + now, measured.RAN)

    database.submit(work).result()
    found = database.read_now(lambda c: by_hour(c, "job_us"))
    assert found[BEGIN // HOUR] == (2 + measured.DARK) * 10**6
    assert found[BEGIN // HOUR + 1] == 7 * 10**6


def test_it_is_measured_while_something_runs(database: Database, tmp_path: Path) -> None:
    """By the thread of a server, as soon as it has begun."""
    metering = Metering(database, tmp_path / "usage", Meter())
    metering.tick()
    assert not database.read_now(measured.has_run)

    def begin(connection: Connection) -> None:
        enqueue(connection)
        assert queue.claim(connection, "a") is not None

    database.submit(begin).result()
    assert database.read_now(measured.has_run)
    metering.close()
