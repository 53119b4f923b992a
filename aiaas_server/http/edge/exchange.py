"""One request and its answer: what the ASGI application sees of a connection.

The same duties as uvicorn's own cycle class, with less work a request: the head and the body of
an answer leave in one write, no event is made where nothing has to be waited for, and header
values are checked once for the whole block.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from time import perf_counter
from typing import Any

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.answers import whole_problem
from aiaas_server.http.edge.limits import DRAINING
from aiaas_server.http.edge.lines import JOIN_BELOW, NAMES, STATUS_LINES, as_chunk, checked_name
from aiaas_server.http.edge.port import Application, Connection
from aiaas_server.http.errors import Problem
from aiaas_server.http.gate import request_id_of
from aiaas_server.http.incoming import CONTEXT
from aiaas_server.observe.logging import AccessRecord

logger = logging.getLogger("aiaas_server")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]

HIGH_WATER = 256 << 10  # request bytes held for the application before reading pauses
DRAIN_BELOW = 256 << 10  # request bytes worth reading away to keep a connection

_CONTROLS = bytes([*range(9), *range(10, 32), 127])  # all but the tab
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
_DISCONNECT: Message = {"type": "http.disconnect"}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODILESS = frozenset({204, 304})


class Exchange:
    """The ASGI side of one request; `run` is the body of its task."""

    __slots__ = (
        "_buffered",
        "_chunked",
        "_chunks",
        "_connection",
        "_ended",
        "_left",
        "_waiter",
        "announced",
        "disconnected",
        "expects_continue",
        "head",
        "keep_alive",
        "more_body",
        "received",
        "response_complete",
        "response_started",
        "scope",
        "sent",
        "started_at",
        "status",
        "task",
    )

    def __init__(
        self,
        connection: Connection,
        scope: Scope,
        *,
        announced: int | None,
    ) -> None:
        self.scope = scope
        self.keep_alive = True
        self.expects_continue = False
        self.announced = announced  # body bytes by Content-Length, None when chunked
        self.received = 0
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None
        self.status = 0
        self.sent = 0  # body bytes of the answer
        self.started_at = 0.0
        self._connection = connection
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self.head: Message | None = None  # status and headers of the answer
        self._ended = False
        self._left = 0
        self._chunked = False

    @property
    def http_version(self) -> str:
        """The request's."""
        version: str = self.scope["http_version"]
        return version

    def record(self, client: str) -> AccessRecord:
        """What the access log says of it, now that it is answered."""
        scope = self.scope
        sent = () if self.head is None else self.head.get("headers", ())
        request_id: bytes = next((v for n, v in sent if n.lower() == b"x-request-id"), b"")
        return AccessRecord(
            scope["method"],
            scope["raw_path"].decode("ascii"),
            self.status,
            perf_counter() - self.started_at,
            self.sent,
            self.received,
            request_id.decode("latin-1"),
            client,
        )

    # From the connection

    def start(self) -> None:
        """It is its turn: run the application on it."""
        connection = self._connection
        if connection.edge.on_access is not None:
            self.started_at = perf_counter()  # the loop counts in milliseconds
        task = self.task = connection.loop.create_task(self.run(connection.app, connection.tasks))
        connection.tasks.add(task)

    def cut(self) -> None:
        """The time to drain is over."""
        if self.task is not None:
            self.task.cancel()
        self._leave()

    def feed(self, chunk: bytes) -> bool:
        """Take a piece of the body; True when reading should pause until it is consumed."""
        self.received += len(chunk)
        if self.response_complete or self.disconnected:
            return False
        self._chunks.append(chunk)
        self._buffered += len(chunk)
        if self._waiter is not None:
            self._wake()
        return self._buffered > HIGH_WATER

    def end_of_body(self) -> None:
        """Take note that the body is complete."""
        self.more_body = False
        if self._waiter is not None:
            self._wake()

    def abandon(self, tasks: set[asyncio.Task[None]]) -> None:
        """End it because nobody waits for the answer: the application's task is cancelled."""
        self.disconnected = True
        self._chunks.clear()
        if self._waiter is not None:
            self._wake()
        if self.task is not None and not self.task.done():
            # A task cancelled before its first step never reaches the end of `run`.
            self.task.add_done_callback(tasks.discard)
            self.task.cancel()
        self._leave()

    def _leave(self) -> None:
        """Let go of what is kept of it: its task may never have begun."""
        context = self.scope.get(CONTEXT)
        if context is not None and context.caller.visit is not None:
            context.caller.visit.leave()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def took(self, count: int) -> None:
        """Take note of body bytes that went straight into the application's memory."""
        self.received += count

    # The application's task

    async def run(self, app: Application, tasks: set[asyncio.Task[None]]) -> None:
        """Call the application; whatever it does, the client gets a whole answer or a close."""
        try:
            await app(self.scope, self.receive, self.send)
            if not self.response_complete and not self.disconnected:
                logger.error("the application returned without a complete answer")
                self._fail(_INTERNAL)
        except asyncio.CancelledError:
            if not self.disconnected:  # the time to drain is over
                self._fail(DRAINING)
        except Exception as error:
            if not self.disconnected:
                logger.error("exception in the application", exc_info=error)
                self._fail(_INTERNAL)
        finally:
            if self.task is not None:
                tasks.discard(self.task)

    def _fail(self, problem: Problem) -> None:
        """Answer with an error, or cut the connection where an answer has begun."""
        if self.response_started and not self.response_complete:
            self._connection.transport.abort()
            return
        if self.response_complete:
            return
        self.keep_alive = False
        asked = dict(self.scope["headers"])
        headers, body = whole_problem(problem, request_id_of(asked))
        self.head = {"status": problem.status, "headers": headers}
        self._chunked = False
        self._connection.failed(problem.code)
        self._write(body, more=False)

    # ASGI

    async def receive(self) -> Message:
        """ASGI's receive: the body in pieces, then, once there is one, the disconnect."""
        if self.expects_continue:
            self._say_continue()
        while not (self._chunks or self.disconnected or self.response_complete):
            if not self.more_body and not self._ended:
                break
            self._connection.read_on()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.disconnected or self.response_complete:
            return _DISCONNECT
        return {"type": "http.request", "body": self._take(), "more_body": self.more_body}

    def _take(self) -> bytes:
        chunks = self._chunks
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._ended = not self.more_body
        if self._buffered > HIGH_WATER:
            self._connection.read_on()
        self._buffered = 0
        return body

    async def read_into(self, view: memoryview) -> int:
        """Fill `view` with the rest of the body, as `READ_INTO` says."""
        if self.expects_continue:
            self._say_continue()
        piece = self._take() if self._chunks else b""
        filled = len(piece)
        view[:filled] = piece
        if self.announced is None or not self._is_incomplete():
            return filled
        receiver = self._connection.read_into(
            view[filled : filled + self.announced - self.received]
        )
        try:
            while self._is_incomplete():
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        finally:
            receiver.let_go()
        self._ended = not self.more_body
        return filled + receiver.taken

    def _is_incomplete(self) -> bool:
        return self.more_body and not self.disconnected

    def _say_continue(self) -> None:
        """Say `100 Continue` to a client that waits for it."""
        if not self.response_started:
            self.expects_continue = False
            if self.more_body and not self._connection.transport.is_closing():
                self._connection.transport.write(_CONTINUE)

    async def send(self, message: Message) -> None:
        """ASGI's send; the head waits for the first piece of the body and leaves with it."""
        connection = self._connection
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        if self.disconnected:
            return
        kind = message["type"]
        if self.head is None:
            if kind != "http.response.start":
                raise RuntimeError(f"expected ASGI message 'http.response.start', got {kind!r}")
            self.head = message
            return
        if kind != "http.response.body" or self.response_complete:
            raise RuntimeError(f"unexpected ASGI message {kind!r}")
        self._write(message.get("body", b""), message.get("more_body", False))

    # Writing

    def _write(self, body: bytes, more: bool) -> None:
        head = b"" if self.response_started else self._head()
        if self.scope["method"] == "HEAD":
            body = b""
            self._left = 0
        elif not self._chunked:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError(
                    f"answer body: {abs(self._left)} bytes "
                    f"{'more' if self._left < 0 else 'fewer'} than its Content-Length"
                )
        elif body or not more:
            body = as_chunk(body, more)
        self.response_started = True
        self.sent += len(body)
        transport = self._connection.transport
        if len(body) < JOIN_BELOW:
            transport.write(b"".join((head, body)))
        else:
            if head:
                transport.write(head)
            transport.write(body)
        if not more:
            self.response_complete = True
            if self._waiter is not None:
                self._wake()
            self._connection.answered(self)

    def _head(self) -> bytes:
        """Write the status line and the header block of the answer."""
        start = self.head
        assert start is not None  # `send` and `_fail` see to it
        status = self.status = start["status"]
        connection = self._connection
        if self.more_body and not self._worth_draining():
            self.keep_alive = False
        framing = False
        parts = [STATUS_LINES[status], connection.default_block]
        lines = 1 + connection.default_lines
        for name, value in start.get("headers", ()):
            lowered = NAMES.get(name) or checked_name(name)
            if lowered in _FRAMING:
                if lowered == b"connection":
                    if value.strip().lower() == b"close":
                        self.keep_alive = False
                    continue
                framing = True
                if lowered == b"content-length":
                    self._left = int(value)
                else:
                    self._chunked = True
            parts += (lowered, b": ", value, b"\r\n")
            lines += 1
        if not self.keep_alive or connection.last_answer:
            self.keep_alive = False
            parts.append(b"connection: close\r\n")
            lines += 1
        if not framing and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
            lines += 1
        block = b"".join(parts)
        if len(block) - len(block.translate(None, _CONTROLS)) != 2 * lines:
            raise ValueError("response header value: control characters are not allowed")
        return block + b"\r\n"

    def _worth_draining(self) -> bool:
        """True when little of the body is missing, so that reading it away keeps a connection."""
        if self.expects_continue or self.announced is None:
            return False
        return self.announced - self.received <= DRAIN_BELOW


_INTERNAL = Problem(500, ErrorCode.INTERNAL, "internal error")
