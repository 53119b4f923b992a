"""Every process learns of each committed change, in order, once, and after any outage."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiaas_server.state.changes import ChangeRow, tell
from aiaas_server.state.database import Database
from aiaas_server.state.feed import Feed
from aiaas_server.state.watch import Watch
from tests.postgres import Postgres
from tests.server.state.test_outages import postgres_only
from tests.waiting import until, wait_until

WAIT = 60.0


def note(name: str) -> Any:
    return lambda c: tell(c, "t", "model", name, {"change": "made"})


@pytest.fixture
async def feed(database: Database) -> AsyncIterator[Feed]:
    feed = Feed(database)
    yield feed
    await feed.close()


class Follower:
    """Collects what the feed gives, as a server does."""

    def __init__(self, feed: Feed, seq: int = 0) -> None:
        self.rows: list[ChangeRow] = []
        self.task = asyncio.create_task(self._follow(feed, seq))

    async def _follow(self, feed: Feed, seq: int) -> None:
        async for rows in feed.beyond(seq):
            self.rows += rows

    @property
    def names(self) -> list[str]:
        return [row.object for row in self.rows]


async def test_changes_of_this_process_come_in_order(database: Database, feed: Feed) -> None:
    follower = Follower(feed)
    await asyncio.gather(*(database.write(note(str(n))) for n in range(50)))
    await until(lambda: len(follower.rows) == 50, WAIT)
    numbers = [row.seq for row in follower.rows]
    assert numbers == sorted(set(numbers))
    assert follower.rows[0].data == {"change": "made"}
    assert set(follower.names) == {str(n) for n in range(50)}


async def test_one_begins_where_one_was(database: Database, feed: Feed) -> None:
    assert await feed.last() == 0
    for name in "abc":
        await database.write(note(name))
    last = await feed.last()
    first = await asyncio.wait_for(feed.wait_beyond(0), WAIT)
    assert [row.object for row in first] == ["a", "b", "c"]
    assert first[-1].seq == last
    waiting = asyncio.create_task(feed.wait_beyond(last))
    await database.write(note("d"))
    assert [row.object for row in await asyncio.wait_for(waiting, WAIT)] == ["d"]


async def test_what_is_not_committed_is_not_told(database: Database, feed: Feed) -> None:
    def refuse(connection: Any) -> None:
        tell(connection, "t", "model", "no", {})
        raise KeyError

    follower = Follower(feed)
    with pytest.raises(KeyError):
        await database.write(refuse)
    await database.write(note("yes"))
    await until(lambda: bool(follower.rows), WAIT)
    assert follower.names == ["yes"]


async def test_many_changes_come_in_batches(
    database: Database, feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiaas_server.state.feed._MOST_ROWS", 7)
    await asyncio.gather(*(database.write(note(str(n))) for n in range(40)))
    found: list[int] = []
    async for rows in feed.beyond(0):
        found += [len(rows)]
        if sum(found) == 40:
            break
    assert found == [7, 7, 7, 7, 7, 5]


async def test_another_connection_is_heard_of(
    database: Database, feed: Feed, state_url: str
) -> None:
    """On SQLite within 0.1 s by its `data_version`, on PostgreSQL by NOTIFY."""
    other = Database(state_url)
    follower = Follower(feed)
    for n in range(3):
        await other.write(note(str(n)))
        await until(lambda n=n: len(follower.rows) == n + 1, WAIT)  # type: ignore[misc]
    other.close()
    assert follower.names == ["0", "1", "2"]


@postgres_only
async def test_postgres_wakes_without_polling(
    database: Database, feed: Feed, state_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiaas_server.state.watch._POLL_POSTGRES", 3600.0)
    other = Database(state_url)
    follower = Follower(feed)
    await other.write(note("first"))
    await until(lambda: follower.names == ["first"], WAIT)
    await other.write(note("second"))
    await until(lambda: follower.names == ["first", "second"], WAIT)
    other.close()


@postgres_only
async def test_what_is_committed_during_an_outage_is_not_missed(
    database: Database, feed: Feed, state_url: str, postgres: Postgres
) -> None:
    follower = Follower(feed)
    await database.write(note("before"))
    await until(lambda: follower.names == ["before"], WAIT)
    await asyncio.to_thread(postgres.stop)
    await asyncio.to_thread(postgres.start)
    other = Database(state_url)
    await other.write(note("meanwhile"))
    await until(lambda: follower.names == ["before", "meanwhile"], WAIT)
    await other.write(note("after"))
    await until(lambda: follower.names == ["before", "meanwhile", "after"], WAIT)
    other.close()


@pytest.mark.slow
async def test_another_process_is_heard_of(database: Database, feed: Feed, state_url: str) -> None:
    code = f"""
from aiaas_server.state.database import Database
from aiaas_server.state.changes import tell
database = Database({state_url!r})
for n in range(5):
    database.submit(lambda c: tell(c, "t", "model", str(n), {{}})).result(30)
database.close()
"""
    follower = Follower(feed)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
    await until(lambda: len(follower.rows) == 5, WAIT)
    assert follower.names == list("01234")


async def test_closing_ends_all_who_wait_and_leaves_no_thread(database: Database) -> None:
    feed = Feed(database)
    followers = [Follower(feed) for _ in range(3)]
    await database.write(note("a"))
    await until(lambda: all(f.names == ["a"] for f in followers), WAIT)
    await feed.close()
    async with asyncio.timeout(WAIT):
        await asyncio.gather(*(f.task for f in followers))
    assert await feed.wait_beyond(0) == []
    await feed.close()
    assert "aiaas-state-feed" not in {thread.name for thread in threading.enumerate()}


async def test_a_feed_that_nobody_waits_for_costs_nothing(database: Database) -> None:
    feed = Feed(database)
    await database.write(note("a"))
    assert await feed.last() == 1
    assert "aiaas-state-feed" not in {thread.name for thread in threading.enumerate()}
    await feed.close()


async def test_a_waiter_that_is_cancelled_takes_nothing_with_it(
    database: Database, feed: Feed
) -> None:
    leaving = asyncio.create_task(feed.wait_beyond(0))
    follower = Follower(feed)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await database.write(note("a"))
    await until(lambda: follower.names == ["a"], WAIT)


@pytest.mark.parametrize("state_url", ["sqlite"], indirect=True)
def test_a_watch_pokes_for_commits_of_others_alone(database: Database) -> None:
    pokes: list[int] = []
    watch = Watch(database.engine, lambda: pokes.append(1))
    wait_until(lambda: len(pokes) == 1)  # once it listens
    database.submit(note("a")).result(30)
    wait_until(lambda: len(pokes) == 2)
    database.read_now(lambda c: 1)
    watch.stop()
    watch.stop()
    assert len(pokes) == 2
