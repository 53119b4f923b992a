"""Connecting: several addresses of a name race, so that a dead one costs a moment."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpcore2
import pytest

from aiaas_client import APIConnectionError, AsyncClient, RetryPolicy, Timeouts
from aiaas_client._transport import loop as loop_sockets
from aiaas_client._transport.threads import BlockingSockets
from aiaas_client._transport.wire import WireExchange, current


@pytest.fixture
def hush() -> Iterator[Callable[..., tuple[str, int]]]:
    """Make addresses that answer nothing: their queues of connections are full."""
    with ExitStack() as held:

        def make(host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
            listener = held.enter_context(socket.socket())
            try:
                listener.bind((host, port))
            except OSError:
                pytest.skip(f"this system does not have {host}")
            listener.listen(0)
            address: tuple[str, int] = listener.getsockname()
            for _ in range(8):
                one = held.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(address)
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(address) == 0:
                    pytest.skip("this system takes any number of connections")
            return address

        yield make


@pytest.fixture
def silent(hush: Any) -> tuple[str, int]:
    """An address that answers nothing."""
    address: tuple[str, int] = hush()
    return address


@pytest.fixture
def exchange() -> Iterator[WireExchange]:
    one = WireExchange(time.monotonic() + 60)
    token = current.set(one)
    yield one
    current.reset(token)


def entry(address: tuple[str, int]) -> tuple[Any, ...]:
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", address)


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def connect(*addresses: tuple[str, int], timeout: float = 10.0) -> Any:
    sockets = BlockingSockets(lambda *arguments, **options: [entry(one) for one in addresses])
    return sockets.connect_tcp("models.example", 80, timeout)


def test_a_dead_first_address_costs_a_moment(
    exchange: WireExchange, silent: tuple[str, int], wire: Any, dead_url: str
) -> None:
    alive = address_of(wire().url)
    began = time.monotonic()
    for addresses in ([silent, alive], [address_of(dead_url), alive], [silent, silent, alive]):
        stream = connect(*addresses, timeout=300)
        assert stream._socket.getpeername() == alive
        stream.close()
    assert time.monotonic() - began < 5
    assert exchange.connected


def test_an_address_that_cannot_be_tried_is_passed_over(exchange: WireExchange, wire: Any) -> None:
    alive = address_of(wire().url)
    odd = (9999, socket.SOCK_STREAM, 0, "", ("", 0))
    sockets = BlockingSockets(lambda *arguments, **options: [odd, entry(alive)])
    sockets.connect_tcp("models.example", 80, 10).close()


def test_when_none_answers_the_reason_is_told(
    exchange: WireExchange, silent: tuple[str, int], dead_url: str
) -> None:
    dead = address_of(dead_url)
    with pytest.raises(httpcore2.ConnectError, match="refused"):
        connect(dead, dead)
    with pytest.raises(httpcore2.ConnectTimeout):
        connect(silent, silent, timeout=0.3)


class Loop(asyncio.SelectorEventLoop):
    """A loop for which every name has the same addresses."""

    addresses: tuple[str, ...] = ()

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:  # type: ignore[override]
        if not str(host).endswith(".example"):
            return await super().getaddrinfo(host, port, **options)
        return [entry((one, port)) for one in self.addresses]


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
def test_a_dead_first_address_costs_a_moment_on_an_event_loop(
    hush: Any, wire: Any, backend: str
) -> None:
    server = wire()
    port = address_of(server.url)[1]
    hush("127.0.0.2", port)

    async def ask() -> None:
        url, once = f"http://models.example:{port}", RetryPolicy(max_retries=0)
        patient = Timeouts(connect=300)
        async with AsyncClient(
            url, retry=once, backend=backend, timeout=patient, deadline=600
        ) as client:
            assert (await client.metadata()).name == "wire"

    began = time.monotonic()
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.get_loop().addresses = ("127.0.0.2", "127.0.0.1")  # type: ignore[attr-defined]
        runner.run(ask())
    assert time.monotonic() - began < 4


async def test_a_race_that_is_cut_leaves_nothing(silent: tuple[str, int]) -> None:
    loop, (host, port) = asyncio.get_running_loop(), silent
    before = asyncio.all_tasks()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await loop_sockets._first_of(loop, [host, host, host], port)
    assert asyncio.all_tasks() == before


def test_when_none_answers_an_event_loop_the_reason_is_told(dead_url: str) -> None:
    async def ask() -> None:
        url = f"http://models.example:{address_of(dead_url)[1]}"
        async with AsyncClient(url, retry=RetryPolicy(max_retries=0)) as client:
            await client.health()

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.get_loop().addresses = ("127.0.0.1",) * 2  # type: ignore[attr-defined]
        with pytest.raises(APIConnectionError, match="cannot connect"):
            runner.run(ask())


def test_a_name_is_resolved_on_uvloop_too(wire: Any, dead_url: str) -> None:
    uvloop = pytest.importorskip("uvloop", reason="needs uvloop")

    async def ask(url: str) -> str:
        async with AsyncClient(url, retry=RetryPolicy(max_retries=0)) as client:
            return (await client.metadata()).name

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask(wire().url.replace("127.0.0.1", "localhost"))) == "wire"
        with pytest.raises(APIConnectionError, match="cannot connect"):
            runner.run(ask(dead_url.replace("127.0.0.1", "localhost")))
