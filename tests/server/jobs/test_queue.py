"""The queue: who may run a job, and that nobody else's writes count."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from aiaas_client.protocol.jobs import JobError, JobFile, JobResult, Progress
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.jobs import events, queue, rows
from aiaas_server.jobs.events import News
from aiaas_server.jobs.queue import Hold
from aiaas_server.state.artefacts import claims
from aiaas_server.state.database import Connection, Database
from aiaas_server.state.tables import JOBS

ERROR = JobError(code="failed", message="no")


def add(connection: Connection, **given: Any) -> rows.JobRow:
    given = {"tenant": "t", "by": "me", "kind": "odd", "subject": "m", "spec": {}} | given
    return queue.enqueue(connection, **given)


def claimed(connection: Connection, holder: str = "a") -> queue.Claimed:
    found = queue.claim(connection, holder)
    assert found is not None
    return found


def run_out(connection: Connection, job: str) -> None:
    """As if nobody had renewed the lease for long."""
    connection.execute(update(JOBS).where(JOBS.c.id == job).values(lease=1.0))


def states(connection: Connection, job: str) -> list[str]:
    found = rows.events_after(connection, job)
    return [event.data["state"] for event in found if event.kind == "state"]


def the(connection: Connection, job: str) -> rows.JobRow:
    return rows.get_job(connection, "t", job)


async def test_the_oldest_is_claimed_first_and_nobody_gets_one_twice(database: Database) -> None:
    def work(connection: Connection) -> None:
        jobs = [add(connection).id for _ in range(3)]
        for at, job in enumerate(jobs):
            connection.execute(update(JOBS).where(JOBS.c.id == job).values(created=float(at)))
        assert [claimed(connection, holder).row.id for holder in "abc"] == jobs
        assert queue.claim(connection, "d") is None
        assert not queue.has_work(connection)

    await database.write(work)


async def test_who_has_queued_much_is_not_served_before_all_others(database: Database) -> None:
    def work(connection: Connection) -> None:
        for at, tenant in enumerate(("much", "much", "much", "little", "little", "one")):
            job = add(connection, tenant=tenant).id
            connection.execute(update(JOBS).where(JOBS.c.id == job).values(created=float(at)))
        began = [claimed(connection, holder).row for holder in "abcdef"]
        assert [row.tenant for row in began[:3]] == ["much", "little", "one"]
        assert sorted(row.tenant for row in began[3:]) == ["little", "much", "much"]

    await database.write(work)


async def test_one_whose_lease_has_run_out_waits_again_and_its_late_holder_changes_nothing(
    database: Database,
) -> None:
    def work(connection: Connection) -> None:
        job = add(connection).id
        late = claimed(connection, "a").hold
        run_out(connection, job)
        assert queue.has_work(connection)
        assert queue.expire(connection) == []
        again = claimed(connection, "a").hold  # the same server, even
        assert (late.attempt, again.attempt) == (1, 2)
        before = the(connection, job)
        assert queue.renew(connection, late, News([Progress(step=9)], ["late"])) is None
        assert queue.begin_keeping(connection, late) is None
        assert queue.set_checkpoint(connection, late, "f" * 64, 1, 9) is None
        assert queue.succeed(connection, late, JobResult()) is None
        assert queue.fail(connection, late, ERROR) is None
        assert queue.put_back(connection, late, spent=True) is None
        assert the(connection, job) == before
        assert queue.succeed(connection, again, JobResult()) is not None
        assert states(connection, job) == [
            "queued", "running", "queued", "running", "succeeded",
        ]  # fmt: skip

    await database.write(work)


async def test_a_job_is_tried_so_often_and_no_more(database: Database) -> None:
    """The last attempt that is lost fails it, with its checkpoint gone."""

    def work(connection: Connection) -> None:
        job = add(connection, attempts=2).id
        over: list[queue.Over] = []
        for _ in range(2):
            hold = claimed(connection).hold
            claims.claim(connection, "t", "f" * 64, rows.job_user(job))
            assert queue.set_checkpoint(connection, hold, "f" * 64, 1, 1) is not None
            run_out(connection, job)
            over = queue.expire(connection)
        assert over == [queue.Over("t", job, ["f" * 64])]
        row = the(connection, job)
        assert (row.state, row.attempt, row.checkpoint) == ("failed", 2, None)
        assert row.error is not None
        assert row.error["code"] == "lost"
        assert claims.used_by(connection, "t", row.user) == set()

    await database.write(work)


async def test_a_server_that_stops_spends_no_attempt(database: Database) -> None:
    def work(connection: Connection) -> None:
        job = add(connection, attempts=1).id
        for _ in range(3):
            assert queue.put_back(connection, claimed(connection).hold, spent=False) is None
        assert the(connection, job).attempt == 0

    await database.write(work)


async def test_cancelling(database: Database) -> None:
    """At once where it waits; where it runs its holder hears of it; never what is done."""

    def work(connection: Connection) -> None:
        waiting, running, lost, kept = (add(connection) for _ in range(4))
        assert queue.cancel(connection, waiting) is not None
        assert the(connection, waiting.id).state == "cancelled"
        assert queue.cancel(connection, the(connection, waiting.id)) is None
        holds: dict[str, Hold] = {}
        for _ in range(3):
            found = claimed(connection)
            holds[found.row.id] = found.hold
        for job in (running, lost):
            assert queue.cancel(connection, the(connection, job.id)) is None
        renewed = queue.renew(connection, holds[running.id])
        assert renewed is not None
        assert renewed.cancelling
        assert queue.begin_keeping(connection, holds[running.id]) is None
        assert queue.cancelled(connection, holds[running.id]) is not None
        run_out(connection, lost.id)
        assert [over.job for over in queue.expire(connection)] == [lost.id]
        for job in (running, lost):
            assert the(connection, job.id).state == "cancelled"
        assert queue.begin_keeping(connection, holds[kept.id]) is not None
        with pytest.raises(Conflict, match="what it made is being kept"):
            queue.cancel(connection, the(connection, kept.id))
        queue.fail(connection, holds[kept.id], ERROR)
        with pytest.raises(Conflict, match="has failed already"):
            queue.cancel(connection, the(connection, kept.id))

    await database.write(work)


async def test_a_checkpoint_takes_the_place_of_the_one_before(database: Database) -> None:
    def work(connection: Connection) -> None:
        job = add(connection)
        hold = claimed(connection).hold
        for digest in ("a" * 64, "b" * 64):
            claims.claim(connection, "t", digest, job.user)
        assert queue.set_checkpoint(connection, hold, "a" * 64, 1, 1) == []
        assert queue.set_checkpoint(connection, hold, "b" * 64, 1, 2) == ["a" * 64]
        result = JobResult(files=[JobFile(name="x", size=1, sha256="c" * 64)])
        claims.claim(connection, "t", "c" * 64, job.user)
        over = queue.succeed(connection, hold, result)
        assert over == queue.Over("t", job.id, ["b" * 64])
        assert rows.delete_job(connection, the(connection, job.id)) == ["c" * 64]
        with pytest.raises(NotFound):
            the(connection, job.id)

    await database.write(work)


async def test_events_and_log_are_bounded(database: Database) -> None:
    """Of too many steps every second one goes; the first and the newest stay."""

    def work(connection: Connection) -> None:
        job = add(connection).id
        hold = claimed(connection).hold
        steps = events.MOST_EVENTS + 1
        queue.renew(connection, hold, News([Progress(step=n) for n in range(1, steps + 1)]))
        queue.renew(connection, hold, News([], [str(n) for n in range(events.LOG_LINES + 5)]))
        all_of = rows.events_after(connection, job, 0, 5000)
        told = [event.data["step"] for event in all_of if event.kind == "progress"]
        assert len(told) <= events.MOST_EVENTS // 2 + 2
        assert (told[0], told[-1]) == (1, steps)
        assert len([event for event in all_of if event.kind == "log"]) == events.LOG_LINES
        row = the(connection, job)
        assert row.log[-1] == str(events.LOG_LINES + 4)
        assert len(row.log) == events.LOG_LINES
        assert row.progress["step"] == steps

    await database.write(work)


async def test_a_list_goes_on_where_its_page_ended(database: Database) -> None:
    def work(connection: Connection) -> None:
        jobs = {add(connection).id for _ in range(5)}
        add(connection, tenant="other")
        seen: list[str] = []
        while True:
            after = seen[-1] if seen else ""
            page = rows.list_jobs(connection, "t", after=after, limit=2)
            if not page:
                break
            seen += [row.id for row in page]
        assert set(seen) == jobs
        assert len(seen) == 5
        assert rows.list_jobs(connection, "t", state="running") == []
        assert len(rows.list_jobs(connection, "t", kind="odd", subject="m")) == 5

    await database.write(work)
