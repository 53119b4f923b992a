"""The HTTP edge: one connection, its requests one after another, and their answers.

This is uvicorn's httptools protocol with limits and strictness while a request comes: which
requests are refused because two readers could understand them differently, and how large one may
be while it arrives. How a connection ends is told in `lifetime`.

`make_protocol(limits)` gives the class for `uvicorn.Config(http=...)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.edge.edge import Edge
from aiaas_server.http.edge.heads import END, LaneHead
from aiaas_server.http.edge.intake import DIRECT_ABOVE
from aiaas_server.http.edge.lane import LaneCall, Outbox
from aiaas_server.http.edge.lifetime import (
    BODY,
    HEAD,
    IDLE,
    AnyExchange,
    ConnectionLife,
    Ignored,
)
from aiaas_server.http.edge.limits import (
    EdgeLimits,
    body_too_large,
    check_framing,
    check_sizes,
    malformed,
    stopping,
    uri_too_long,
)
from aiaas_server.http.edge.lines import header_lines
from aiaas_server.http.edge.scope import EXTENSIONS, exchange_of
from aiaas_server.http.edge.target import Target
from aiaas_server.http.hot import HotRoutes
from aiaas_server.http.incoming import CONTEXT, READ_INTO, Headers
from aiaas_server.observe.logging import AccessRecord

WHILE_DRAINING = ("/v2/health/", "/metrics")  # paths answered while the process stops

_METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
}
_VERSIONS = frozenset({"1.1", "1.0"})


class EdgeProtocol(ConnectionLife):
    """One connection. Subclasses made by `make_protocol` carry the shared `edge`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.default_block = b""
        self.default_lines = 0
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._piece = b""  # what came last, while it begins with the request being read
        self._measured = False  # the head may be over its limit and is counted

    # Receiving

    def data_received(self, data: bytes) -> None:
        """Parse what came; callbacks refuse by raising `Refused`."""
        if self._discarding:
            return
        phase, latest, size = self._phase, self._latest, len(data)
        if phase == IDLE:
            if self._active is None and self._is_known(data):
                return
            if data[0] < 33:
                data = _without_blank_line(data)
            self._piece = data
        self._measured = phase == HEAD or size > self.edge.harmless_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed_without_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            self._refuse_parsed(error)
            return
        if self._phase != IDLE:
            self._unfinished(phase, latest, size)

    def _is_known(self, data: bytes) -> bool:
        """Answer a hot request whose head came before; False where it is none.

        The parser sees nothing of it: what it would say and what would be checked is known.
        """
        end = data.find(END) + 4
        edge = self.edge
        head = edge.heads.recall(data[:end])
        if head is None or len(data) - end != head.length or edge.draining:
            return False
        call = LaneCall(self, head)
        call.received = head.length
        self._latest = self._active = call
        self._renew_default_headers()
        call.start_with(data[end:])
        return True

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """Start a request, unless the connection is to end before it."""
        latest = self._latest
        if latest is not None:
            if not latest.keep_alive:
                raise Ignored
            if len(self._waiting) >= self.limits.pipeline:
                latest.keep_alive = False
                raise Ignored
        self.url = b""
        self.headers = []
        self._phase = HEAD

    def on_url(self, url: bytes) -> None:
        """Collect the request target."""
        self.url = url = self.url + url if self.url else url
        if len(url) > self.limits.request_line_bytes:
            raise uri_too_long(self.limits)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are refused, nothing here reads them."""
        if self._phase == BODY:
            raise malformed("request body: trailers are not accepted")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the head and hand the request to the application."""
        parser = self.parser
        name = parser.get_method()
        method = _METHODS.get(name)
        if method is None:
            raise malformed("request method: not one of HTTP's common ones")
        if parser.should_upgrade():
            return
        headers, edge = self.headers, self.edge
        fields = dict(headers)
        version = parser.get_http_version()
        if self._measured:
            check_sizes(self.limits, name, self.url, headers)
        if (
            version not in _VERSIONS
            or len(headers) > self.limits.headers
            or len(fields) != len(headers)
            or b"transfer-encoding" in fields
        ):
            check_framing(self.limits, version, headers, fields)
        announced = None
        if b"transfer-encoding" not in fields:
            announced = int(fields.get(b"content-length", b"0"))
            if announced > self.limits.max_body_bytes:
                raise body_too_large(self.limits)
        host = fields.get(b"host")
        if host is not None:
            if host not in edge.hosts:
                edge.check_host(host)
        elif version == "1.1":
            raise malformed("Host: missing")
        target = edge.targets.get(self.url) or edge.read_target(self.url)
        if edge.draining and not target.path.startswith(WHILE_DRAINING):
            raise stopping()
        expects = version == "1.1" and fields.get(b"expect", b"").lower() == b"100-continue"
        self._phase = BODY
        keep_alive = version != "1.0" and parser.should_keep_alive()
        is_plain = len(fields) == len(headers) and b"content-encoding" not in fields
        if (
            is_plain
            and keep_alive
            and not expects
            and self._open_hot(method, target, fields, announced)
        ):
            return
        exchange = exchange_of(self, method, version, target, headers, announced)
        exchange.keep_alive = keep_alive
        exchange.expects_continue = expects
        if announced is not None and announced > DIRECT_ABOVE:
            exchange.scope["extensions"] = {**EXTENSIONS, READ_INTO: self.fill}
            self.flow.pause_reading()  # until the application has a place for it
        self._enqueue(exchange)

    def _open_hot(
        self, method: str, target: Target, fields: Headers, announced: int | None
    ) -> bool:
        """Have a request answered past ASGI if that can be; whether it can."""
        if announced is None or announced > self.edge.longest_hot or self.root_path:
            return False
        endpoint = self.edge.hot_endpoint(method, self.url, target)
        if endpoint is None or (announced and method == "GET"):
            return False
        self._enqueue(LaneCall(self, LaneHead(method, target, fields, announced, endpoint)))
        return True

    def _enqueue(self, exchange: AnyExchange) -> None:
        """It is the turn of a request, or it waits for the one before it."""
        self._latest = exchange
        if self._active is None:
            self._start(exchange)
        else:
            self.flow.pause_reading()
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body on."""
        exchange = self._latest
        if exchange is None:
            return
        if exchange.feed(body):
            self.flow.pause_reading()
        if exchange.announced is None and exchange.received > self.limits.max_body_bytes:
            raise body_too_large(self.limits)

    def on_message_complete(self) -> None:
        """End the request; the connection waits for the answer now."""
        if self._phase != BODY:
            return  # an upgrade is pending
        self._phase = IDLE
        exchange = self._latest
        if isinstance(exchange, LaneCall):
            self._learn(exchange.head)
        self._piece = b""
        if exchange is not None:
            exchange.end_of_body()
            if exchange.response_complete:  # answered early, and the rest read away
                self._since = self.loop.time()

    # Answering

    def _start(self, exchange: AnyExchange) -> None:
        """It is the turn of a request."""
        self._renew_default_headers()
        self._active = exchange
        exchange.start()

    def _start_next(self, exchange: AnyExchange) -> None:
        if exchange is self._active:  # neither cut nor abandoned meanwhile
            self._start(exchange)
            if isinstance(exchange, LaneCall):
                exchange.wait_for_body()

    def _renew_default_headers(self) -> None:
        headers = self.server_state.default_headers
        if headers is not self._default_headers:
            self._default_headers = headers
            self.default_block = header_lines(headers)
            self.default_lines = len(headers)

    def _learn(self, head: LaneHead) -> None:
        """Remember the head of a hot request that has come in one piece with its body."""
        piece = self._piece
        end = piece.find(END) + 4
        if piece and len(piece) == end + head.length:
            self.edge.heads.learn(piece[:end], head)

    def pass_on(self, call: LaneCall, body: bytes) -> None:
        """Have the application answer what is not hot after all."""
        head = call.head
        headers = [*head.headers.items()]
        exchange = exchange_of(self, head.method, "1.1", head.target, headers, head.length)
        exchange.keep_alive = call.keep_alive
        if call.is_let_in:
            exchange.scope[CONTEXT] = call.context
        exchange.feed(body)
        exchange.end_of_body()
        if self._latest is call:
            self._latest = exchange
        self._start(exchange)

    @property
    def last_answer(self) -> bool:
        """True when the process stops and nothing waits behind the answer being written."""
        return (self.edge.draining or self.edge.leaving) and not self._waiting

    def read_on(self) -> None:
        """Read further, unless complete requests already wait."""
        if not self._waiting:
            self.flow.resume_reading()

    def failed(self, code: ErrorCode) -> None:
        """Count an error that the application did not answer with."""
        self.edge.refused(code)

    def answered(self, exchange: AnyExchange) -> None:
        """Go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        if self.edge.on_access is not None:
            self.edge.on_access(exchange.record(self.client[0] if self.client else ""))
        if exchange is not self._active:
            return
        self._active = None
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            self._waiting.clear()
            self._end()
        elif self._waiting:
            self._active = self._waiting.popleft()
            # Not from within the answer: so many may wait that the stack would not hold them.
            self.loop.call_soon(self._start_next, self._active, context=self.edge.context)
        elif self._refusal is not None:
            self._tell_refusal(*self._refusal)
        else:
            if self._phase == IDLE:
                self._since = self.loop.time()
            self.flow.resume_reading()


def _without_blank_line(data: bytes) -> bytes:
    """Skip the one empty line that old clients send after a body; leave the rest to fail."""
    return data[2:] if data.startswith(b"\r\n") else b"\0" + data


def make_protocol(
    limits: EdgeLimits | None = None,
    *,
    on_access: Callable[[AccessRecord], None] | None = None,
    on_refusal: Callable[[ErrorCode], None] | None = None,
    hot: HotRoutes | None = None,
) -> type[EdgeProtocol]:
    """Make the protocol class of one server, for `uvicorn.Config(http=...)`.

    Args:
        limits: What is accepted; the defaults if not given.
        on_access: Called on the event loop with every answer written; must not block.
        on_refusal: Called with the code of every error that the application has not seen.
        hot: Requests of the application that are answered past ASGI.
    """
    shared = Edge(limits or EdgeLimits(), on_access, on_refusal, hot)
    return type("BoundEdgeProtocol", (EdgeProtocol,), {"edge": shared, "outbox": Outbox()})
