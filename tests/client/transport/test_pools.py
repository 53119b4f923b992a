"""The transports: faults of a server become errors of ours, in bounded time, on every library."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import zlib
from contextlib import suppress
from typing import Any

import httpcore2
import httpx
import httpx2
import pytest

from aiaas_client import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    Client,
    DeadlineExceededError,
    Limits,
    PoolTimeoutError,
    ProtocolError,
    RetryPolicy,
    Timeouts,
)
from aiaas_client._api import oip as calls
from aiaas_client._api.call import Call, Response

ONCE = RetryPolicy(max_retries=0)
BACKENDS = ("httpx2", "aiohttp")
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def echo(body: list[bytes | memoryview] | None, length: int = 0) -> Call[Response]:
    """A call that gives the whole answer."""
    return Call("POST", "/echo", lambda answer: answer, content=body, content_length=length)


def test_a_call_gives_what_the_server_answered(flavour: str, call_through: Any, wire: Any) -> None:
    with call_through(flavour, wire().url) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"


def test_the_second_call_uses_the_connection_of_the_first(
    flavour: str, call_through: Any, wire: Any
) -> None:
    server = wire()
    with call_through(flavour, server.url) as caller:
        for _ in range(3):
            caller.send(calls.server_metadata())
    assert {received.connection for received in server.received} == {1}


def test_a_name_that_nobody_resolves_is_given_up_in_time() -> None:

    from aiaas_client._transport.threads import BlockingSockets
    from aiaas_client._transport.wire import WireExchange, current

    asked = threading.Event()

    def look_up(*arguments: Any, **options: Any) -> list[Any]:
        asked.wait()
        raise OSError("too late")

    token = current.set(WireExchange(time.monotonic() + 60))
    try:
        with pytest.raises(httpcore2.ConnectTimeout, match="'models.example' in time"):
            BlockingSockets(look_up).connect_tcp("models.example", 80, 0.05)
    finally:
        asked.set()
        current.reset(token)


def test_an_unknown_name_is_a_connection_error(kind: str, call_through: Any) -> None:
    with (
        call_through(kind, "http://nobody.invalid", retry=ONCE) as caller,
        pytest.raises(APIConnectionError, match="cannot connect"),
    ):
        caller.send(calls.server_metadata())


def test_a_name_is_resolved(kind: str, call_through: Any, wire: Any) -> None:
    url = wire().url.replace("127.0.0.1", "localhost")
    with call_through(kind, url) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"


def test_a_dead_server_is_a_connection_error(
    flavour: str, call_through: Any, dead_url: str
) -> None:
    with (
        call_through(flavour, dead_url, retry=ONCE) as caller,
        pytest.raises(APIConnectionError, match="cannot connect") as caught,
    ):
        caller.send(calls.server_metadata())
    assert caught.value.phase == "connect"
    assert caught.value.endpoint == dead_url


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(b"", APIConnectionError, id="closes without a word"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-A", APIConnectionError, id="breaks off in the head"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
            APIConnectionError,
            id="breaks off in the body",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
            APIConnectionError,
            id="breaks off in a chunk",
        ),
        pytest.param(b"220 mail.example ESMTP\r\n\r\n", ProtocolError, id="not HTTP"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            ProtocolError,
            id="announces more than is accepted",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ProtocolError, id="not JSON"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
            ProtocolError,
            id="an encoding nobody asked for",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            ProtocolError,
            id="not the encoding it says",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000, ProtocolError, id="endless head"),
    ],
)
def test_a_lying_server_never_gives_a_value(
    flavour: str, call_through: Any, wire: Any, steps: Any, data: bytes, kind: type[Exception]
) -> None:
    with (
        call_through(flavour, wire(steps.say(data)).url, retry=ONCE) as caller,
        pytest.raises(kind) as caught,
    ):
        caller.send(calls.server_metadata())
    assert type(caught.value).__module__ == "aiaas_client._errors"


def test_an_answer_without_length_is_read_to_its_limit(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    server = wire(steps.say(head + b"x" * 1000), steps.say(head + b"x" * 1001))
    with call_through(flavour, server.url, retry=ONCE, max_answer_bytes=1000) as caller:
        assert len(caller.send(echo(None)).body) == 1000
        with pytest.raises(ProtocolError, match="over 1000 bytes"):
            caller.send(echo(None))


def test_a_compressed_answer_is_inflated(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    packed = zlib.compress(b'{"name": "packed"}')
    server = wire(steps.answer(body=packed, Content_Encoding="deflate"))
    with call_through(flavour, server.url) as caller:
        assert caller.send(calls.server_metadata()).name == "packed"


def test_a_compression_bomb_is_refused(kind: str, call_through: Any, wire: Any, steps: Any) -> None:
    bomb = zlib.compress(bytes(1 << 20))
    server = wire(default=steps.answer(body=bomb, Content_Encoding="deflate"))
    with (
        call_through(kind, server.url, max_answer_bytes=1 << 16) as caller,
        pytest.raises(ProtocolError),
    ):
        caller.send(calls.server_metadata())


def test_a_silent_server_is_a_read_timeout(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=steps.fall_silent)
    with (
        call_through(flavour, server.url, retry=ONCE, timeout=0.05) as caller,
        pytest.raises(APITimeoutError, match=r"read took longer than 0\.05 s") as caught,
    ):
        caller.send(calls.server_metadata())
    assert caught.value.phase == "read"
    server.wait_closed()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 4000, id="head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + b"a" * 4000, id="body"),
    ],
)
def test_not_even_a_dripping_server_outlasts_the_deadline(
    kind: str, call_through: Any, wire: Any, steps: Any, data: bytes
) -> None:
    server = wire(default=steps.drip(data, 0.01))
    began = time.monotonic()
    with (
        call_through(kind, server.url, deadline=0.2) as caller,
        pytest.raises(DeadlineExceededError),
    ):
        caller.send(calls.server_metadata())
    assert time.monotonic() - began < 20  # dripping it all takes 40 s


@pytest.mark.parametrize(
    ("start", "more"),
    [
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="interim answers"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunks"
        ),
    ],
)
def test_a_server_that_never_ends_does_not_outlast_the_deadline(
    kind: str, call_through: Any, wire: Any, steps: Any, start: bytes, more: bytes
) -> None:
    def step(connection: Any, received: Any) -> bool:
        connection.sendall(start)
        flooding: bool = steps.flood(more * 1000, 1 << 28)(connection, received)
        return flooding

    began = time.monotonic()
    with (
        call_through(kind, wire(default=step).url, deadline=0.5) as caller,
        pytest.raises(DeadlineExceededError),
    ):
        caller.send(calls.server_metadata())
    assert time.monotonic() - began < 60  # to read it all takes minutes


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * (1 << 20) + 5])
def test_a_body_arrives_whole_with_its_length(
    flavour: str, call_through: Any, wire: Any, size: int
) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    chunks: list[bytes | memoryview] = [data[: size // 3], memoryview(data)[size // 3 : size]]
    server = wire()
    with call_through(flavour, server.url) as caller:
        caller.send(echo(chunks, size))
    (received,) = server.received
    assert received.body == data[:size]
    assert received.headers["content-length"] == str(size)
    assert "transfer-encoding" not in received.headers


@pytest.mark.parametrize("last", [65_535, 65_536, 65_537])
def test_the_last_piece_of_a_large_body_arrives_as_it_is(
    flavour: str, call_through: Any, wire: Any, last: int
) -> None:
    size = (1 << 20) + last
    data = bytes(range(1, 252)) * (size // 251 + 1)
    server = wire()
    with call_through(flavour, server.url) as caller:
        caller.send(echo([memoryview(data)[:size]], size))
    (received,) = server.received
    assert received.body == data[:size]


def test_a_body_is_cut_into_pieces_without_copying() -> None:
    from aiaas_client._transport.wire import CHUNK_BYTES, Pieces

    data = bytearray(2 * CHUNK_BYTES + 7)
    pieces = list(Pieces([memoryview(data)]))
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, CHUNK_BYTES, 7]
    data[-1] = 9
    assert pieces[-1][-1] == 9


def test_an_early_answer_to_a_large_body_is_heard(kind: str, call_through: Any, wire: Any) -> None:
    from aiaas_client import PayloadTooLargeError

    server = wire()

    def refuse(connection: Any, number: int) -> None:
        connection.recv(1024)
        connection.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        if kind == "async-aiohttp":  # hears the answer with most of the body unsent
            closed.wait(10)
        with connection, suppress(ConnectionResetError):  # the client may cut what it still sends
            while connection.recv(1 << 20):
                pass
        ended.set()

    closed, ended = threading.Event(), threading.Event()
    server._serve = refuse
    big = bytes(8 << 20)
    with call_through(kind, server.url, retry=ONCE) as caller, pytest.raises(PayloadTooLargeError):
        caller.send(echo([big], len(big)))
    closed.set()
    assert ended.wait(10), "a closed client keeps no connection, although it had more to send"


def test_the_body_of_an_answer_is_one_writable_buffer(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(steps.answer(body=b"a" * 300_000))
    with call_through(flavour, server.url) as caller:
        body = caller.send(echo(None)).body
    assert type(body) is bytearray
    assert len(body) == 300_000


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_full_pool_is_a_pool_timeout(wire: Any, steps: Any, backend: str) -> None:
    async def main() -> None:
        server = wire(default=steps.fall_silent)
        timeouts = Timeouts(pool=0.05)
        limits = Limits(max_connections=1)
        async with AsyncClient(
            server.url, timeout=timeouts, limits=limits, backend=backend
        ) as client:
            first = asyncio.create_task(client.health())
            await asyncio.to_thread(server.wait_for, 1)
            with pytest.raises(PoolTimeoutError):
                await client.health()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_cancelled_call_closes_its_connection(wire: Any, steps: Any, backend: str) -> None:
    server = wire(steps.fall_silent)
    async with AsyncClient(server.url, backend=backend) as client:
        call = asyncio.create_task(client.health())
        await asyncio.to_thread(server.wait_for, 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(server.wait_closed)


async def _storm(client: AsyncClient, rounds: int) -> None:
    """Start and cancel hundreds of calls at all stages: queued, connecting, waiting, reading."""
    for turn in range(rounds):
        tasks = [asyncio.create_task(client.metadata()) for _ in range(25)]
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        if turn % 3 == 0:
            await asyncio.sleep(0.002)
        for task in tasks[:: 1 + turn % 3]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_cancel_storm_leaves_our_pool_whole(wire: Any) -> None:
    size = 4
    async with AsyncClient(wire().url, limits=Limits(max_connections=size), breaker=None) as client:
        await _storm(client, rounds=30)
        again = await asyncio.gather(*[client.metadata() for _ in range(3 * size)])
        (pool,) = client._sender._shared.transport._pools.values()
        assert [one.is_idle() for one in pool.connections].count(False) == 0
        assert len(pool.connections) <= size
        assert len(again) == 3 * size


async def test_a_cancel_storm_leaves_the_places_of_aiohttp_whole(wire: Any) -> None:
    limits = Limits(max_connections=4)
    server = wire()
    async with AsyncClient(server.url, limits=limits, breaker=None, backend="aiohttp") as client:
        await _storm(client, rounds=30)
        transport = client._sender._shared.transport
        assert transport._places._value == 4
        assert len(await asyncio.gather(*[client.metadata() for _ in range(12)])) == 12
    server.wait_closed()


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
async def test_a_cancel_storm_leaves_a_borrowed_pool_usable(wire: Any, library: Any) -> None:
    limits = library.Limits(max_connections=4)
    async with library.AsyncClient(limits=limits) as borrowed:
        patient = Timeouts(pool=30.0)  # calls on their way out may still hold their places
        client = AsyncClient(wire().url, http_client=borrowed, breaker=None, timeout=patient)
        await _storm(client, rounds=30)
        again = await asyncio.gather(*[client.metadata() for _ in range(12)])
        assert len(again) == 12
        await client.close()


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
def test_a_borrowed_client_is_left_open(wire: Any, library: Any) -> None:
    with library.Client() as borrowed:
        server = wire()
        Client(server.url, http_client=borrowed).close()
        assert borrowed.get(server.url).status_code == 200


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
def test_a_client_of_the_other_kind_is_refused(library: Any) -> None:
    with library.Client() as borrowed, pytest.raises(TypeError, match="AsyncClient"):
        AsyncClient("http://127.0.0.1", http_client=borrowed)
    with pytest.raises(TypeError, match=r"expected httpx2\.Client"):
        Client("http://127.0.0.1", http_client=object())


@pytest.mark.parametrize("backend", ["httpx2", "urllib3"])
def test_many_calls_leave_nothing_behind(wire: Any, backend: str) -> None:
    server = wire()
    with Client(server.url, backend=backend) as client:
        client.health()
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(2_000):
            client.health()
        server.received.clear()
        gc.collect()
        assert len(gc.get_objects()) - before < 500
