"""How long a connection may last, and how it ends.

What uvicorn's protocol leaves open is closed here: how long a request may take to arrive, how many
connections there may be, what an unfinished request may cost, and what happens when the client
leaves or reads too slowly.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.edge.edge import Edge
from aiaas_server.http.edge.exchange import Exchange
from aiaas_server.http.edge.intake import BodyIntake
from aiaas_server.http.edge.lane import LaneCall, Outbox
from aiaas_server.http.edge.limits import (
    EdgeLimits,
    Headers,
    Refused,
    headers_too_large,
    malformed,
    too_late,
    too_many_connections,
)
from aiaas_server.http.edge.lines import header_lines
from aiaas_server.http.edge.presence import is_gone, is_loopback, poke
from aiaas_server.http.edge.refusals import whole_answer
from aiaas_server.http.errors import Problem
from aiaas_server.http.gate import request_id_of
from aiaas_server.settings import KIB

_UPGRADING = frozenset({b"upgrade", b"http2-settings", b"connection"})

IDLE, HEAD, BODY = 0, 1, 2  # what of a request is arriving: nothing, its head, its body


AnyExchange = Exchange | LaneCall


class Ignored(Exception):
    """Raised inside the parser: what follows is not read, the connection ends before it."""


class ConnectionLife(BodyIntake):
    """The connection as a whole; `EdgeProtocol` reads requests from it and answers them."""

    edge = Edge(EdgeLimits())
    outbox = Outbox()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = self.edge.limits
        self._phase = IDLE
        self._since = 0.0  # start of the phase, of idleness
        self._active: AnyExchange | None = None  # being answered
        self._latest: AnyExchange | None = None  # parsed last; the active one or behind it
        self._waiting: deque[AnyExchange] = deque()
        self._head_bytes = 0
        self._wire_bytes = 0
        self._refusal: tuple[bytes, ErrorCode] | None = None  # told after what came before it
        self._half_closed = False
        self._counted: str | None = None  # as what address
        self._cut_at: float | None = None  # when a closing connection is cut
        self._slow_since: float | None = None  # since when the client reads too slowly
        self._slow_bytes = 0

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection and refuse it where there are too many."""
        super().connection_made(transport)
        self._since = self.loop.time()
        if self.client:
            self._counted = self.limits.counted_as(self.client[0])
        if not self.edge.opened(self, self._counted):
            if self.edge.overrun:
                self._discarding = True
                transport.abort()
                return
            self._refuse(too_many_connections().problem)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what nobody waits for any more."""
        self.connections.discard(self)
        self.edge.closed(self, self._counted)
        self._discarding = True
        if self._active is not None:
            self._active.abandon(self.tasks)
            self._active = None
        self._waiting.clear()
        self._latest = None
        self.flow.resume_writing()
        del self.parser  # ends the circle of references between the two

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio allows it, upstream: None
        """Keep the way back open while complete requests wait for their answers."""
        self.outbox.flush()
        if self._phase != IDLE:
            self._drop_unfinished()
        latest = self._latest
        if latest is None or self._active is None or self.scheme == "https":
            return False
        if self._refusal is None:  # which ends the connection by itself
            latest.keep_alive = False
        self._half_closed = True
        self._probe()
        return True

    def _probe(self) -> None:
        """Find out whether the client only stopped sending or is gone altogether.

        Both look the same until something is sent. On loopback that is one byte out of band,
        which no reader of the stream ever sees; elsewhere a second `100 Continue`, which every
        HTTP/1.1 client skips. A client that is gone answers with a reset.
        """
        active = self._active
        if self.client is None or active is None:
            self._leave_if_gone()  # a Unix socket tells without being asked
            return
        if is_loopback(self.client[0]):
            if not poke(self.transport):
                self.transport.abort()
                return
        elif not active.response_started and active.http_version == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.loop.call_later(0.005, self._leave_if_gone)

    def _leave_if_gone(self) -> None:
        if not self.transport.is_closing() and is_gone(self.transport):
            self.transport.abort()

    # Refusing

    def _unfinished(self, before: int, latest: AnyExchange | None, size: int) -> None:
        """Count what an incomplete request has cost so far, and start its clock."""
        same = latest is self._latest
        if self._phase == HEAD:
            if before == HEAD and same:
                self._head_bytes += size
            else:
                self._since = self.loop.time()
                self._head_bytes = size if same else 0
            if self._head_bytes - len(self.url) > self.limits.header_bytes + 32:
                self._refuse(headers_too_large(self.limits).problem)
        elif before == BODY and same:
            self._wire_bytes += size
            received = self._latest.received if self._latest else 0
            if self._wire_bytes > 64 * KIB + 8 * received:
                self._refuse(malformed("request body: too little in too many chunks").problem)
        else:
            self._since = self.loop.time()
            self._wire_bytes = 0
            if isinstance(self._latest, LaneCall):
                self._latest.wait_for_body()

    def _refuse_parsed(self, error: Exception) -> None:
        cause = error.__context__
        if isinstance(cause, Refused):
            self._refuse(cause.problem)
        elif isinstance(cause, Ignored):
            self._discarding = True
        elif isinstance(error, httptools.HttpParserCallbackError) and cause is not None:
            raise cause
        else:
            self._refuse(malformed(f"malformed HTTP request: {str(error)[:200]}").problem)

    def _refuse(self, problem: Problem) -> None:
        """Answer with an error after all that came before it, then end the connection."""
        self._discarding = True
        # Its id is the request's, if so much of it has come.
        request_id = request_id_of(dict(self.headers) if self._phase != IDLE else {})
        answer = whole_answer(problem, request_id, self.server_state.default_headers)
        unfinished = self._latest if self._phase == BODY else None
        if unfinished is not None and unfinished.response_started:
            answer = b""
        self._drop_unfinished()
        if self._active is not None:
            self._refusal = answer, problem.code
        else:
            self._tell_refusal(answer, problem.code)

    def _tell_refusal(self, answer: bytes, code: ErrorCode) -> None:
        self.outbox.flush()
        if answer and not self.transport.is_closing():
            self.transport.write(answer)
            self.edge.refused(code)
        self._end()

    def _drop_unfinished(self) -> None:
        """Forget the request of which only a part has come."""
        exchange = self._latest
        if self._phase == BODY and exchange is not None:
            if exchange is self._active:
                self._active = None
                exchange.abandon(self.tasks)
            elif self._waiting and self._waiting[-1] is exchange:
                self._waiting.pop()
            self._latest = self._waiting[-1] if self._waiting else self._active
        self._phase = IDLE

    def _end(self) -> None:
        """Close without losing the answer: a reset for unread bytes would take it away."""
        if self.transport.is_closing():
            return
        self.outbox.flush()
        unread = self._discarding or self._phase != IDLE
        self._discarding = True
        self._cut_at = self.loop.time() + self.limits.linger
        if not unread or self._half_closed:
            self.transport.close()
            self._cut_at += self.limits.write_timeout
            return
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """No other protocol is offered: read the request again as if it had not asked."""
        head = _without_upgrade(self.parser.get_method(), self.url, self.headers)
        self._renew_parser()
        self._phase = IDLE
        self.data_received(head + rest)

    # Large bodies

    async def fill(self, view: memoryview) -> int:
        """`READ_INTO` of the request being answered.

        The connection's, not the exchange's, whose scope holds it: a circle would stay behind.
        """
        active = self._active
        return await active.read_into(view) if isinstance(active, Exchange) else 0

    def took(self, count: int) -> None:
        """Take note that so many bytes of the body went into the application's memory."""
        if self._latest is not None:
            self._latest.took(count)

    # Time

    def pause_writing(self) -> None:
        """Note since when the client does not keep up."""
        super().pause_writing()
        self._slow_since = self.loop.time()
        self._slow_bytes = 0

    def resume_writing(self) -> None:
        """The client keeps up again."""
        super().resume_writing()
        self._slow_since = None
        if self._cut_at is not None:  # what is left now is little
            self._cut_at = self.loop.time() + self.limits.write_timeout

    def check_time(self, now: float, elapsed: float) -> None:
        """Called by the sweep: act on whatever has taken too long."""
        limits = self.limits
        if self._slow_since is not None:
            self._slow_bytes = max(self._slow_bytes, self.transport.get_write_buffer_size())
            if now - self._slow_since > limits.write_allowance(self._slow_bytes):
                self.transport.abort()
        elif self._cut_at is not None:
            if now >= self._cut_at:
                self.transport.abort()
        elif self._half_closed:
            self._leave_if_gone()
        elif self.flow.read_paused:
            self._since += elapsed  # the application is slow, not the client
            self._leave_if_gone()  # which is not seen while nothing is read
        elif self._phase == HEAD:
            if now - self._since > limits.header_timeout:
                self._refuse(too_late("request header", limits.header_timeout).problem)
        elif self._phase == BODY:
            received = self._latest.received if self._latest is not None else 0
            allowed = limits.body_allowance(received, dict(self.headers))
            if now - self._since > allowed:
                self._refuse(too_late("request body", allowed).problem)
        elif self._active is None:
            used = self._latest is not None
            if now - self._since > (limits.keep_alive if used else limits.header_timeout):
                self._end()

    @property
    def busy(self) -> bool:
        """True while a request arrives or waits for its answer."""
        return self._active is not None or self._phase != IDLE

    def shutdown(self) -> None:
        """Called when the process stops: idle connections end, the others after their answer."""
        self.edge.leaving = True  # whoever serves: an answer under way is the last one
        if not self.busy and not self._discarding:
            self._end()

    def cut(self) -> bool:
        """The time to drain is over; whether that came too early for a request."""
        if self._active is None:
            return False
        self._active.cut()
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Unused: the sweep keeps this time too."""


def _without_upgrade(method: bytes, url: bytes, headers: Headers) -> bytes:
    """Write a head again as if it had not asked for another protocol, which none is offered."""
    kept = [(name, value) for name, value in headers if name not in _UPGRADING]
    asked = b",".join(value for name, value in headers if name == b"connection")
    if b"close" in asked.lower().replace(b" ", b"").split(b","):
        kept.append((b"connection", b"close"))
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, url, header_lines(kept))
