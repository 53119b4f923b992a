"""Writes share a transaction and fail alone; reads see one state; the end is orderly."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from aiaas_server.core.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    StateUnavailable,
    StorageFull,
)
from aiaas_server.state.database import Database
from tests.waiting import wait_until

NOTES = Table("notes", MetaData(), Column("id", Integer, primary_key=True), Column("n", String(20)))


@pytest.fixture
def notes(state_url: str) -> Iterator[Database]:
    """A database with one small table."""
    database = Database(state_url)
    with database.engine.begin() as connection:
        NOTES.create(connection)
    yield database
    database.close()


class Held:
    """The writer's thread is kept busy, so that what is handed over meanwhile is one group."""

    def __init__(self, database: Database) -> None:
        self._begun, self._go = threading.Event(), threading.Event()
        self._busy = database.submit(self._wait)
        assert self._begun.wait(30)

    def _wait(self, connection: Connection) -> None:
        self._begun.set()
        assert self._go.wait(30)

    def release(self) -> None:
        self._go.set()
        self._busy.result(30)


def add(number: int, note: str = "") -> Any:
    return lambda c: c.execute(NOTES.insert().values(id=number, n=note)) and number


def ids(database: Database) -> list[int]:
    return database.read_now(
        lambda c: list(c.execute(select(NOTES.c.id).order_by(NOTES.c.id)).scalars())
    )


def transactions_of(database: Database) -> list[int]:
    """Counts the commits of the writer from now on, one entry each."""
    commits: list[int] = []
    database.listen(lambda: commits.append(1))
    return commits


async def test_what_a_write_gives_is_there_for_the_next_read(notes: Database) -> None:
    assert await notes.write(add(7)) == 7
    found = await notes.read(lambda c: c.execute(select(NOTES.c.id)).scalars().all())
    assert list(found) == [7]


def test_what_waits_goes_into_one_transaction(notes: Database) -> None:
    held = Held(notes)
    commits = transactions_of(notes)
    futures = [notes.submit(add(n)) for n in range(20)]
    held.release()
    assert [f.result(30) for f in futures] == list(range(20))
    assert len(commits) <= 2, "one for the call that was held, one for all others"
    assert ids(notes) == list(range(20))


def test_a_call_of_a_group_fails_alone(notes: Database) -> None:
    def refuse(connection: Connection) -> None:
        connection.execute(NOTES.insert().values(id=50, n="gone"))
        raise NotFound("no such thing")

    held = Held(notes)
    good = notes.submit(add(1))
    twice = notes.submit(add(1))
    refused = notes.submit(refuse)
    last = notes.submit(add(2))
    held.release()
    assert (good.result(30), last.result(30)) == (1, 2)
    with pytest.raises(Conflict):
        twice.result(30)
    with pytest.raises(NotFound, match="no such thing"):
        refused.result(30)
    assert ids(notes) == [1, 2]


def test_an_error_that_a_call_has_dealt_with_is_none(notes: Database) -> None:
    def insist(connection: Connection) -> str:
        try:
            with connection.begin_nested():
                connection.execute(NOTES.insert().values(id=1, n="again"))
        except IntegrityError:
            connection.execute(NOTES.insert().values(id=2, n="instead"))
        return "done"

    held = Held(notes)
    futures = [notes.submit(add(1)), notes.submit(insist), notes.submit(add(3))]
    held.release()
    assert [f.result(30) for f in futures] == [1, "done", 3]
    assert ids(notes) == [1, 2, 3]


def test_an_error_that_a_call_has_swallowed_spoils_no_other(notes: Database) -> None:
    """PostgreSQL then refuses the rest of the call's savepoint; SQLite goes on."""

    def swallow(connection: Connection) -> None:
        with pytest.raises(SQLAlchemyError):
            connection.execute(NOTES.insert().values(id=1, n="again"))

    held = Held(notes)
    first, swallowed, last = notes.submit(add(1)), notes.submit(swallow), notes.submit(add(3))
    held.release()
    assert (first.result(30), last.result(30)) == (1, 3)
    wait_until(swallowed.done)
    assert ids(notes) == [1, 3]


@pytest.mark.parametrize("how", ["ROLLBACK", "COMMIT"])
def test_a_call_that_ends_the_transaction_takes_nobody_with_it(notes: Database, how: str) -> None:
    def end(connection: Connection) -> None:
        connection.exec_driver_sql(how)

    held = Held(notes)
    first, ended, last = notes.submit(add(1)), notes.submit(end), notes.submit(add(2))
    held.release()
    with pytest.raises((RuntimeError, SQLAlchemyError, StateUnavailable)):
        ended.result(30)
    results = [first.exception(30), last.exception(30)]
    kept = [n for n, error in zip([1, 2], results, strict=True) if error is None]
    assert set(kept) <= set(ids(notes)), "what was acknowledged is there"
    assert notes.submit(add(3)).result(30) == 3


def test_an_error_at_the_commit_is_that_of_the_call_that_made_it(notes: Database) -> None:
    """A deferred constraint shows only at the commit, which all of the group share."""
    make = (
        "CREATE TABLE replies (id INTEGER PRIMARY KEY, note INTEGER NOT NULL "
        "REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    notes.submit(lambda c: c.execute(text(make)) and None).result(30)

    def reply(number: int, to: int) -> Any:
        told = text(f"INSERT INTO replies VALUES ({number}, {to})")
        return lambda c: c.execute(told) and number

    held = Held(notes)
    early = notes.submit(reply(1, 7))  # alone it would not hold: its note comes with the next call
    good = notes.submit(add(7))
    astray = notes.submit(reply(2, 99))
    last = notes.submit(add(8))
    held.release()
    assert (good.result(30), last.result(30)) == (7, 8)
    for wrong in (early, astray):
        with pytest.raises(Conflict):
            wrong.result(30)
    assert ids(notes) == [7, 8]
    assert notes.submit(reply(3, 7)).result(30) == 3


def test_mistakes_of_ours_stay_what_they_are(notes: Database) -> None:
    def misspell(connection: Connection) -> None:
        connection.execute(text("SELEKT 1"))

    with pytest.raises((ProgrammingError, StateUnavailable)):
        notes.submit(misspell).result(30)
    with pytest.raises(RuntimeError, match="StopIteration"):
        notes.submit(lambda c: next(iter(()))).result(30)
    with pytest.raises(KeyError):
        notes.read_now(lambda c: {}["missing"])


def test_a_value_that_cannot_be_stored_is_bad_input(notes: Database) -> None:
    if notes.engine.dialect.name == "sqlite":
        pytest.skip("SQLite stores it")
    for value in ("a\0b", "x" * 21):
        with pytest.raises(InvalidInput):
            notes.submit(add(1, value)).result(30)
    assert ids(notes) == []


async def test_an_event_loop_is_not_kept_waiting_by_the_writer(notes: Database) -> None:
    held = Held(notes)
    writing = asyncio.create_task(notes.write(add(1)))
    assert await notes.read(lambda c: 5) == 5
    assert not writing.done()
    held.release()
    assert await writing == 1


async def test_a_caller_that_leaves_changes_nothing(
    notes: Database, caplog: pytest.LogCaptureFixture
) -> None:
    held = Held(notes)
    writing = asyncio.create_task(notes.write(add(1)))
    failing = asyncio.create_task(notes.write(add(1)))
    await asyncio.sleep(0)
    writing.cancel()
    failing.cancel()
    await asyncio.gather(writing, failing, return_exceptions=True)
    assert writing.cancelled()
    del writing, failing
    held.release()
    await notes.write(add(2))
    assert ids(notes) == [1, 2]
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_future_that_was_cancelled_before_it_began_is_not_run(notes: Database) -> None:
    held = Held(notes)
    futures = [notes.submit(add(n)) for n in range(3)]
    assert futures[1].cancel()
    held.release()
    assert futures[2].result(30) == 2
    assert ids(notes) == [0, 2]


def test_closing_writes_what_was_handed_over_and_takes_no_more(notes: Database) -> None:
    held = Held(notes)
    futures = [notes.submit(add(n)) for n in range(100)]
    closing_thread = threading.Thread(target=notes.close)
    closing_thread.start()
    held.release()
    closing_thread.join(30)
    assert [f.result(0) for f in futures] == list(range(100))
    for refused in (lambda: notes.submit(add(1)), lambda: notes.read_now(lambda c: 1)):
        with pytest.raises(StateUnavailable, match="closed"):
            refused()
    notes.close()


async def test_nothing_is_read_or_written_after_the_end(notes: Database) -> None:
    notes.close()
    with pytest.raises(StateUnavailable, match="closed"):
        await notes.read(lambda c: 1)
    with pytest.raises(StateUnavailable, match="closed"):
        await notes.write(lambda c: 1)


def test_nobody_who_writes_at_the_end_waits_for_ever(state_url: str) -> None:
    for _ in range(3):
        database = Database(state_url)
        futures: list[Any] = []

        def write(database: Database = database, futures: list[Any] = futures) -> None:
            try:
                futures.extend(database.submit(lambda c: 1) for _ in range(200))
            except StateUnavailable:
                return  # it is closed

        writers = [threading.Thread(target=write) for _ in range(3)]
        for writer in writers:
            writer.start()
        wait_until(lambda futures=futures: len(futures) > 10)  # type: ignore[misc]
        database.close()
        for writer in writers:
            writer.join(30)
        assert {future.result(30) for future in futures} == {1}


def test_a_reader_sees_one_state_from_its_first_question_to_its_last(notes: Database) -> None:
    notes.submit(add(1)).result(30)

    def read(connection: Connection) -> tuple[int, int]:
        first = len(connection.execute(select(NOTES)).all())
        notes.submit(add(2)).result(30)
        return first, len(connection.execute(select(NOTES)).all())

    assert notes.read_now(read) == (1, 1)
    assert ids(notes) == [1, 2]


def test_a_reader_changes_nothing(notes: Database) -> None:
    with suppress(StateUnavailable):  # of PostgreSQL; in SQLite it is undone
        notes.read_now(add(1))
    assert ids(notes) == []


def test_readers_do_not_wait_for_a_writer(notes: Database) -> None:
    held = Held(notes)
    assert ids(notes) == []
    held.release()


def test_too_many_that_wait_are_refused(notes: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiaas_server.state.database._MOST_WAITING", 3)
    held = Held(notes)
    futures = [notes.submit(add(n)) for n in range(3)]
    with pytest.raises(StateUnavailable, match="3 changes wait"):
        notes.submit(add(9))
    held.release()
    assert [f.result(30) for f in futures] == [0, 1, 2]


def test_without_room_only_what_makes_room_is_written(state_url: str) -> None:
    full = True

    def room(needed: int) -> None:
        if full:
            raise StorageFull("the disk of the server is full")

    database = Database(state_url, room)
    with database.engine.begin() as connection:
        NOTES.create(connection)
    held_by_room = database.submit(add(1))
    with pytest.raises(StorageFull):
        held_by_room.result(30)
    assert database.submit(add(2), spares_room=True).result(30) == 2
    full = False
    assert database.submit(add(3)).result(30) == 3
    assert ids(database) == [2, 3]
    database.close()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    plan=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["ok", "raise", "twice", "cancel"])),
        max_size=60,
    )
)
def test_grouped_writes_lose_nothing_and_fail_alone(
    notes: Database, plan: list[tuple[int, str]]
) -> None:
    """Against a model: the calls, one after the other, as if each had a transaction."""
    notes.submit(lambda c: c.execute(NOTES.delete())).result(30)
    held = Held(notes)
    expected: set[int] = set()
    outcomes: list[tuple[Any, type[BaseException] | None]] = []
    for number, kind in plan:

        def work(connection: Connection, number: int = number, kind: str = kind) -> int:
            connection.execute(NOTES.insert().values(id=number))
            if kind == "twice":
                connection.execute(NOTES.insert().values(id=number))
            if kind == "raise":
                raise KeyError(number)
            return number

        future = notes.submit(work)
        if kind == "cancel":
            future.cancel()
            continue
        error: type[BaseException] | None = None
        if number in expected or kind == "twice":
            error = Conflict
        elif kind == "raise":
            error = KeyError
        else:
            expected.add(number)
        outcomes.append((future, error))
    held.release()
    for future, error in outcomes:
        assert type(future.exception(30)) is (error or type(None))
    assert ids(notes) == sorted(expected)


def test_two_databases_on_one_file_take_turns(notes: Database, state_url: str) -> None:
    other = Database(state_url)
    futures = [
        database.submit(add(2 * n + half))
        for n in range(100)
        for half, database in enumerate((notes, other))
    ]
    assert [f.result(60) for f in futures] == list(range(200))
    other.close()
    assert ids(notes) == list(range(200))


def test_sqlite_is_as_durable_as_it_says(notes: Database) -> None:
    if notes.engine.dialect.name != "sqlite":
        pytest.skip("of SQLite")

    def pragma(name: str) -> Any:
        return notes.submit(lambda c: c.execute(text(f"PRAGMA {name}")).scalar_one()).result(30)

    assert (pragma("journal_mode"), pragma("synchronous")) == ("wal", 2)
    assert (pragma("foreign_keys"), pragma("busy_timeout")) == (1, 5000)


def test_no_error_tells_a_value(notes: Database) -> None:
    notes.submit(add(1, "hunter2")).result(30)
    with pytest.raises(Conflict) as caught:
        notes.submit(add(1, "hunter2")).result(30)
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("state_url", ["sqlite"], indirect=True)
def test_a_lock_that_somebody_keeps_ends_in_an_answer(
    notes: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notes.engine.url.database is not None
    notes.submit(lambda c: c.exec_driver_sql("PRAGMA busy_timeout=20")).result(30)
    with closing(sqlite3.connect(notes.engine.url.database)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StateUnavailable) as caught:
            notes.submit(add(1)).result(60)
        assert caught.value.retry_after == 1.0
        assert ids(notes) == [], "reading goes on"
        other.rollback()
    assert notes.submit(add(1)).result(30) == 1
