"""Sizes, counts and times of requests, answers and connections are bounded."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
HOLD = b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n"
LATE = {"header_timeout": 0.2, "body_timeout": 0.2, "linger": 0.2, "keep_alive": 0.2}


@pytest.fixture(params=["asgi", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways that a request is answered."""
    return request.param


def line(size: int) -> bytes:
    """A GET whose request line has `size` bytes without its line end."""
    return b"GET /" + b"a" * (size - len("GET / HTTP/1.1")) + b" HTTP/1.1\r\n" + HOST + b"\r\n"


def headers(size: int) -> bytes:
    """A GET whose header block has `size` bytes without the last line end."""
    return b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (size - len(HOST) - 5) + b"\r\n\r\n"


def numbered(count: int) -> bytes:
    """A GET with `count` headers."""
    lines = b"".join(b"X%d: a\r\n" % number for number in range(count - 1))
    return b"GET / HTTP/1.1\r\n" + HOST + lines + b"\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        pytest.param(line(8192), 200, "", id="longest-request-line"),
        pytest.param(line(8193), 414, "uri_too_long", id="request-line-one-more"),
        pytest.param(b"GET /" + b"a" * 300_000, 414, "uri_too_long", id="request-line-no-end"),
        pytest.param(headers(16384), 200, "", id="largest-header-block"),
        pytest.param(headers(16385), 431, "headers_too_large", id="header-block-one-more"),
        pytest.param(headers(17000)[:-4], 431, "headers_too_large", id="header-value-without-end"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + b"a" * 17000, 431, "headers_too_large", id="name-without-end"
        ),
        pytest.param(headers(300_000), 431, "headers_too_large", id="header-block-huge"),
        pytest.param(numbered(100), 200, "", id="most-headers"),
        pytest.param(numbered(101), 431, "headers_too_large", id="headers-one-more"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n",
            413,
            "payload_too_large",
            id="announced-body",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n",
            413,
            "payload_too_large",
            id="announced-body-that-waits",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
            + b"a" * 1001,
            413,
            "payload_too_large",
            id="chunked-body",
        ),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["at-once", "in-pieces"])
def test_a_request_has_a_largest_size(
    serve_edge: Any, request_bytes: bytes, status: int, code: str, whole: bool
) -> None:
    wire = serve_edge(max_body_bytes=1000).connect()
    pieces = [request_bytes] if whole else [request_bytes[:4000], request_bytes[4000:]]
    for piece in pieces:
        wire.send(piece)
    answer = wire.answer()
    assert answer.status == status
    if code:
        assert json.loads(answer.body)["code"] == code
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"GET / HT", 408, id="part-of-the-request-line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n", 408, id="part-of-the-header"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 408, id="no-body"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", 408, id="half-a-body"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            408,
            id="chunked-body-without-end",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;aaaaaaa",
            408,
            id="chunk-extension-without-end",
        ),
    ],
)
def test_a_request_that_stalls_is_ended(serve_edge: Any, sent: bytes, status: int | None) -> None:
    wire = serve_edge(**LATE).connect().send(sent)
    if status is not None:
        answer = wire.answer()
        assert answer.status == status
        assert json.loads(answer.body)["code"] == "request_timeout"
    assert wire.rest() == b""


def test_a_header_that_trickles_does_not_win_time(serve_edge: Any) -> None:
    wire = serve_edge(**LATE).connect()
    wire.sock.settimeout(0.02)
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
    for _ in range(500):
        wire.send(b"a")
        try:
            if wire._fill():
                break
        except TimeoutError:
            continue
    assert wire.answer().status == 408


def test_the_deadline_of_the_request_bounds_its_body(serve_edge: Any) -> None:
    wire = serve_edge(linger=0.1).connect()
    wire.send(
        b"POST / HTTP/1.1\r\nHost: a\r\nX-Request-Timeout-Ms: 50\r\nContent-Length: 9\r\n\r\nabc"
    )
    assert wire.answer().status == 408


def test_a_body_that_keeps_coming_wins_time(serve_edge: Any) -> None:
    wire = serve_edge(body_timeout=0.2, bytes_per_second=10).connect()
    wire.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60\r\n\r\n" + b"a" * 50)
    wire.sock.settimeout(0.6)
    with pytest.raises(TimeoutError):
        wire.answer()
    wire.sock.settimeout(15)
    assert wire.send(b"a" * 10).answer().status == 200


def test_an_idle_connection_is_closed_and_a_used_one_kept(serve_edge: Any) -> None:
    wire = serve_edge(keep_alive=0.2).connect()
    for _ in range(3):
        assert wire.send(GET).answer().status == 200
    assert wire.rest() == b""


def test_a_request_under_way_is_not_idle(serve_edge: Any) -> None:
    server = serve_edge(**LATE)
    wire = server.connect().send(HOLD)
    wire.sock.settimeout(0.6)
    with pytest.raises(TimeoutError):
        wire.answer()


@pytest.mark.parametrize(
    "limits",
    [{"max_connections": 3}, {"max_connections_per_address": 3, "shared_addresses": ()}],
    ids=["in-all", "per-address"],
)
def test_connections_over_the_limit_are_told_so_and_a_free_place_is_used(
    serve_edge: Any, limits: dict[str, int]
) -> None:
    server = serve_edge(**limits)
    kept = [server.connect() for _ in range(3)]
    assert [wire.send(GET).answer().status for wire in kept] == [200, 200, 200]
    refused = server.connect().answer()
    assert refused.status == 503
    assert json.loads(refused.body)["code"] == "too_many_connections"
    assert json.loads(refused.body)["retryable"] is True
    assert int(refused.headers["retry-after"]) >= 1
    kept[0].send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").answer()
    assert kept[0].rest() == b""
    assert server.ask(GET).status == 200


def test_a_crowd_of_idle_sockets_does_not_take_the_server_down(serve_edge: Any) -> None:
    server = serve_edge(max_connections=20, max_connections_per_address=0, header_timeout=0.3)
    crowd = [server.connect() for _ in range(200)]
    for wire in crowd:
        wire.rest()
    assert server.ask(GET).status == 200
    assert server.on_loop(lambda: server.protocol.edge.connections) <= 2


async def flood(scope: Any, receive: Any, send: Any) -> None:
    """Answer with 32 MiB."""
    size = 32 << 20
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-length", b"%d" % size)],
        }
    )
    await send({"type": "http.response.body", "body": bytes(size)})


async def stream(scope: Any, receive: Any, send: Any) -> None:
    """Answer with pieces, without end."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        await asyncio.sleep(0)


@pytest.mark.parametrize("app", [flood, stream])
def test_a_client_that_does_not_read_is_cut(serve_edge: Any, app: Any) -> None:
    server = serve_edge(app, write_timeout=0.2, bytes_per_second=1 << 30)
    wire = server.connect().send(GET)
    wire.until(b"\r\n\r\n")

    edge, tasks = server.protocol.edge, server.state.tasks
    server.eventually(lambda: edge.connections == 0 and not tasks)


def test_pipelined_requests_are_answered_in_order(serve_edge: Any) -> None:
    requests = [
        b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
        % (number, len(b"b" * number), b"b" * number)
        for number in range(40)
    ]
    wire = serve_edge().connect().send(b"".join(requests))
    for number in range(40):
        assert wire.answer().body == b"POST /%d " % number + b"b" * number


def test_a_malformed_request_waits_for_the_answers_before_it(serve_edge: Any) -> None:
    wire = serve_edge().connect().send(GET + GET + b"GET / HTTP/1.1\r\n\r\n")
    assert [wire.answer().status for _ in range(3)] == [200, 200, 400]


@pytest.mark.parametrize("adapter", ["asgi"])  # what the lane answers at once waits for nobody
def test_more_pipelined_requests_than_allowed_end_the_connection_cleanly(serve_edge: Any) -> None:
    wire = serve_edge(pipeline=5).connect().send(GET * 50)
    answers = [wire.answer() for _ in range(6)]
    assert {answer.status for answer in answers} == {200}
    assert answers[-1].headers["connection"] == "close"
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.rest() == b""


def test_nothing_is_read_after_connection_close(serve_edge: Any) -> None:
    closing = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    wire = serve_edge().connect().send(closing + GET)
    assert wire.answer().headers["connection"] == "close"
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.rest() == b""
