"""Hot requests on the connection they came by: no task, no scope, no messages.

A request that a function can answer by plain calls (`http/hot.py`) is handed to it when its body is
complete, and its answer leaves in one write. What the function leaves to others goes through the
application as if it had never been here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context, copy_context
from time import perf_counter

from aiaas_server.http.answers import Reply, header_block, whole_problem
from aiaas_server.http.edge.heads import LaneHead
from aiaas_server.http.edge.limits import DRAINING
from aiaas_server.http.edge.lines import JOIN_BELOW, STATUS_LINES
from aiaas_server.http.edge.port import AnyConnection, LaneConnection
from aiaas_server.http.errors import Problem
from aiaas_server.http.gate import request_id_of
from aiaas_server.http.hot import HotCall, HotRoutes
from aiaas_server.http.incoming import RequestContext
from aiaas_server.observe.logging import AccessRecord

logger = logging.getLogger("aiaas_server")

_OK = STATUS_LINES[200]
_HEAD = b"%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n"
_TIMED = b"%b%b%bcontent-length: %d\r\nx-request-id: %b\r\nserver-timing: %b\r\n%b\r\n"
_CLOSE = b"connection: close\r\n"
_CLOSES = (b"connection", b"close")


class LaneCall(HotCall):
    """One hot request and its answer; to the connection an exchange like any other.

    Attributes:
        received: Bytes of the body that have come.
        is_let_in: It has a `context`.
        keep_alive: The connection goes on after the answer.
        response_complete: The answer is written.
    """

    http_version = "1.1"

    __slots__ = (
        "_chunks",
        "_connection",
        "_gone",
        "_is_complete",
        "_is_open",
        "_request_id",
        "_variables",
        "head",
        "is_let_in",
        "keep_alive",
        "received",
        "response_complete",
        "sent",
        "started_at",
        "status",
    )

    def __init__(self, connection: LaneConnection, head: LaneHead) -> None:
        self.begun = self.queued = self.task = None  # as the base class does, for one call less
        self._connection = connection
        self._variables: Context | None = None
        self._gone = False
        self._is_open = False
        self.is_let_in = False
        self._is_complete = False
        self._request_id = b""
        self._chunks: list[bytes] = []
        self.head = head
        self.keep_alive = True
        self.received = 0
        self.response_complete = False
        self.status = 200
        self.sent = 0
        self.started_at = 0.0

    # What the connection asks of every exchange

    @property
    def announced(self) -> int:
        """Bytes of the body."""
        return self.head.length

    @property
    def response_started(self) -> bool:
        """Whether a part of the answer is written: all of it, then."""
        return self.response_complete

    def feed(self, chunk: bytes) -> bool:
        """Take a piece of the body; there is never too much of it to be held."""
        self.received += len(chunk)
        if not self.response_complete:
            self._chunks.append(chunk)
        return False

    def took(self, count: int) -> None:
        """Take note of body bytes that went past the parser: there are none."""

    def start_with(self, body: bytes) -> None:
        """It is its turn, and all has come at once."""
        if self._connection.edge.on_access is not None:
            self.started_at = perf_counter()
        self.serve(body)

    def end_of_body(self) -> None:
        """The body is complete; it is answered, if it is its turn."""
        self._is_complete = True
        if self._is_open and not self.response_complete:
            self.serve(b"".join(self._chunks))

    def start(self) -> None:
        """It is its turn; it is answered, if the body is complete."""
        self._is_open = True
        if self._connection.edge.on_access is not None:
            self.started_at = perf_counter()  # the loop counts in milliseconds
        if self._is_complete:
            self.serve(b"".join(self._chunks))

    def wait_for_body(self) -> None:
        """If its turn has come before its body: its time begins, and a refusal is told at once."""
        if self._is_open and not (self._is_complete or self.is_let_in):
            self._connection.read_on()
            self._within(self._let_in)

    def abandon(self, tasks: set[asyncio.Task[None]]) -> None:
        """Nobody waits for the answer."""
        self._gone = True
        self.drop()
        self._leave()

    def record(self, client: str) -> AccessRecord:
        """What the access log says of it."""
        return AccessRecord(
            self.head.method,
            self.head.target.raw_path.decode("ascii"),
            self.status,
            perf_counter() - self.started_at,
            self.sent,
            self.received,
            self._request_id.decode("ascii"),
            client,
        )

    def cut(self) -> None:
        """The time to drain is over: what was begun ends, and the client is told."""
        self.drop()
        self._leave()
        self.keep_alive = False
        self._connection.edge.refused(DRAINING.code)
        self.tell(DRAINING)

    # Answering

    def serve(self, body: bytes) -> None:
        """Have it answered; `body` is all of its body."""
        self.body = body
        connection = self._connection
        # Who reads too slowly is waited for by the application's own `send`.
        if connection.flow.write_paused or self._within(self._enter) is False:
            connection.pass_on(self, body)

    def _within(self, step: Callable[[HotRoutes], bool]) -> bool | None:
        """Take a step in the context of its own caller; None where that answered with an error."""
        hot, headers = self._connection.edge.hot, self.head.headers
        assert hot is not None, "its head was found there"
        try:
            if self._variables is None and hot.gate.sets_caller(headers):
                self._variables = copy_context()
            return step(hot) if self._variables is None else self._variables.run(step, hot)
        except Exception as error:
            self.fail(error)
            return None

    def _let_in(self, hot: HotRoutes) -> bool:
        head, client = self.head, self._connection.client
        path, _, query = head.target
        self._request_id = request_id_of(head.headers)
        self.context = hot.gate.open(
            self._request_id, head.headers, path, query, client[0] if client else ""
        )
        self.is_let_in = True
        return True

    def _enter(self, hot: HotRoutes) -> bool:
        if not self.is_let_in:
            self._let_in(hot)
        return self.head.endpoint(self)

    def done(self) -> bool:
        """Whether the client has gone."""
        return self._gone

    def answer(self, reply: Reply) -> None:
        """Write the answer, head and body together."""
        if self._gone:
            return
        _, chunks, length, block, timing = reply
        block = block or header_block(reply.headers)
        connection, visit = self._connection, self.context.caller.visit
        end = b"" if visit is None else visit.headers
        if not self.keep_alive or connection.last_answer:
            self.keep_alive = False
            end += _CLOSE
        first = (_OK, connection.default_block, block, length, self._request_id)
        head = _TIMED % (*first, timing, end) if timing else _HEAD % (*first, end)
        if length < JOIN_BELOW:
            connection.outbox.add(connection, b"".join((head, *chunks)))
        else:
            connection.outbox.flush()
            connection.transport.write(head)
            for chunk in chunks:
                connection.transport.write(chunk)
        self.sent = length
        if connection.edge.hot is not None:
            connection.edge.hot.gate.leave(self.context.caller)
        self._ended()

    def fail(self, error: Exception) -> None:
        """Write an error answer."""
        if self._gone:
            return
        if self.response_complete:
            logger.error("an error behind an answer", exc_info=error)
            return
        edge = self._connection.edge
        assert edge.hot is not None, "its head was found there"
        context: RequestContext | None = getattr(self, "context", None)
        # A copy: its own may be the one that goes on now, or it may be another's.
        variables = (self._variables or edge.context).copy()
        path = self.head.target.path
        self.tell(variables.run(edge.hot.gate.close, error, self._request_id, context, path))

    def tell(self, problem: Problem) -> None:
        """Write an error answer whose words are known."""
        connection = self._connection
        headers, body = whole_problem(problem, self._request_id)
        if _CLOSES in headers:
            self.keep_alive = False
        elif not self.keep_alive or connection.last_answer:
            self.keep_alive = False
            headers.append(_CLOSES)
        self.status = problem.status
        line = STATUS_LINES[problem.status]
        text = b"".join((line, connection.default_block, header_block(headers), b"\r\n", body))
        connection.outbox.add(connection, text)
        self.sent = len(body)
        self._ended()

    def _leave(self) -> None:
        """Let go of what is kept of it while it is here, where it was let in."""
        if self.is_let_in and self.context.caller.visit is not None:
            self.context.caller.visit.leave()

    def _ended(self) -> None:
        self.response_complete = True
        self._connection.answered(self)


class Outbox:
    """Answers of hot requests until the end of a turn of the loop, in which they are written.

    To write one wakes its client up, who sends the next request while those that have come with
    the first one wait: in the end each would be read, run and written in a turn of its own. Those
    who write to a connection in another way, or close it, `flush` first.
    """

    MOST = 64  # answers that wait for one another

    def __init__(self) -> None:
        self._waiting: list[tuple[AnyConnection, bytes]] = []

    def add(self, connection: AnyConnection, answer: bytes) -> None:
        """Write `answer` soon."""
        waiting = self._waiting
        if not waiting:
            connection.loop.call_soon(self.flush)
        waiting.append((connection, answer))
        if len(waiting) >= self.MOST:
            self.flush()

    def flush(self) -> None:
        """Write all that waits, now."""
        waiting, self._waiting = self._waiting, []
        for connection, answer in waiting:
            if not connection.transport.is_closing():  # nobody is there any more
                connection.transport.write(answer)
