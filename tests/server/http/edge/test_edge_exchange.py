"""One exchange as the application and the client see it: leaving, early ends, errors."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from aiaas_server.observe.logging import AccessRecord

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Slow:
    """An application that tells when it has the request and waits to be released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.cancelled = threading.Event()
        self.release = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert "aiaas.cancel_on_disconnect" in scope["extensions"]
        while (await receive()).get("more_body"):
            pass
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", b"2")],
            }
        )
        await send({"type": "http.response.body", "body": b"ok"})


def reset(sock: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["close", "reset"])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_client_that_leaves_cancels_its_request(
    serve_edge: Any, tmp_path: Path, leave: Any, unix: bool
) -> None:
    app = Slow()
    server = serve_edge(app, uds=str(tmp_path / "s") if unix else None)
    wire = server.connect().send(GET)
    assert app.entered.wait(15)
    leave(wire.sock)
    assert app.cancelled.wait(15)
    server.eventually(lambda: not server.state.tasks and not server.state.connections)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_client_that_only_stops_sending_gets_its_answer(
    serve_edge: Any, tmp_path: Path, unix: bool
) -> None:
    app = Slow()
    server = serve_edge(app, uds=str(tmp_path / "s") if unix else None)
    wire = server.connect().send(GET)
    assert app.entered.wait(15)
    wire.sock.shutdown(socket.SHUT_WR)
    connection = next(iter(server.state.connections))
    server.eventually(lambda: connection._half_closed)
    server.on_loop(lambda: connection.check_time(0.0, 0.0))
    server.on_loop(app.release.set)
    answer = wire.answer()
    assert (answer.status, answer.body) == (200, b"ok")
    assert wire.rest() == b""
    assert not app.cancelled.is_set()


def test_a_client_that_stops_sending_gets_all_pipelined_answers(serve_edge: Any) -> None:
    wire = serve_edge().connect().send(GET * 3)
    wire.sock.shutdown(socket.SHUT_WR)
    assert [wire.answer().status for _ in range(3)] == [200, 200, 200]
    assert wire.rest() == b""


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        pytest.param(b"nonsense\r\n\r\n", b"HTTP/1.1 400 ", id="refused"),
        pytest.param(b"GET / HT", b"", id="unfinished"),
        pytest.param(b"", b"", id="nothing"),
    ],
)
def test_what_comes_behind_a_request_does_not_take_its_answer_from_a_client_that_stops_sending(
    serve_edge: Any, behind: bytes, expected: bytes
) -> None:
    app = Slow()
    server = serve_edge(app)
    wire = server.connect().send(GET + behind)
    assert app.entered.wait(15)
    wire.sock.shutdown(socket.SHUT_WR)
    connection = next(iter(server.state.connections))
    server.eventually(lambda: connection._half_closed)
    server.on_loop(app.release.set)
    assert wire.answer().status == 200
    assert wire.rest()[:13] == expected
    server.eventually(lambda: not server.state.tasks and not server.state.connections)


def test_an_incomplete_request_ends_with_its_client(serve_edge: Any) -> None:
    app = Slow()
    server = serve_edge(app)
    wire = server.connect().send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    server.eventually(lambda: bool(server.state.tasks))
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.rest() == b""
    server.eventually(lambda: not server.state.tasks and not server.state.connections)
    assert not app.entered.is_set()


def test_pipelined_requests_behind_a_client_that_left_never_start(serve_edge: Any) -> None:
    paths: list[str] = []
    slow = Slow()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await slow(scope, receive, send)

    server = serve_edge(app)
    wire = server.connect().send(GET + GET.replace(b"/ ", b"/second "))
    assert slow.entered.wait(15)
    reset(wire.sock)
    assert slow.cancelled.wait(15)
    server.eventually(lambda: not server.state.connections)
    assert paths == ["/"]


def test_expect_100_continue_is_answered_when_the_application_reads(serve_edge: Any) -> None:
    wire = serve_edge().connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert wire.send(b"ab").answer().body == b"POST / ab"


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    """Answer 413 without reading."""
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"no"})


def test_a_refusal_by_the_application_comes_instead_of_100_continue(serve_edge: Any) -> None:
    wire = serve_edge(refuses, linger=0.2).connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert wire.rest() == b""


def test_an_early_answer_reaches_a_client_that_still_sends_a_large_body(serve_edge: Any) -> None:
    wire = serve_edge(refuses, linger=5.0).connect()
    size = 64 << 20
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
    wire.send(bytes(16 << 20))
    answer = wire.answer()
    assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"no", "close")


def test_an_early_answer_keeps_the_connection_when_little_is_missing(serve_edge: Any) -> None:
    wire = serve_edge(refuses).connect()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    for _ in range(2):
        answer = wire.send(head).answer()
        assert "connection" not in answer.headers
        wire.send(bytes(1000))
    assert wire.send(head).answer().status == 413


def test_a_large_body_arrives_whole_and_in_order(serve_edge: Any) -> None:
    body = bytes(range(256)) * 4096 * 8  # 8 MiB
    wire = serve_edge().connect()
    sender = threading.Thread(
        target=wire.send,
        args=(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body,),
    )
    sender.start()
    assert wire.answer().body == b"POST / " + body
    sender.join(15)


async def streams(scope: Any, receive: Any, send: Any) -> None:
    """Answer in pieces without a length."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in (b"ab", b"", b"c"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


def test_an_answer_without_a_length_is_chunked(serve_edge: Any) -> None:
    wire = serve_edge(streams).connect().send(GET + GET)
    for _ in range(2):
        assert wire.answer().headers["transfer-encoding"] == "chunked"
        assert wire.until(b"0\r\n\r\n") == b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


def test_head_has_the_headers_and_no_body(serve_edge: Any) -> None:
    wire = serve_edge().connect().send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = wire.answer(head_only=True)
    assert (answer.status, answer.headers["content-length"], wire.buffer) == (200, "7", b"")


def test_http_1_0_closes_after_the_answer(serve_edge: Any) -> None:
    wire = serve_edge().connect().send(b"GET / HTTP/1.0\r\n\r\n")
    assert wire.answer().headers["connection"] == "close"
    assert wire.rest() == b""


def start(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


BROKEN: dict[str, list[Any]] = {
    "nothing": [],
    "only-the-start": [start((b"content-length", b"1"))],
    "raises": [RuntimeError("secret detail")],
    "raises-after-the-start": [start(), RuntimeError("secret detail")],
    "split-header-value": [start((b"x-a", b"b\r\nx-c: d")), {"type": "http.response.body"}],
    "line-feed-in-value": [start((b"x-a", b"b\nx-c: d")), {"type": "http.response.body"}],
    "bad-header-name": [start((b"x a", b"b")), {"type": "http.response.body"}],
    "body-too-long": [
        start((b"content-length", b"1")),
        {"type": "http.response.body", "body": b"ab"},
    ],
    "body-too-short": [
        start((b"content-length", b"3")),
        {"type": "http.response.body", "body": b"ab"},
    ],
    "body-before-start": [{"type": "http.response.body", "body": b"ab"}],
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_application_is_a_500_that_tells_nothing(
    serve_edge: Any, script: list[Any]
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for step in script:
            if isinstance(step, Exception):
                raise step
            await send(step)

    answer = serve_edge(app, linger=0.1).ask(GET)
    assert answer.status == 500
    document = json.loads(answer.body)
    assert document["code"] == "internal"
    assert document["request_id"] == answer.headers["x-request-id"]
    assert b"secret" not in answer.body
    assert "x-c" not in answer.headers


def test_an_answer_that_breaks_half_way_is_cut_not_completed(serve_edge: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start((b"content-length", b"10")))
        await send({"type": "http.response.body", "body": b"ab", "more_body": True})
        raise RuntimeError

    wire = serve_edge(app).connect().send(GET)
    assert wire.rest().endswith(b"\r\n\r\nab")


def test_the_access_log_tells_one_record_an_answer(serve_edge: Any) -> None:
    records: list[AccessRecord] = []
    server = serve_edge(on_access=records.append)
    request = b"POST /a%20b?key=x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
    answer = server.ask(request)
    assert answer.status == 200
    (record,) = records
    assert record[:3] == ("POST", "/a%20b", 200)
    assert record.sent == len(answer.body)
    assert record.received == 2
    assert record.request_id == "id-1"
    assert record.client == "127.0.0.1"
    assert 0 <= record.duration < 15
