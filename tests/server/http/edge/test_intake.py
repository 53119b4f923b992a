"""Large bodies that go past the parser: whole, in order, and nothing beyond them."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import weakref
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiaas_server.http.edge.intake import DIRECT_ABOVE
from aiaas_server.http.incoming import READ_INTO

SIZE = 3 * DIRECT_ABOVE
LOOPS = pytest.mark.parametrize(
    "new_loop", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"]
)


def pattern(size: int) -> bytes:
    """Bytes in which every place is recognisable."""
    return b"".join(number.to_bytes(4, "big") for number in range(-(-size // 4)))[:size]


def post(body: bytes, *lines: bytes, size: int | None = None) -> bytes:
    """A request, of which `size` bytes of body are announced."""
    length = b"Content-Length: %d" % (len(body) if size is None else size)
    return b"\r\n".join((b"POST / HTTP/1.1", b"Host: a", length, *lines, b"", body))


class Reader:
    """An application that reads a body into its place and answers with it."""

    def __init__(self, *, skip_first: bool = False) -> None:
        self.skip_first = skip_first  # ask for the place before any message
        self.came: list[int] = []
        self.reading = threading.Event()
        self.ended = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await self.read(scope, receive)
        finally:
            self.ended.set()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(body)})

    async def read(self, scope: Any, receive: Any) -> bytearray:
        length = int(dict(scope["headers"])[b"content-length"])
        body = bytearray(length)
        direct = READ_INTO in scope["extensions"]
        message = {"body": b""} if direct and self.skip_first else await receive()
        filled = len(message["body"])
        body[:filled] = message["body"]
        if direct:
            self.reading.set()
            self.came.append(await scope["extensions"][READ_INTO](memoryview(body)[filled:]))
            return body
        while message["more_body"]:
            message = await receive()
            body[filled : filled + len(message["body"])] = message["body"]
            filled += len(message["body"])
        return body


@LOOPS
@pytest.mark.parametrize("skip_first", [False, True])
def test_a_body_arrives_whole_and_the_request_behind_it_is_answered(
    serve_edge: Any, new_loop: Any, skip_first: bool
) -> None:
    app = Reader(skip_first=skip_first)
    wire = serve_edge(app, new_loop=new_loop).connect()
    bodies = [pattern(SIZE + turn) for turn in range(3)] + [b"small"]
    stream = b"".join(map(post, bodies))
    sender = threading.Thread(target=wire.send, args=(stream,))
    sender.start()
    for body in bodies:
        assert wire.answer().body == body
    sender.join(15)
    assert len(app.came) == 3
    assert skip_first or sum(app.came) > 0, "nothing went past the parser"


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(1, 2 * DIRECT_ABOVE), min_size=1, max_size=3),
    cuts=st.lists(st.floats(0, 1), max_size=8),
)
def test_a_stream_of_requests_may_come_in_any_pieces(
    kept_server: Any, sizes: list[int], cuts: list[float]
) -> None:
    stream = b"".join(post(pattern(size)) for size in sizes)
    wire = kept_server.connect()
    wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    places = sorted({int(cut * len(stream)) for cut in cuts} | {0, len(stream)})

    def send() -> None:
        for start, stop in pairwise(places):
            wire.send(stream[start:stop])

    sender = threading.Thread(target=send)
    sender.start()
    for size in sizes:
        assert wire.answer().body == pattern(size)
    sender.join(15)
    wire.sock.close()


@pytest.fixture
def kept_server(serve_edge: Any) -> Any:
    return serve_edge(Reader(), max_connections_per_address=0)


@LOOPS
def test_a_client_that_leaves_inside_a_body_ends_its_request(
    serve_edge: Any, new_loop: Any
) -> None:
    app = Reader()
    server = serve_edge(app, new_loop=new_loop)
    wire = server.connect().send(post(pattern(SIZE), size=10 * SIZE))
    assert app.reading.wait(15)
    wire.sock.close()
    assert app.ended.wait(15)
    server.eventually(lambda: not server.state.tasks and not server.state.connections)


def test_100_continue_comes_before_the_body_is_read_into_its_place(serve_edge: Any) -> None:
    wire = serve_edge(Reader(skip_first=True)).connect()
    body = pattern(SIZE)
    wire.send(post(b"", b"Expect: 100-continue", size=SIZE))
    assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    sender = threading.Thread(target=wire.send, args=(body,))
    sender.start()
    assert wire.answer().body == body
    sender.join(15)


def test_a_body_that_stalls_on_its_way_is_ended(serve_edge: Any) -> None:
    app = Reader()
    wire = serve_edge(app, body_timeout=0.2, linger=0.1, bytes_per_second=1 << 30).connect()
    wire.send(post(pattern(SIZE), size=10 * SIZE))
    assert wire.answer().status == 408
    assert app.ended.wait(15)
    assert wire.rest() == b""


class GivesUp(Reader):
    """Stops waiting for the body and answers without it."""

    place = bytearray()

    async def read(self, scope: Any, receive: Any) -> bytearray:
        await receive()
        if READ_INTO not in scope["extensions"]:
            return bytearray(b"small")
        self.place = bytearray(int(dict(scope["headers"])[b"content-length"]))
        waiting = asyncio.ensure_future(scope["extensions"][READ_INTO](memoryview(self.place)))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        return bytearray(b"late")


def test_what_nobody_waits_for_any_more_is_read_away(serve_edge: Any) -> None:
    app = GivesUp()
    wire = serve_edge(app).connect()
    body = b"x" * SIZE
    for _ in range(2):  # little is missing: the connection lives on
        wire.send(post(body[:DIRECT_ABOVE], size=len(body)))
        assert wire.answer().body == b"late"
        place, before = app.place, bytes(app.place)
        wire.send(body[DIRECT_ABOVE:])
        wire.send(post(b"", size=0))  # its answer tells that all before it was read
        assert wire.answer().body == b"small"
        assert place == before, "memory that was given up is written to"


def test_a_chunked_body_goes_through_the_parser(serve_edge: Any) -> None:
    seen: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(READ_INTO in scope["extensions"])
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    body = pattern(SIZE)
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert serve_edge(app).ask(head + chunks).status == 204
    assert seen == [False]


def test_a_large_request_leaves_nothing_for_the_collector(serve_edge: Any) -> None:
    kept: list[weakref.ref[Any]] = []

    class Noted(Reader):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            kept.append(weakref.ref(asyncio.current_task()))
            await super().__call__(scope, receive, send)

    server = serve_edge(Noted())
    wire = server.connect()
    gc.disable()
    try:
        for _ in range(3):
            wire.send(post(pattern(SIZE)))
            assert wire.answer().body == pattern(SIZE)
        wire.sock.close()
        server.eventually(lambda: not server.state.connections)
        server.eventually(lambda: not any(task() for task in kept))
    finally:
        gc.enable()
