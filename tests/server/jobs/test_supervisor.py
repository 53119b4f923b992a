"""Servers that run jobs: claimed, gone on with, cancelled, put back; with real processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiaas_client.protocol.jobs import ENDED, JobResult
from aiaas_server.core.errors import StorageFull
from aiaas_server.jobs import queue, rows
from aiaas_server.jobs.queue import LEASE
from aiaas_server.state.clock import now
from aiaas_server.state.database import Connection, Database
from tests.server.jobs.shop import Shop
from tests.waiting import until

OpenShop = Callable[..., Shop]
SQLITE = pytest.mark.parametrize("state_url", ["sqlite"], indirect=True)
"""What is not about databases: `test_queue` is, with each of them."""


@pytest_asyncio.fixture
async def open_shop(database: Database, tmp_path: Path) -> AsyncIterator[OpenShop]:
    """Servers on one data directory, closed afterwards."""
    made: list[Shop] = []

    def make(**given: Any) -> Shop:
        made.append(Shop(database, tmp_path / "data", **given))
        return made[-1]

    yield make
    for shop in made:
        await shop.close()


async def add(database: Database, **spec: Any) -> str:
    attempts = spec.pop("attempts", 3)

    def work(connection: Connection) -> str:
        return queue.enqueue(
            connection,
            tenant="t",
            by="me",
            kind="odd",
            subject="m",
            spec={"kind": "odd", **spec},
            attempts=attempts,
        ).id

    return await database.write(work)


async def row_of(database: Database, job: str) -> rows.JobRow:
    return await database.read(lambda c: rows.get_job(c, "t", job))


async def holds(database: Database, job: str, true: Callable[[rows.JobRow], bool]) -> rows.JobRow:
    """The row, once that is true of it."""
    async with asyncio.timeout(60):
        while not true(row := await row_of(database, job)):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.02)
    return row


async def ended(database: Database, job: str) -> rows.JobRow:
    return await holds(database, job, lambda row: row.state in ENDED)


def left_of(data: Path) -> list[str]:
    """Files of jobs and artefacts below the data directory."""
    below = [*(data / "jobs").glob("[0-9a-f]*"), *(data / "artefacts").rglob("*")]
    return [path.name for path in below if path.is_file() or path.parent.name == "jobs"]


async def beside(database: Database, job: str) -> int:
    """The process that the job has started beside itself, once it tells of it."""
    async with asyncio.timeout(60):
        while True:
            for line in (await row_of(database, job)).log:
                if line.startswith("beside "):
                    return int(line.split()[1])
            await asyncio.sleep(0.02)


def runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@SQLITE
async def test_a_job_is_run_and_what_it_made_is_kept(
    database: Database, open_shop: OpenShop
) -> None:
    """Its files stay, its directory and its checkpoints go."""
    shop = open_shop()
    shop.jobs.start()
    row = await ended(database, await add(database, prints=["hello", "token=abcdefgh12345"]))
    assert row.state == "succeeded"
    assert row.result is not None
    result = JobResult.model_validate(row.result)
    assert result.metrics == {"steps": 3.0}
    assert row.log == ["hello", "token=[left out]"]
    (file,) = result.files
    assert b"".join(shop.artefacts.pieces("t", file.sha256)) == b"began behind 0"
    await until(lambda: left_of(shop.data) == [file.sha256])
    events = await database.read(lambda c: rows.events_after(c, row.id))
    told = [(e.kind, e.data.get("state") or e.data.get("step")) for e in events]
    assert told[:2] == [("state", "queued"), ("state", "running")]
    assert told[-1] == ("state", "succeeded")
    assert {1, 2, 3} <= {step for kind, step in told if kind == "progress"}


@pytest.mark.slow
@SQLITE
async def test_one_that_is_killed_goes_on_from_its_checkpoint(
    database: Database, open_shop: OpenShop
) -> None:
    open_shop().jobs.start()
    row = await ended(database, await add(database, steps=4, dies_at=2))
    assert (row.state, row.attempt) == ("succeeded", 2)
    assert row.result is not None
    assert row.result["details"]["begun"] == 2


@pytest.mark.slow
@SQLITE
async def test_one_that_is_killed_each_time_fails_at_last(
    database: Database, open_shop: OpenShop
) -> None:
    shop = open_shop()
    shop.jobs.start()
    row = await ended(database, await add(database, dies_at=1, deaths=9, attempts=2, steps=4))
    assert row.state == "failed"
    assert row.error is not None
    assert row.error["code"] == "lost"
    await until(lambda: left_of(shop.data) == [])


@pytest.mark.slow
async def test_two_servers_never_run_one_job_both(database: Database, open_shop: OpenShop) -> None:
    """Each job has one attempt, whoever made it."""
    shops = [open_shop(), open_shop()]
    for shop in shops:
        shop.jobs.start()
    jobs = [await add(database, steps=1) for _ in range(4)]
    for job in jobs:
        row = await ended(database, job)
        assert (row.state, row.attempt) == ("succeeded", 1)
    laid = [order.job for shop in shops for order in shop.laid]
    assert sorted(laid) == sorted(jobs)


@SQLITE
async def test_a_job_that_is_cancelled_while_it_runs_leaves_nothing(
    database: Database, open_shop: OpenShop
) -> None:
    """Neither checkpoint nor directory nor process, and after a first life of it as well."""
    shop = open_shop()
    shop.jobs.start()
    job = await add(database, steps=3, dies_at=1, hangs_at=2, hangs=9)
    pid = await beside(database, job)
    row = await row_of(database, job)
    assert row.attempt == 2
    assert row.checkpoint is not None
    await database.write(lambda c: queue.cancel(c, rows.get_job(c, "t", job)))
    assert (await ended(database, job)).state == "cancelled"
    await until(lambda: left_of(shop.data) == [])
    await until(lambda: not runs(pid))


@pytest.mark.slow
@SQLITE
async def test_a_server_that_stops_gives_its_jobs_back(
    database: Database, open_shop: OpenShop
) -> None:
    """Without an attempt being spent; the next one goes on from the checkpoint."""
    first = open_shop()
    first.jobs.start()
    job = await add(database, steps=3, hangs_at=2, attempts=1)
    pid = await beside(database, job)
    await first.jobs.close()
    row = await row_of(database, job)
    assert (row.state, row.attempt) == ("queued", 0)
    await until(lambda: not runs(pid))

    def heal(connection: Connection) -> None:
        connection.execute(rows.JOBS.update().values(spec={**row.spec, "hangs_at": 0}))

    await database.write(heal)
    open_shop().jobs.start()
    row = await ended(database, job)
    assert row.state == "succeeded"
    assert row.result is not None
    assert row.result["details"]["begun"] == 2


@SQLITE
async def test_a_holder_that_lost_its_job_lets_go_of_it(
    database: Database, open_shop: OpenShop
) -> None:
    """Another has it now: what the first one does changes nothing, and it ends its process."""
    shop = open_shop(lease=6.0)
    shop.jobs.start()
    job = await add(database, steps=3, hangs_at=2, hangs=9)
    pid = await beside(database, job)

    def take(connection: Connection) -> None:
        lease = now(connection) + 5 * LEASE  # one that lies further off counts as run out
        connection.execute(rows.JOBS.update().values(holder="another", attempt=2, lease=lease))

    await database.write(take)
    await until(lambda: shop.jobs.running == 0)
    await until(lambda: not runs(pid))
    row = await row_of(database, job)
    assert (row.state, row.holder, row.attempt) == ("running", "another", 2)


@SQLITE
async def test_what_a_server_made_that_ended_while_it_kept_that_is_not_made_again(
    database: Database, open_shop: OpenShop
) -> None:
    first = open_shop()
    first.keeps.clear()
    first.jobs.start()
    job = await add(database)
    await holds(database, job, lambda row: row.progress.get("phase") == queue.KEEPING)
    await first.jobs.close()
    second = open_shop()
    second.jobs.start()
    assert (await ended(database, job)).state == "succeeded"
    assert second.laid == []
    await until(lambda: len(left_of(second.data)) == 1)


@SQLITE
async def test_what_cannot_be_laid_out_fails_with_the_reason(
    database: Database, open_shop: OpenShop
) -> None:
    shop = open_shop()
    shop.refuses = StorageFull("the disk of the server is full")
    shop.jobs.start()
    row = await ended(database, await add(database))
    assert row.error == {
        "code": "storage_full",
        "message": "the disk of the server is full",
        "details": {},
    }


@pytest.mark.slow
@SQLITE
async def test_a_checkpoint_that_is_damaged_is_not_gone_on_from(
    database: Database, open_shop: OpenShop
) -> None:
    """It begins anew."""
    shop = open_shop()
    shop.jobs.start()
    job = await add(database, steps=3, hangs_at=2)
    await beside(database, job)
    await holds(database, job, lambda row: (row.checkpoint or {}).get("step") == 2)
    await shop.jobs.close()
    for path in (shop.data / "artefacts").rglob("*"):
        if path.is_file():
            path.write_bytes(b"7")

    def heal(connection: Connection) -> None:
        row = rows.get_job(connection, "t", job)
        connection.execute(rows.JOBS.update().values(spec={**row.spec, "hangs_at": 0}))

    await database.write(heal)
    open_shop().jobs.start()
    row = await ended(database, job)
    assert row.state == "succeeded"
    assert row.result is not None
    assert row.result["details"]["begun"] == 0
    assert any("checkpoint is damaged" in line for line in row.log)


@pytest.mark.slow
@SQLITE
async def test_a_server_that_is_killed_loses_nothing(
    database: Database, state_url: str, tmp_path: Path, open_shop: OpenShop
) -> None:
    """Its jobs end with it, what they started beside them is found, and the next server, which
    need not wait for the lease, goes on from the checkpoint.
    """
    job = await add(database, steps=3, hangs_at=2)
    command = [sys.executable, "-m", "tests.server.jobs.shop", state_url, str(tmp_path / "data")]
    with subprocess.Popen(command) as server:  # noqa: ASYNC220  # at once
        pid = await beside(database, job)
        await holds(database, job, lambda row: (row.checkpoint or {}).get("step") == 2)
        (told,) = (await row_of(database, job)).log
        server.kill()
    await until(lambda: not runs(int(told.split()[-1])))
    assert runs(pid)
    open_shop().jobs.start()
    row = await ended(database, job)
    assert (row.state, row.attempt) == ("succeeded", 2)
    assert row.result is not None
    assert row.result["details"]["begun"] == 2
    assert not runs(pid)


@SQLITE
async def test_a_job_that_fills_the_disk_is_ended(database: Database, open_shop: OpenShop) -> None:
    """Before there is no room left for what else the server has to write."""

    def check_room() -> None:
        raise StorageFull("the disk of the server is full: 5 % stay free")

    open_shop(check_room=check_room).jobs.start()
    row = await ended(database, await add(database, hangs_at=1))
    assert row.error is not None
    assert row.error["code"] == "storage_full"
