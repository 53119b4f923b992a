"""Acts and refusals on their way into the audit: in order, bounded, and never lost in silence."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from aiaas_server.core.acts import Act, Outcome
from aiaas_server.core.author import SERVER, Author
from aiaas_server.core.errors import Conflict, StateUnavailable
from aiaas_server.core.events import Refusal
from aiaas_server.jobs.queue import enqueue
from aiaas_server.state.database import Database
from aiaas_server.state.tables import HISTORY
from aiaas_server.tenancy.audit import MOST_KEPT, Audit
from aiaas_server.tenancy.audit_archive import (
    ArchiveRefused,
    check_archive,
    take_out,
    write_archive,
)
from aiaas_server.tenancy.audit_chain import append, canonical
from aiaas_server.tenancy.audit_head_file import HEAD_FILE, read_head
from aiaas_server.tenancy.audit_refusals import ADDRESSES, ENTRIES_A_DAY, Refusals
from tests.server.tenancy.auditing import KEY, change, checked, edit, told, written

pytestmark = pytest.mark.asyncio
UNKNOWN = Refusal(401, "unauthorized", "10.0.0.1")
SECRET = "aias_abcdefghijkl_" + "s" * 43 + "abcdef"


class Away:
    """A database that can be away: nothing is written, nothing is read."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.away = False

    async def write(self, work: Any, *, spares_room: bool = False) -> Any:
        self._check()
        return await self.database.write(work, spares_room=spares_room)

    async def read(self, work: Any) -> Any:
        self._check()
        return await self.database.read(work)

    def _check(self) -> None:
        if self.away:
            raise StateUnavailable("the database does not answer; try again")


class Clock:
    """A time that goes on by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_an_act_is_two_entries(database: Database, tmp_path: Path) -> None:
    audit = Audit(database, KEY, tmp_path / HEAD_FILE)
    act = Act("models.deploy", "models:write", "m", "acme", "k1", "10.0.0.1", "r-1")
    begun = await audit.begin(act)
    await audit.end(begun, Outcome("done", 201, object="m/3", body="b" * 64))
    first, second = told(database)
    assert (first.seq, second.seq, second.begun) == (1, 2, 1)
    assert (first.result, second.result, second.status) == ("begun", "done", 201)
    assert (first.object, second.object) == ("m", "m/3")
    for entry in (first, second):
        assert (entry.tenant, entry.actor, entry.address) == ("acme", "k1", "10.0.0.1")
        assert (entry.act, entry.request_id) == ("models.deploy", "r-1")


async def test_a_change_has_digests_of_before_and_after(database: Database, tmp_path: Path) -> None:
    audit = Audit(database, KEY, tmp_path / HEAD_FILE)
    await database.write(lambda c: _changed(c, Author(request_id="r-1"), {"a": 0}))
    begun = await audit.begin(Act("models.update", object="m", request_id="r-1"))
    await database.write(lambda c: _changed(c, Author(request_id="r-2"), {"a": 5}))
    await database.write(lambda c: _changed(c, Author(request_id="r-1"), {"a": 2}))
    await audit.end(begun, Outcome("done", 200))
    result = told(database)[-1]
    expected = canonical({"history": [["settings", 1, {"a": 2}]]})
    assert result.after == hashlib.sha256(expected.encode()).hexdigest()
    assert result.before not in ("", result.after)


async def test_what_the_server_does_by_itself_is_noted_once_by_many_processes(
    database: Database, tmp_path: Path
) -> None:
    audits = [Audit(database, KEY, tmp_path / HEAD_FILE) for _ in range(3)]
    for number in range(4):
        await database.write(partial(_changed, author=SERVER, after={"n": number}))
        await database.write(lambda c: _changed(c, Author(), {}))
        for audit in audits:
            await audit.flush()
    fresh = Audit(database, KEY, tmp_path / HEAD_FILE)
    await fresh.flush()
    entries = told(database)
    assert [(one.actor, one.act, one.object) for one in entries] == [
        ("server", "models.settings", "m/1")
    ] * 4


async def test_what_a_job_has_made_is_noted_in_the_name_of_who_asked(
    database: Database, tmp_path: Path
) -> None:
    """It is no request, so that nothing else tells of it; a request that is called so is none."""
    queued = partial(enqueue, tenant="default", by="key1", kind="train", subject="m", spec={})
    job = (await database.write(queued)).id
    made_by = Author(by="key1", request_id=f"job-{job}")
    await database.write(partial(_changed, author=made_by, after={"n": 1}))
    await database.write(partial(_changed, author=Author(request_id="job-none"), after={"n": 2}))
    audits = [Audit(database, KEY, tmp_path / HEAD_FILE) for _ in range(2)]
    for audit in audits:
        await audit.flush()
    entries = [(one.actor, one.act, one.object, one.request_id) for one in told(database)]
    assert entries == [("key1", "models.settings", "m/1", f"job-{job}")]


async def test_an_act_that_cannot_be_noted_is_refused(database: Database, tmp_path: Path) -> None:
    away = Away(database)
    audit = Audit(away, KEY, tmp_path / HEAD_FILE)  # type: ignore[arg-type]
    away.away = True
    with pytest.raises(StateUnavailable):
        await audit.begin(Act("keys.create"))
    assert told(database) == []


async def test_results_are_kept_while_the_database_is_away(
    database: Database, tmp_path: Path
) -> None:
    away = Away(database)
    audit = Audit(away, KEY, tmp_path / HEAD_FILE)  # type: ignore[arg-type]
    begun = [await audit.begin(Act("keys.create", object=str(n))) for n in range(3)]
    away.away = True
    for one in begun:
        await audit.end(one, Outcome("done", 201))
    assert [one.result for one in told(database)] == ["begun"] * 3
    assert checked(database, tmp_path).unfinished == (1, 2, 3)
    away.away = False
    await audit.flush()
    assert [one.object for one in told(database, result="done")] == ["0", "1", "2"]
    assert checked(database, tmp_path).unfinished == ()


async def test_what_is_kept_is_bounded_and_the_loss_is_told(
    database: Database, tmp_path: Path
) -> None:
    away = Away(database)
    audit = Audit(away, KEY, tmp_path / HEAD_FILE)  # type: ignore[arg-type]
    away.away = True
    for _ in range(MOST_KEPT + 7):
        audit.note("datasets.sweep", "d")
    away.away = False
    await audit.close()
    (lost,) = told(database, act="audit.lost")
    assert lost.count == 7
    assert len(told(database)) == MOST_KEPT + 1
    assert checked(database, tmp_path).intact


async def test_nothing_secret_gets_into_an_entry(database: Database, tmp_path: Path) -> None:
    audit = Audit(database, KEY, tmp_path / HEAD_FILE)
    act = Act("keys.rotate", object=SECRET, request_id=SECRET, actor=SECRET, address=SECRET)
    await audit.end(await audit.begin(act), Outcome("done", 200, object=SECRET))
    audit.refused(UNKNOWN._replace(address=SECRET, act=SECRET))
    await audit.flush()
    written_down = [one.model_dump_json() for one in told(database)]
    assert len(written_down) == 3
    assert not any("sss" in text for text in written_down)
    assert all("aias_abcdefghijkl" in text for text in written_down), "whose it was is told"


async def test_a_flood_of_one_address_is_two_entries_a_minute() -> None:
    clock = Clock()
    refusals = Refusals(clock.now)
    for _ in range(10_000):
        refusals.add(UNKNOWN, clock.now)
    (first,) = refusals.take(clock.now)
    assert (first["count"], first["address"], first["status"]) == (1, "10.0.0.1", 401)
    assert refusals.take(clock.now) == []
    clock.now += 61
    (rest,) = refusals.take(clock.now)
    assert rest["count"] == 9_999


async def test_a_flood_of_many_addresses_is_bounded_and_counted() -> None:
    clock = Clock()
    refusals, entries = Refusals(clock.now), []
    for minute in range(1440):
        for number in range(100):
            refusals.add(UNKNOWN._replace(address=f"{minute}.{number}"), clock.now)
        entries += refusals.take(clock.now)
        clock.now += 60
        entries += refusals.take(clock.now)
    assert sum(entry["count"] for entry in entries) == 144_000
    named = [entry for entry in entries if entry["address"] != "*"]
    assert len(named) == ENTRIES_A_DAY
    assert len(entries) <= ENTRIES_A_DAY + 1440
    first_minute = [entry for entry in entries if entry["at"] <= 1_000_060.0]
    assert len(first_minute) <= ADDRESSES * 2 + 2


async def test_a_clock_that_jumps_back_keeps_no_refusal_for_ever() -> None:
    refusals = Refusals(1_000_000.0)
    refusals.add(UNKNOWN, 1_000_000.0)
    refusals.add(UNKNOWN, 1_000_000.0)
    assert len(refusals.take(1_000_000.0 - 86_400)) == 2


async def test_heads_come_each_minute_and_at_the_end(database: Database, tmp_path: Path) -> None:
    clock = Clock()
    audit = Audit(database, KEY, tmp_path / HEAD_FILE, clock)
    await audit.begin(Act("keys.create"))
    await audit.flush()
    assert read_head(tmp_path / HEAD_FILE) == "is missing"
    clock.now += 61
    await audit.flush()
    assert read_head(tmp_path / HEAD_FILE)[0] == 1
    await audit.begin(Act("keys.create"))
    await audit.close()
    assert read_head(tmp_path / HEAD_FILE)[0] == 2


def _many(url: str, folder: str, name: str, acts: int) -> None:
    """In a process of its own: so many acts."""

    async def work() -> None:
        database = Database(url)
        audit = Audit(database, KEY, Path(folder) / HEAD_FILE)
        for number in range(acts):
            begun = await audit.begin(Act("keys.create", object=f"{name}-{number}"))
            await audit.end(begun, Outcome("done", 201))
        await audit.close()
        database.close()

    asyncio.run(work())


def _dies(url: str, folder: str) -> None:
    """In a process of its own: an act that is killed while it is carried out."""

    async def work() -> None:
        audit = Audit(Database(url), KEY, Path(folder) / HEAD_FILE)
        await audit.begin(Act("models.delete", object="m"))
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(work())


@pytest.mark.slow
async def test_processes_share_one_chain_without_a_gap(
    state_url: str, database: Database, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    arguments = [(state_url, str(tmp_path), name, 60) for name in "ab"]
    both = [spawn.Process(target=_many, args=one) for one in arguments]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
        assert one.exitcode == 0
    verification = checked(database, tmp_path)
    assert verification.intact, verification
    assert (verification.entries, verification.last) == (240, 240)
    assert verification.unfinished == ()
    assert {one.object for one in told(database, result="done")} == {
        f"{name}-{number}" for name in "ab" for number in range(60)
    }


@pytest.mark.slow
async def test_an_act_that_was_killed_is_told_as_unfinished(
    state_url: str, database: Database, tmp_path: Path
) -> None:
    await written(database, tmp_path, 1)
    spawn = multiprocessing.get_context("spawn")
    one = spawn.Process(target=_dies, args=(state_url, str(tmp_path)))
    one.start()
    one.join(120)
    assert one.exitcode == -signal.SIGKILL
    verification = checked(database, tmp_path)
    assert verification.intact, verification
    assert verification.unfinished == (3,)
    await written(database, tmp_path, 1)
    assert checked(database, tmp_path).unfinished == (3,)


async def test_entries_that_were_archived_are_not_missed(
    database: Database, tmp_path: Path
) -> None:
    clock = Clock()
    audit = Audit(database, KEY, tmp_path / HEAD_FILE, clock)
    for _ in range(4):
        await audit.end(await audit.begin(Act("keys.create")), Outcome("done", 201))
        clock.now += 10
    await audit.close()
    kept, file = read_head(tmp_path / HEAD_FILE), tmp_path / "old.jsonl"
    done = database.read_now(lambda c: write_archive(c, KEY, kept, 1_000_020.0, file))
    assert (done.first, done.last) == (1, 4)
    assert checked(database, tmp_path).entries == 8, "nothing goes before the file is there"
    change(database, lambda c: take_out(c, KEY, done, clock.now))
    verification = checked(database, tmp_path)
    assert verification.intact, verification
    assert (verification.archived, verification.first, verification.last) == (4, 5, 9)
    (entry,) = told(database, act="audit.archive")
    assert (entry.object, entry.body) == ("1-4", hashlib.sha256(file.read_bytes()).hexdigest())
    assert check_archive(file, KEY) == done
    with pytest.raises(FileExistsError):
        database.read_now(lambda c: write_archive(c, KEY, kept, 1_000_090.0, file))
    with pytest.raises(Conflict):
        change(database, lambda c: take_out(c, KEY, done, clock.now))


async def test_an_archive_that_was_edited_is_refused(database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)
    kept, file = read_head(tmp_path / HEAD_FILE), tmp_path / "old.jsonl"
    database.read_now(lambda c: write_archive(c, KEY, kept, 1e12, file))
    lines = file.read_text().splitlines()
    assert len(lines) == 11
    for number, wrong in (
        (3, [*lines[:2], lines[2].replace("m/1", "m/2"), *lines[3:]]),
        (4, [*lines[:3], *lines[4:]]),
        (9, [*lines[:-2], lines[-1]]),
    ):
        file.write_text("\n".join(wrong) + "\n")
        with pytest.raises(ArchiveRefused, match=rf"entry {number}"):
            check_archive(file, KEY)
    file.write_text("no archive\n")
    with pytest.raises(ArchiveRefused, match="expected an archive"):
        check_archive(file, KEY)


async def test_nothing_is_archived_of_an_audit_that_was_edited(
    database: Database, tmp_path: Path
) -> None:
    await written(database, tmp_path)
    change(database, edit(4, actor="somebody"))
    kept, file = read_head(tmp_path / HEAD_FILE), tmp_path / "old.jsonl"
    with pytest.raises(ArchiveRefused, match="entry 4 was edited"):
        database.read_now(lambda c: write_archive(c, KEY, kept, 1e12, file))
    assert not file.exists()


async def test_a_number_is_never_used_twice(database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path, 1)
    draft = {"at": 1.0, "tenant": "t", "actor": "a", "act": "x", "result": "done"}
    assert change(database, lambda c: append(c, KEY, [draft, draft], 1.0)).seqs == [3, 4]
    entry = json.loads(told(database)[-1].model_dump_json())
    assert entry["seq"] == 4
    with pytest.raises((IntegrityError, Conflict)):
        change(database, edit(4, seq=3))


def _changed(connection: Any, author: Author, after: dict[str, int]) -> None:
    connection.execute(
        HISTORY.insert().values(
            tenant=author.tenant,
            model_id="i",
            model="m",
            kind="settings",
            version=1,
            before={"a": 1},
            after=after,
            reason="",
            at=1.0,
            by=author.by,
            request_id=author.request_id,
        )
    )
