"""Hot requests on a connection: turns, ends, slow readers, and whose trace is whose."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import QueueFull
from aiaas_server.core.events import CALLER
from aiaas_server.http.answers import Reply
from aiaas_server.observe.logging import AccessRecord
from aiaas_server.observe.tracing import current_traceparent
from tests.server.http.edge.conftest import EdgeServer, Wire, echo, hot_routes
from tests.server.http.edge.test_edge_exchange import reset

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KEY = "k" * 32


def get(path: bytes = b"/", *lines: bytes) -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, b"Host: a", *lines, b"", b""])


def post(body: bytes, *lines: bytes, path: bytes = b"/") -> bytes:
    """A request with a body."""
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"POST %b HTTP/1.1" % path, b"Host: a", length, *lines, b"", body])


def text_reply(text: bytes) -> Reply:
    return Reply((), (text,), len(text))


class Held:
    """A hot endpoint that answers `/now` at once, with the path, and keeps all other calls.

    Attributes:
        calls: Those kept, in their order.
        entered: Set when one has come.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.entered = threading.Event()

    def __call__(self, call: Any) -> bool:
        path = call.head.target.path
        if path.startswith("/now"):
            call.answer(text_reply(path.encode()))
        elif path.startswith("/app"):
            return False
        else:
            self.calls.append(call)
            self.entered.set()
        return True

    def answer(self, server: EdgeServer, text: bytes = b"held") -> None:
        """Answer the oldest call that is kept."""
        server.on_loop(lambda: self.calls.pop(0).answer(text_reply(text)))

    def fail(self, server: EdgeServer, error: Exception) -> None:
        """Have the oldest call that is kept fail."""
        server.on_loop(lambda: self.calls.pop(0).fail(error))


@pytest.fixture
def held() -> Held:
    return Held()


Start = Callable[..., tuple[EdgeServer, Wire]]


@pytest.fixture
def holding(serve_edge: Any, held: Held) -> Start:
    """Start a server whose hot calls are held, and send it something."""

    def start(sent: bytes, **options: Any) -> tuple[EdgeServer, Wire]:
        settings = {"api_key": options.pop("api_key", None)}
        server = serve_edge(hot=hot_routes(held, **settings), **options)
        wire = server.connect().send(sent)
        assert held.entered.wait(15)
        return server, wire

    return start


# Turns


def test_requests_behind_one_that_waits_are_answered_in_order(holding: Start, held: Held) -> None:
    behind = [get(b"/now/1"), get(b"/app/2"), post(b"abc", path=b"/now/3"), get(b"/now/4?a=b")]
    server, wire = holding(get() + b"".join(behind))
    held.answer(server)
    answers = [wire.answer().body for _ in range(5)]
    assert answers == [b"held", b"/now/1", b"GET /app/2 ", b"/now/3", b"GET /now/4 "]


def test_a_hundred_requests_may_wait_behind_one(holding: Start, held: Held) -> None:
    server, wire = holding(get() + get(b"/now") * 100)
    held.answer(server)
    assert [wire.answer().body for _ in range(101)] == [b"held"] + [b"/now"] * 100


def test_one_more_than_may_wait_ends_the_connection_cleanly(holding: Start, held: Held) -> None:
    server, wire = holding(get() + get(b"/now") * 50, pipeline=5)
    held.answer(server)
    answers = [wire.answer() for _ in range(6)]
    assert [answer.headers.get("connection") for answer in answers] == [None] * 5 + ["close"]
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.rest() == b""


def test_the_next_request_waits_its_turn_behind_an_answer_in_several_batches(
    holding: Start, held: Held
) -> None:
    server, wire = holding(get(b"/1") + get(b"/2") + get(b"/3"))
    for number in range(3):
        server.eventually(lambda: len(held.calls) == 1)
        assert held.calls[0].head.target.path == f"/{number + 1}"
        held.answer(server)
        assert wire.answer().body == b"held"


def test_a_body_half_here_when_its_turn_comes_is_read_on(holding: Start, held: Held) -> None:
    server, wire = holding(get() + post(b"abc", path=b"/now")[:-1])
    held.answer(server)
    assert wire.answer().body == b"held"
    assert wire.send(b"c").answer().body == b"/now"


# Ends


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["close", "reset"])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_a_client_that_leaves_ends_what_was_begun_for_it(
    holding: Start, held: Held, tmp_path: Path, leave: Any, unix: bool
) -> None:
    server, wire = holding(get(), uds=str(tmp_path / "s") if unix else None)
    leave(wire.sock)
    server.eventually(lambda: held.calls[0].done())
    server.eventually(lambda: not server.state.connections)
    held.answer(server)  # comes to nothing


def test_a_client_that_leaves_before_its_body_is_whole_costs_nothing(serve_edge: Any) -> None:
    server = serve_edge()
    wire = server.connect().send(post(b"abc")[:-1])
    server.eventually(lambda: len(server.state.connections) == 1)
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.rest() == b""
    server.eventually(lambda: not server.state.connections)


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("fails", [False, True], ids=["answered", "failed"])
def test_a_client_that_only_stops_sending_gets_its_answer_and_the_end(
    holding: Start, held: Held, tmp_path: Path, unix: bool, fails: bool
) -> None:
    server, wire = holding(get(), uds=str(tmp_path / "s") if unix else None)
    connection = next(iter(server.state.connections))
    wire.sock.shutdown(socket.SHUT_WR)
    server.eventually(lambda: connection._half_closed)
    if fails:
        held.fail(server, QueueFull("full"))
    else:
        held.answer(server)
    answer = wire.answer()
    assert answer.status == (503 if fails else 200)
    assert answer.headers["connection"] == "close"
    assert wire.rest() == b""


def test_a_refused_request_waits_for_the_answer_before_it(holding: Start, held: Held) -> None:
    server, wire = holding(get() + b"GET / HTTP/1.1\r\n\r\n")
    held.answer(server)
    assert [wire.answer().status for _ in range(2)] == [200, 400]


def test_what_the_drain_cuts_is_told_so_once_and_counted(holding: Start, held: Held) -> None:
    counted: list[ErrorCode] = []
    server, wire = holding(get() + get(b"/now") * 3, on_refusal=counted.append)
    connection = next(iter(server.state.connections))
    assert server.on_loop(connection.cut)
    answer = wire.answer()
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "draining")
    assert json.loads(answer.body)["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["connection"] == "close"
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.rest() == b""
    assert counted == [ErrorCode.DRAINING]
    assert not server.on_loop(connection.cut)


def test_an_error_behind_the_answer_is_not_a_second_answer(serve_edge: Any) -> None:
    def endpoint(call: Any) -> bool:
        call.answer(text_reply(b"one"))
        raise RuntimeError("late")

    wire = serve_edge(hot=hot_routes(endpoint)).connect().send(get() + get())
    assert [wire.answer().body for _ in range(2)] == [b"one", b"one"]
    wire.sock.shutdown(socket.SHUT_WR)
    assert wire.rest() == b""


def test_an_error_nobody_knows_is_a_500_that_tells_nothing(serve_edge: Any) -> None:
    def endpoint(call: Any) -> bool:
        raise RuntimeError("secret detail")

    wire = serve_edge(hot=hot_routes(endpoint)).connect().send(get() * 2)
    for _ in range(2):  # the connection goes on
        answer = wire.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (500, "internal")
        assert b"secret" not in answer.body


# Answers that are written later


class Later:
    """A hot endpoint whose answers come from a coroutine."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.calls: list[Any] = []

    def __call__(self, call: Any) -> bool:
        self.calls.append(call)
        call.later(self._work())
        return True


def test_an_answer_may_be_written_by_a_task(serve_edge: Any) -> None:
    async def work() -> Reply:
        await asyncio.sleep(0)
        return text_reply(b"x" * 300_000)

    later = Later(work)
    wire = serve_edge(hot=hot_routes(later)).connect().send(get() * 3)
    assert [len(wire.answer().body) for _ in range(3)] == [300_000] * 3
    assert all(call.task is None for call in later.calls)


@pytest.mark.parametrize("reply", [None, Reply(((b"x-a", b"b\nc: d"),), (b"",), 0)])
def test_an_answer_that_cannot_be_written_is_a_500(serve_edge: Any, reply: Reply | None) -> None:
    async def work() -> Reply:
        if reply is None:
            raise RuntimeError("secret detail")
        return reply

    answer = serve_edge(hot=hot_routes(Later(work))).ask(get())
    assert (answer.status, json.loads(answer.body)["code"]) == (500, "internal")
    assert "c" not in answer.headers


def test_a_client_that_leaves_ends_the_writing_of_its_answer(serve_edge: Any) -> None:
    ended = threading.Event()

    async def work() -> Reply:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return text_reply(b"")

    later = Later(work)
    server = serve_edge(hot=hot_routes(later))
    wire = server.connect().send(get())
    server.eventually(lambda: bool(later.calls))
    reset(wire.sock)
    assert ended.wait(15)


def test_writing_that_ends_before_it_began_leaves_nothing_behind(serve_edge: Any) -> None:
    begun: list[int] = []

    async def work() -> Reply:
        begun.append(1)
        return text_reply(b"")

    def endpoint(call: Any) -> bool:
        call.later(work())
        call._connection.transport.abort()
        call.abandon(set())  # as `connection_lost` does
        return True

    server = serve_edge(hot=hot_routes(endpoint))
    assert server.connect().send(get()).rest() == b""
    server.eventually(lambda: not server.state.connections)
    assert not begun


# Clients that read slowly


def test_answers_wait_for_a_client_that_does_not_read(serve_edge: Any) -> None:
    size, count = 4 << 20, 40
    begun: list[int] = []

    def endpoint(call: Any) -> bool:
        begun.append(1)
        call.answer(text_reply(bytes(size)))
        return True

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.append(1)
        await receive()
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})

    server = serve_edge(app, hot=hot_routes(endpoint))
    wire = server.connect().send(get() * count)
    wire.until(b"\r\n\r\n")
    (connection,) = server.state.connections
    server.eventually(lambda: connection.flow.write_paused)
    for _ in range(20):  # whatever the loop has still to do
        held = server.on_loop(connection.transport.get_write_buffer_size)
        assert held <= 3 * size
    wire.buffer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + wire.buffer
    assert [len(wire.answer().body) for _ in range(count)] == [size] * count
    assert len(begun) == count


def test_answers_behind_one_that_waits_wait_for_a_client_that_does_not_read(
    serve_edge: Any, held: Held
) -> None:
    size, count = 4 << 20, 30
    large = text_reply(bytes(size))

    def endpoint(call: Any) -> bool:
        if call.head.target.path == "/hold":
            return held(call)
        call.answer(large)
        return True

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})

    server = serve_edge(app, hot=hot_routes(endpoint))
    wire = server.connect().send(get(b"/hold") + get() * count)
    assert held.entered.wait(15)
    (connection,) = server.state.connections
    server.eventually(lambda: len(connection._waiting) == count)
    held.answer(server)
    assert wire.answer().body == b"held"
    server.eventually(lambda: connection.flow.write_paused)
    for _ in range(20):
        assert server.on_loop(connection.transport.get_write_buffer_size) <= 3 * size
    assert [len(wire.answer().body) for _ in range(count)] == [size] * count


# Who asks


def test_a_trace_is_not_taken_over_by_the_next_request(serve_edge: Any, held: Held) -> None:
    seen: list[tuple[str, str]] = []

    def endpoint(call: Any) -> bool:
        seen.append((call.head.target.path, current_traceparent()))
        return held(call)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], current_traceparent()))
        await echo(scope, receive, send)

    server = serve_edge(app, hot=hot_routes(endpoint))
    traced = b"traceparent: " + TRACE
    sent = [get(b"/1"), get(b"/now/2", traced), get(b"/now/3"), get(b"/now/4", traced),
            get(b"/app/5")]  # fmt: skip
    wire = server.connect().send(b"".join(sent))
    assert held.entered.wait(15)
    held.answer(server)
    for _ in sent:
        assert wire.answer().status == 200
    wire.send(get(b"/now/6"))
    assert wire.answer().status == 200
    trace = TRACE.decode()
    # What the endpoint leaves to the application is begun twice.
    assert seen == [("/1", ""), ("/now/2", trace), ("/now/3", ""), ("/now/4", trace),
                    ("/app/5", ""), ("/app/5", ""), ("/now/6", "")]  # fmt: skip


def test_an_unexpected_error_is_logged_with_its_own_trace(
    serve_edge: Any, held: Held, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve_edge(hot=hot_routes(held))
    traced = server.connect().send(get(b"/1", b"traceparent: " + TRACE, b"x-request-id: one"))
    assert held.entered.wait(15)
    plain = server.connect().send(get(b"/2", b"x-request-id: two"))
    server.eventually(lambda: len(held.calls) == 2)

    def fail_both() -> None:  # as one run that fails for two requests, begun by the first
        first, second = held.calls
        first._variables.run(lambda: [call.fail(RuntimeError()) for call in (second, first)])

    server.on_loop(fail_both)
    assert [wire.answer().status for wire in (traced, plain)] == [500, 500]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "unexpected error, request two, trace -",
        f"unexpected error, request one, trace {TRACE.decode()}",
    ]


def test_the_caller_is_known_to_whoever_answers(serve_edge: Any) -> None:
    seen: list[Any] = []

    def endpoint(call: Any) -> bool:
        seen.append(call.context.caller)
        call.answer(text_reply(b""))
        return True

    wire = serve_edge(hot=hot_routes(endpoint)).connect()
    wire.send(get(b"/", b"x-request-id: mine", b"traceparent: " + TRACE)).answer()
    wire.send(get()).answer()
    assert seen[0][:2] == ("mine", TRACE.decode())
    assert seen[1].traceparent == ""
    assert seen[1].request_id not in ("", "mine")
    assert CALLER.get().request_id == ""


def test_the_key_is_checked_before_a_body_is_waited_for(serve_edge: Any, held: Held) -> None:
    server = serve_edge(hot=hot_routes(held, api_key=KEY))
    wire = server.connect().send(post(b"abc", path=b"/now")[:-2])
    assert wire.answer().status == 401
    wire.send(b"bc" + post(b"abc", b"X-API-Key: " + KEY.encode(), path=b"/now"))
    assert wire.answer().body == b"/now"
    assert wire.buffer == b""


def test_the_time_a_request_has_begins_with_its_head(serve_edge: Any, held: Held) -> None:
    server = serve_edge(hot=hot_routes(held))
    wire = server.connect().send(post(b"abc", b"X-Request-Timeout-Ms: 60000")[:-1])
    server.eventually(lambda: len(server.state.connections) == 1)
    (connection,) = server.state.connections
    server.eventually(lambda: connection._active is not None)
    before = server.loop.time()
    wire.send(b"c")
    assert held.entered.wait(15)
    assert held.calls[0].context.deadline <= before + 60.0


# The log


def test_the_access_log_is_the_applications(serve_edge: Any) -> None:
    records: list[AccessRecord] = []
    server = serve_edge(on_access=records.append)
    hot = post(b"ab", b"X-Request-Id: id-1", path=b"/a%20b")
    wire = server.connect().send(hot)
    assert wire.answer().body == b"POST /a%20b ab"
    wire.send(hot.replace(b"/a%20b", b"/a%20b?x=y"))
    assert wire.answer().body == b"POST /a%20b ab"
    first, second = records
    assert first._replace(duration=0) == second._replace(duration=0)
    assert first[:3] == ("POST", "/a%20b", 200)
    assert first[4:] == (14, 2, "id-1", "127.0.0.1")
