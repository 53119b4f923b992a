"""The one timer that a connection of aiohttp has for its reads, on a clock that goes by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from aiaas_client._transport.aiohttp import _Protocol


class Timer:
    """What a loop gives for `call_at`."""

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when, self.call, self.is_cancelled = when, call, False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """Time, and timers that go off when it is set forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def armed(self) -> list[float]:
        return [timer.when for timer in self.timers if not timer.is_cancelled]

    def go_to(self, now: float) -> None:
        self.now = now
        for timer in [one for one in self.timers if one.when <= now]:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.call()


class Connection:
    """A protocol on such a loop; its transport is asked nothing but to close."""

    def __init__(self) -> None:
        self.loop: Any = Loop()
        self.protocol: Any = _Protocol(self.loop)
        self.protocol.connection_made(asyncio.Transport())

    def ask(self, timeout: float | None) -> None:
        """Begin to wait for an answer."""
        self.protocol.read_timeout = timeout
        self.protocol.start_timeout()

    def end(self) -> None:
        """The answer has come."""
        self.protocol._drop_timeout()

    def failed(self) -> bool:
        return isinstance(self.protocol.exception(), aiohttp.SocketTimeoutError)


@pytest.fixture
def connection() -> Connection:
    """A connection that was just made."""
    return Connection()


def test_a_peer_that_says_nothing_is_a_timeout(connection: Connection) -> None:
    connection.ask(5.0)
    connection.loop.go_to(4.9)
    assert not connection.failed()
    connection.loop.go_to(5.0)
    assert connection.failed()


def test_answers_in_time_share_one_timer(connection: Connection) -> None:
    for now in range(20):
        connection.loop.go_to(float(now))
        connection.ask(5.0)
        assert len(connection.loop.armed()) == 1
        connection.end()
    connection.loop.go_to(100.0)
    assert not connection.failed()
    assert connection.loop.armed() == []


def test_each_piece_of_an_answer_gives_the_peer_its_time_again(connection: Connection) -> None:
    connection.ask(5.0)
    connection.loop.go_to(4.0)
    connection.protocol._reschedule_timeout()  # a piece came
    connection.loop.go_to(8.9)
    assert not connection.failed()
    connection.loop.go_to(9.0)
    assert connection.failed()


def test_a_later_call_has_its_own_timeout(connection: Connection) -> None:
    connection.ask(30.0)
    connection.end()
    connection.loop.go_to(1.0)
    connection.ask(2.0)  # less than the timer that is set
    connection.loop.go_to(2.9)
    assert not connection.failed()
    connection.loop.go_to(3.0)
    assert connection.failed()


def test_without_a_timeout_it_waits_for_ever(connection: Connection) -> None:
    connection.ask(5.0)
    connection.end()
    connection.ask(None)
    connection.loop.go_to(1000.0)
    assert not connection.failed()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_connection_that_ends_leaves_no_timer(connection: Connection, end: str) -> None:
    class Transport(asyncio.Transport):
        def close(self) -> None: ...

        abort = close

    connection.protocol.transport = Transport()
    connection.ask(5.0)
    getattr(connection.protocol, end)()
    assert connection.loop.armed() == []


def test_a_connection_that_is_lost_leaves_no_timer(connection: Connection) -> None:
    connection.ask(5.0)
    connection.protocol.connection_lost(None)
    assert connection.loop.armed() == []


async def test_the_sessions_connections_are_of_this_kind(wire: Any) -> None:
    """Also that aiohttp still calls what is replaced: else calls would have no timer at all."""
    from aiaas_client import AsyncClient, Timeouts

    async with AsyncClient(wire().url, backend="aiohttp", timeout=Timeouts(read=7.0)) as client:
        await client.metadata()
        (pooled,) = client._sender._shared.transport._connector._conns.values()
        protocol = pooled[0][0]
        assert type(protocol) is _Protocol
        assert protocol._alarm is not None
        assert protocol._due is None
