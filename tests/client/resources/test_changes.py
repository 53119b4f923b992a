"""The change feed is followed across broken connections, and nothing is told twice or lost."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import Any

import pytest

from aiaas_client import (
    APIConnectionError,
    AsyncClient,
    Client,
    NotSupportedError,
    RetryPolicy,
    ServiceUnavailableError,
)
from aiaas_client.testing import FakeServer

Take = Callable[..., list[tuple[int, str]]]


def take_threads(url: str, count: int, retry: RetryPolicy, **options: Any) -> Any:
    with Client(url, retry=retry, breaker=None) as client, client.models.changes(**options) as feed:
        return [(change.seq, change.kind) for change in islice(feed, count)]


def take_tasks(url: str, count: int, retry: RetryPolicy, **options: Any) -> Any:
    async def run() -> Any:
        found: list[tuple[int, str]] = []
        client = AsyncClient(url, retry=retry, breaker=None)
        async with client, client.models.changes(**options) as feed:
            async for change in feed:
                found.append((change.seq, change.kind))
                if len(found) == count:
                    break
        return found

    return asyncio.run(run())


@pytest.fixture(params=[take_threads, take_tasks], ids=["threads", "tasks"])
def take(request: pytest.FixtureRequest, fake_clock: Any) -> Take:
    """Give the first changes of a feed, with waits that take no time."""

    def run(url: str, count: int, **options: Any) -> Any:
        return request.param(url, count, fake_clock.policy(), **options)

    return run


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        with Client(server.url) as client:
            client.models.deploy("m", b"one")
            client.models.promote("m", 1)
            client.models.unalias("m", "production")
        server.clear()
        yield server


EVERY = [(1, "deployed"), (2, "promoted"), (3, "unaliased")]


def test_changes_are_told_from_a_place_on(take: Take, server: FakeServer) -> None:
    assert take(server.url, 3, after=0) == EVERY
    assert take(server.url, 1, after=2) == EVERY[2:]


def test_without_a_place_only_what_happens_from_now_on_is_told(server: FakeServer) -> None:
    with Client(server.url) as client, server.hold(path="/events") as gate:
        found: list[str] = []

        def follow() -> None:
            with client.models.changes() as feed:
                found.append(next(feed).kind)

        thread = threading.Thread(target=follow)
        thread.start()
        gate.wait_for(1)
        gate.release()
        while not found:  # the stream may not be open yet when the change happens
            client.models.promote("m", 1, alias="canary")
            thread.join(0.01)
        thread.join()
    assert found == ["promoted"]


def test_a_feed_that_breaks_goes_on_behind_the_last_change(take: Take, server: FakeServer) -> None:
    server.truncate(1, path="/events", times=2)  # one event, then the connection ends
    assert take(server.url, 3, after=0) == EVERY
    asked = [one.headers.get("last-event-id") for one in server.requests]
    assert asked == ["0", "1", "2"]


def test_a_server_that_is_away_is_waited_for(
    take: Take, server: FakeServer, fake_clock: Any
) -> None:
    server.fail(503, "draining", times=3, path="/events")
    assert take(server.url, 3, after=0) == EVERY
    assert fake_clock.slept == [0.1, 0.2, 0.4]


def test_a_server_that_stays_away_is_told(take: Take, server: FakeServer, dead_url: str) -> None:
    server.fail(503, "draining", times=999, path="/events")
    with pytest.raises(ServiceUnavailableError, match="draining"):
        take(server.url, 1, patience=30.0)
    assert len(server.requests) == 12  # 0.1 + 0.2 + ... + 5 + 5 + 5 s apart
    with pytest.raises(APIConnectionError, match="cannot connect"):
        take(dead_url, 1, patience=1.0)


def test_a_stream_that_ends_in_order_is_opened_again(take: Take, wire: Any, steps: Any) -> None:
    one, two = (json.dumps({"seq": seq, "kind": "k", "object": "m"}) for seq in (1, 2))
    server = wire(steps.events(), steps.events(one), steps.events(two))
    assert take(server.url, 2) == [(1, "k"), (2, "k")]
    assert [one.headers.get("last-event-id") for one in server.received] == [None, None, "1"]


def test_a_silent_server_is_there(take: Take, wire: Any, steps: Any, fake_clock: Any) -> None:
    one = json.dumps({"seq": 1, "kind": "k", "object": "m"})
    comments = steps.say(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: still here\n\n"
    )
    server = wire(comments, comments, steps.events(one))
    assert take(server.url, 1, patience=0.1) == [(1, "k")]


def test_what_waiting_does_not_help_is_told_at_once(take: Take, wire: Any, steps: Any) -> None:
    with FakeServer(registry=False) as fake, pytest.raises(NotSupportedError, match="--data DIR"):
        take(fake.url, 1)


def test_a_feed_is_left_without_reading_on(server: FakeServer) -> None:
    with Client(server.url) as client:
        feed = client.models.changes(after=0)
        assert next(feed).seq == 1
        feed.close()
        with pytest.raises(StopIteration):
            next(feed)


async def test_a_feed_is_left_on_an_event_loop(server: FakeServer) -> None:
    async with AsyncClient(server.url) as client:
        feed: AsyncIterator[Any] = client.models.changes(after=0)
        assert (await anext(feed)).seq == 1
        await feed.aclose()  # type: ignore[attr-defined]
