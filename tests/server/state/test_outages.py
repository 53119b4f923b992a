"""The database goes away, is full or hangs: always an answer, and all is well once it is back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text

from aiaas_server.core.errors import StateUnavailable, StorageFull
from aiaas_server.state.changes import changes_after, tell
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.revision import StateRefused
from tests.postgres import Postgres
from tests.server.state.test_database import Held

postgres_only = pytest.mark.parametrize(
    "state_url", [pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


def note(name: str, size: int = 0) -> Any:
    return lambda c: tell(c, "t", "model", name, {"filling": "x" * size})


def names(database: Database) -> list[str]:
    return [row.object for row in database.read_now(lambda c: changes_after(c, 0))]


@postgres_only
def test_a_restart_is_over_when_it_is_over(database: Database, postgres: Postgres) -> None:
    database.submit(note("before")).result(30)
    assert names(database) == ["before"]
    postgres.stop()
    try:
        with pytest.raises(StateUnavailable) as caught:
            database.submit(note("lost")).result(60)
        assert caught.value.retry_after == 1.0
        with pytest.raises(StateUnavailable):
            names(database)
    finally:
        postgres.start()
    assert names(database) == ["before"], "the first call after it is back is answered"
    database.submit(note("after")).result(60)
    assert names(database) == ["before", "after"]


@postgres_only
def test_all_that_wait_are_told_when_it_is_away(database: Database, postgres: Postgres) -> None:
    held = Held(database)
    futures = [database.submit(note(str(n))) for n in range(200)]
    postgres.stop("immediate")
    try:
        with pytest.raises(StateUnavailable):
            held.release()
        for future in futures:
            assert isinstance(future.exception(60), StateUnavailable)
    finally:
        postgres.start()
    database.submit(note("after")).result(60)
    assert names(database) == ["after"]


@postgres_only
def test_a_connection_that_breaks_in_the_middle_loses_nothing_acknowledged(
    database: Database,
) -> None:
    def kill_oneself(connection: Connection) -> None:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    held = Held(database)
    futures = [
        database.submit(note("one")),
        database.submit(kill_oneself),
        database.submit(note("two")),
    ]
    held.release()
    outcomes = [future.exception(60) for future in futures]
    assert isinstance(outcomes[1], StateUnavailable)
    kept = [n for n, e in zip(["one", "x", "two"], outcomes, strict=True) if e is None]
    assert names(database) == kept
    database.submit(note("after")).result(60)
    assert names(database) == [*kept, "after"]


@postgres_only
def test_nobody_waits_for_ever_for_a_lock_or_a_statement(state_url: str) -> None:
    upgrade(state_url)
    short = Database(f"{state_url}&options=-c%20lock_timeout=50%20-c%20statement_timeout=200")
    plain = state_url.replace("postgresql+psycopg:", "postgresql:", 1)
    with psycopg.connect(plain) as other:
        other.execute("LOCK TABLE changes IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StateUnavailable):
            short.submit(note("blocked")).result(60)
        with pytest.raises(StateUnavailable):
            names(short)
    with pytest.raises(StateUnavailable):
        short.submit(lambda c: c.execute(text("SELECT pg_sleep(30)"))).result(60)
    short.submit(note("after")).result(60)
    assert names(short) == ["after"]
    short.close()


@postgres_only
def test_a_server_that_is_away_or_says_no_is_told_without_the_password(
    state_url: str, postgres: Postgres
) -> None:
    for wrong, told in (
        (state_url.replace("postgres@", "nobody:hunter2@"), 'role "nobody" does not exist'),
        (
            state_url.partition("?")[0].replace("@/t", "@/no") + "?" + state_url.partition("?")[2],
            "not exist",
        ),
        ("postgresql+psycopg://u:hunter2@127.0.0.1:1/x", "onnection"),
    ):
        with pytest.raises(StateRefused, match=told) as caught:
            upgrade(wrong)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("state_url", ["sqlite"], indirect=True)
def test_a_file_that_may_not_grow_is_full(database: Database) -> None:
    def limit(pages: str) -> Any:
        return lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar_one()

    held = Held(database)
    limited = database.submit(limit("1"))  # as many as there are already
    small = [database.submit(note(str(n))) for n in range(3)]
    large = database.submit(note("large", 1 << 20))
    last = database.submit(note("last"))
    held.release()
    assert limited.result(30) > 1
    assert isinstance(large.exception(30), StorageFull)
    assert [future.exception(30) for future in (*small, last)] == [None] * 4, "it fails alone"
    assert names(database) == ["0", "1", "2", "last"]
    database.submit(limit("1000000")).result(30)
    database.submit(note("large", 1 << 20)).result(30)
    assert names(database)[-1] == "large"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root alone")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_told_and_reading_goes_on(small_disk: Path) -> None:
    state_url = f"sqlite:///{small_disk / 'state.db'}"
    upgrade(state_url)
    database = Database(state_url)
    database.submit(note("first")).result(30)
    filler = small_disk / "filler"
    _fill(filler)
    refused = 0
    for n in range(200):  # what is left of the last page, and of the log, may still take some
        error = database.submit(note(f"small-{n}", 4000)).exception(30)
        refused += isinstance(error, StorageFull)
        assert error is None or isinstance(error, StorageFull)
    assert refused > 100
    assert names(database)[0] == "first"
    fresh = Database(state_url)  # another process that starts now
    with pytest.raises(StorageFull):
        fresh.submit(note("large", 1 << 20)).result(30)
    fresh.close()
    filler.unlink()
    database.submit(note("after")).result(30)
    assert names(database)[-1] == "after"
    database.close()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return
