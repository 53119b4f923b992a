"""The HTTP edge: uvicorn's httptools protocol with limits, strictness and fewer steps a request.

What the stock protocol leaves open is closed here: how long and how large a request may be while
it arrives, how many connections there may be, which requests are refused because two readers
could understand them differently, and what happens when the client leaves or reads too slowly.
Times are not kept by one timer a request: one sweep looks at all connections a few times a
second, so a request costs one look at the clock.

`make_protocol(limits)` gives the class for `uvicorn.Config(http=...)`.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from time import perf_counter
from typing import Any, NamedTuple

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.errors import Problem
from aiaas_server.http.exchange import STATUS_LINES, Exchange
from aiaas_server.http.head import JSON_TYPE, NO_STORE, NOSNIFF, request_id_of
from aiaas_server.http.intake import DIRECT_ABOVE, READ_INTO, Intake
from aiaas_server.observe.logging import AccessRecord

KIB = 1024
MIB = 1024 * KIB
TURNED_AWAY = 50  # connections over the limit that are told so at one time


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one process accepts of its clients; durations in seconds, sizes in bytes."""

    request_line_bytes: int = 8 * KIB
    header_bytes: int = 16 * KIB
    headers: int = 100
    header_timeout: float = 10.0
    """From the connection or the first byte to the end of the header."""
    body_timeout: float = 10.0
    """For the body, plus one second for each `bytes_per_second` received."""
    bytes_per_second: int = 64 * KIB
    max_body_timeout: float = 300.0
    write_timeout: float = 10.0
    """For an answer the client does not read, plus one second for each `bytes_per_second`."""
    keep_alive: float = 60.0
    linger: float = 2.0
    """How long a refused client may go on sending before the connection is cut."""
    max_connections: int = 1000
    max_connections_per_address: int = 50
    """0 is no limit for one address."""
    max_body_bytes: int = 512 * MIB
    """The most any route accepts; the routes have their own limits below it."""
    pipeline: int = 100
    """Complete requests that may wait behind the one being answered."""


class Refused(Exception):
    """Raised inside the parser's callbacks: the request is not accepted."""

    def __init__(self, status: int, code: ErrorCode, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        when = ((b"retry-after", b"1"),) if status == 503 else ()
        self.problem = Problem(status, code, message, retryable, when)


def bad_request(message: str) -> Refused:
    """A 400 for what is not HTTP as this server reads it."""
    return Refused(400, ErrorCode.INVALID_REQUEST, message)


class Target(NamedTuple):
    """A request target taken apart."""

    path: str
    raw_path: bytes
    query: bytes


_escape = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_hidden = re.compile(rb"%(?:00|2[fF]|5[cC])").search


def read_target(url: bytes) -> Target:
    """Check a request target and take it apart.

    Raises:
        Refused: It does not start with a slash, or could be read as another path.
    """
    raw, _, query = url.partition(b"?")
    if not raw.startswith(b"/"):
        raise bad_request("request target: expected a path that starts with '/'")
    if b"#" in url:
        raise bad_request("request target: a fragment is never sent to a server")
    if b"\\" in raw or _hidden(raw):
        raise bad_request("request target: backslash, %00, %2F and %5C are not allowed in a path")
    if _escape(raw):
        raise bad_request("request target: '%' without two hexadecimal digits")
    path = urllib.parse.unquote_to_bytes(raw)
    if any(segment in (b".", b"..") for segment in path.split(b"/")):
        raise bad_request("request target: '.' and '..' are not allowed as path segments")
    return Target(path.decode("utf-8", "replace"), raw, query)


class Edge:
    """What the connections of one process share: limits, counts, the sweep."""

    def __init__(
        self, limits: EdgeLimits, on_access: Callable[[AccessRecord], None] | None = None
    ) -> None:
        self.limits = limits
        self.on_access = on_access
        self.draining = False
        """The process stops: requests whose head comes from now on are refused with 503."""
        self.leaving = False
        """Other processes go on serving: requests are answered, and their connections closed."""
        self.harmless_bytes = min(limits.request_line_bytes, limits.header_bytes)
        """What comes in one piece of at most this size needs no measuring of its parts."""
        self._open: set[EdgeProtocol] = set()
        self._turned_away: set[EdgeProtocol] = set()  # told so, not gone yet
        self._addresses: Counter[str] = Counter()
        self._targets: dict[bytes, Target] = {}
        self._swept: float | None = None
        shortest = min(
            limits.header_timeout, limits.body_timeout, limits.write_timeout,
            limits.keep_alive, limits.linger,
        )  # fmt: skip
        self._interval = min(0.5, max(0.01, shortest / 4))

    def target(self, url: bytes) -> Target:
        """`read_target` with a memory of the short ones seen lately."""
        found = self._targets.get(url)
        if found is None:
            found = read_target(url)
            if len(url) <= 256:
                if len(self._targets) >= 1024:
                    self._targets.clear()
                self._targets[url] = found
        return found

    def opened(self, connection: EdgeProtocol, address: str | None) -> bool:
        """Count a new connection; False when there are too many, in all or of its address."""
        if self._swept is None:
            self._swept = connection.loop.time()
            connection.loop.call_later(self._interval, self._sweep, connection.loop)
        limits = self.limits
        most = limits.max_connections_per_address
        of_address = self._addresses[address] if address is not None else 0
        if len(self._open) >= limits.max_connections or 0 < most <= of_address:
            self._turned_away.add(connection)
            return False
        self._open.add(connection)
        if address is not None:
            self._addresses[address] = of_address + 1
        return True

    def closed(self, connection: EdgeProtocol, address: str | None) -> None:
        """Forget a connection."""
        if connection in self._turned_away:
            self._turned_away.discard(connection)
            return
        self._open.discard(connection)
        if address is not None:
            self._addresses[address] -= 1
            if self._addresses[address] <= 0:
                del self._addresses[address]

    @property
    def overrun(self) -> bool:
        """True when so many connections are being turned away that no word is spent on more."""
        return len(self._turned_away) > TURNED_AWAY

    @property
    def connections(self) -> int:
        """Connections open now, without those turned away."""
        return len(self._open)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all connections; ends by itself when there are none."""
        now = loop.time()
        elapsed = now - (self._swept or now)
        for connection in (*self._open, *self._turned_away):
            connection.check_time(now, elapsed)
        self._swept = None
        if self._open or self._turned_away:
            self._swept = now
            loop.call_later(self._interval, self._sweep, loop)


WHILE_DRAINING = ("/v2/health/", "/metrics")  # paths answered while the process stops
IDLE, HEAD, BODY = 0, 1, 2  # what of a request is arriving: nothing, its head, its body

_METHODS = {
    name.encode(): name
    for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
}
_UPGRADING = frozenset({b"upgrade", b"http2-settings", b"connection"})
_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding"})
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_EXTENSIONS: dict[str, dict[object, object]] = {"aiaas.cancel_on_disconnect": {}}


class EdgeProtocol(HttpToolsProtocol):
    """One connection. Subclasses made by `make_protocol` carry the shared `edge`."""

    edge = Edge(EdgeLimits())

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = self.edge.limits
        self.default_block = b""
        self.default_lines = 0
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._phase = IDLE
        self._active: Exchange | None = None  # being answered
        self._latest: Exchange | None = None  # parsed last; the active one or behind it
        self._waiting: deque[Exchange] = deque()
        self._refusal: bytes | None = None  # told when what came before it is answered
        self._discarding = False  # further bytes are read away
        self._half_closed = False
        self._measured = False  # the head may be over its limit and is counted
        self._head_bytes = 0
        self._wire_bytes = 0
        self._since = 0.0  # start of the phase, of idleness
        self._cut_at: float | None = None  # when a closing connection is cut
        self._slow_since: float | None = None  # since when the client reads too slowly
        self._slow_bytes = 0

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection and refuse it where there are too many."""
        super().connection_made(transport)
        self._since = self.loop.time()
        address = self.client[0] if self.client else None
        if not self.edge.opened(self, address):
            if self.edge.overrun:
                self._discarding = True
                transport.abort()
                return
            message = "too many connections: close some, or try again later"
            refused = Refused(503, ErrorCode.TOO_MANY_CONNECTIONS, message, True)
            self._refuse(refused.problem)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what nobody waits for any more."""
        self.connections.discard(self)
        self.edge.closed(self, self.client[0] if self.client else None)
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
        if self._phase != IDLE:
            self._drop_unfinished()
        latest = self._latest
        if self._discarding or latest is None or self._active is None or self.scheme == "https":
            return False
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
        if ip_address(self.client[0].partition("%")[0]).is_loopback:
            with self._socket() as own:
                own.setblocking(False)
                try:
                    own.send(b"\0", socket.MSG_OOB)
                except OSError:
                    self.transport.abort()
                    return
        elif not active.response_started and active.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.loop.call_later(0.005, self._leave_if_gone)

    def _leave_if_gone(self) -> None:
        if self.transport.is_closing():
            return
        with self._socket() as own:
            poll = select.poll()
            poll.register(own, 0)
            gone = poll.poll(0)
        if gone:
            self.transport.abort()

    def _socket(self) -> socket.socket:
        """Duplicate the connection's socket: the transport's own may not be used directly."""
        return socket.socket(fileno=socket.dup(self.transport.get_extra_info("socket").fileno()))

    # Receiving

    def data_received(self, data: bytes) -> None:
        """Parse what came; callbacks refuse by raising `Refused`."""
        if self._discarding:
            return
        phase, latest, size = self._phase, self._latest, len(data)
        if phase == IDLE and data[0] < 33:
            data = _without_blank_line(data)
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

    def _unfinished(self, before: int, latest: Exchange | None, size: int) -> None:
        """Count what an incomplete request has cost so far, and start its clock."""
        same = latest is self._latest
        if self._phase == HEAD:
            if before == HEAD and same:
                self._head_bytes += size
            else:
                self._since = self.loop.time()
                self._head_bytes = size if same else 0
            if self._head_bytes - len(self.url) > self.limits.header_bytes + 32:
                self._refuse(_headers_too_large(self.limits).problem)
        elif before == BODY and same:
            self._wire_bytes += size
            received = self._latest.received if self._latest else 0
            if self._wire_bytes > 64 * KIB + 8 * received:
                self._refuse(bad_request("request body: too little in too many chunks").problem)
        else:
            self._since = self.loop.time()
            self._wire_bytes = 0

    def _refuse_parsed(self, error: Exception) -> None:
        cause = error.__context__
        if isinstance(cause, Refused):
            self._refuse(cause.problem)
        elif isinstance(cause, _Ignored):
            self._discarding = True
        elif isinstance(error, httptools.HttpParserCallbackError) and cause is not None:
            raise cause
        else:
            self._refuse(bad_request(f"malformed HTTP request: {str(error)[:200]}").problem)

    def _feed_without_upgrade(self, rest: bytes) -> None:
        """No other protocol is offered: read the request again as if it had not asked."""
        kept = [(name, value) for name, value in self.headers if name not in _UPGRADING]
        asked = b",".join(value for name, value in self.headers if name == b"connection")
        if b"close" in asked.lower().replace(b" ", b"").split(b","):
            kept.append((b"connection", b"close"))
        line = b"%b %b HTTP/1.1\r\n" % (self.parser.get_method(), self.url)
        self.parser = httptools.HttpRequestParser(self)
        self._phase = IDLE
        self.data_received(line + _block(kept) + b"\r\n" + rest)

    # The parser's callbacks

    def on_message_begin(self) -> None:
        """Start a request, unless the connection is to end before it."""
        latest = self._latest
        if latest is not None:
            if not latest.keep_alive:
                raise _Ignored
            if len(self._waiting) >= self.limits.pipeline:
                latest.keep_alive = False
                raise _Ignored
        self.url = b""
        self.headers = []
        self._phase = HEAD

    def on_url(self, url: bytes) -> None:
        """Collect the request target."""
        self.url = url = self.url + url if self.url else url
        if len(url) > self.limits.request_line_bytes:
            raise _uri_too_long(self.limits)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are refused, nothing here reads them."""
        if self._phase == BODY:
            raise bad_request("request body: trailers are not accepted")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Check the head and hand the request to the application."""
        parser = self.parser
        name = parser.get_method()
        method = _METHODS.get(name)
        if method is None:
            raise bad_request("request method: not one of HTTP's common ones")
        if parser.should_upgrade():
            return
        headers = self.headers
        fields = dict(headers)
        version = parser.get_http_version()
        announced = self._check_head(name, version, fields)
        target = self.edge.target(self.url)
        if self.edge.draining and not target.path.startswith(WHILE_DRAINING):
            raise Refused(503, ErrorCode.DRAINING, "the server is stopping", True)
        expects = version == "1.1" and fields.get(b"expect", b"").lower() == b"100-continue"
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": self.root_path,
            "path": self.root_path + target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "headers": headers,
            "state": self.app_state.copy(),
            "extensions": _EXTENSIONS,
        }
        exchange = Exchange(
            self,
            scope,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            expects_continue=expects,
            announced=announced,
        )
        if announced is not None and announced > DIRECT_ABOVE:
            scope["extensions"] = {**_EXTENSIONS, READ_INTO: self.fill}
            self.flow.pause_reading()  # until the application has a place for it
        self._phase = BODY
        self._latest = exchange
        if self._active is None:
            self._start(exchange)
        else:
            self.flow.pause_reading()
            self._waiting.append(exchange)

    def _check_head(self, method: bytes, version: str, fields: dict[bytes, bytes]) -> int | None:
        """Refuse what two readers could understand differently; return the announced length."""
        headers, limits = self.headers, self.limits
        if version not in ("1.1", "1.0"):
            raise bad_request("HTTP version: only 1.1 and 1.0 are spoken here")
        if self._measured:
            if len(method) + len(self.url) + 10 > limits.request_line_bytes:
                raise _uri_too_long(limits)
            if sum(len(name) + len(value) + 4 for name, value in headers) > limits.header_bytes:
                raise _headers_too_large(limits)
        if len(headers) > limits.headers:
            raise _headers_too_large(limits)
        if len(fields) != len(headers):
            names = [name for name, _ in headers if name in _SINGLE]
            if len(names) != len(set(names)):
                raise bad_request("Host, Content-Length and Transfer-Encoding may come only once")
        if b"host" not in fields and version == "1.1":
            raise bad_request("Host: missing")
        if b"transfer-encoding" in fields:
            coding = fields[b"transfer-encoding"].strip(b" \t").lower()
            if coding != b"chunked" or version == "1.0":
                raise bad_request("Transfer-Encoding: only 'chunked' over HTTP/1.1 is accepted")
            if b"content-length" in fields:
                raise bad_request("Content-Length and Transfer-Encoding exclude one another")
            return None
        announced = int(fields.get(b"content-length", b"0"))
        if announced > limits.max_body_bytes:
            raise _too_large(limits)
        return announced

    def _start(self, exchange: Exchange) -> None:
        """Run the application on a request."""
        headers = self.server_state.default_headers
        if headers is not self._default_headers:
            self._default_headers = headers
            self.default_block = _block(headers)
            self.default_lines = len(headers)
        self._active = exchange
        if self.edge.on_access is not None:
            exchange.started_at = perf_counter()  # the loop counts in milliseconds
        task = self.loop.create_task(exchange.run(self.app, self.tasks))
        exchange.task = task
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body on."""
        exchange = self._latest
        if exchange is None:
            return
        if exchange.feed(body):
            self.flow.pause_reading()
        if exchange.announced is None and exchange.received > self.limits.max_body_bytes:
            raise _too_large(self.limits)

    def on_message_complete(self) -> None:
        """End the request; the connection waits for the answer now."""
        if self._phase != BODY:
            return  # an upgrade is pending
        self._phase = IDLE
        exchange = self._latest
        if exchange is not None:
            exchange.end_of_body()
            if exchange.response_complete:  # answered early, and the rest read away
                self._since = self.loop.time()

    async def fill(self, view: memoryview) -> int:
        """`READ_INTO` of the request being answered.

        The connection's, not the exchange's, whose scope holds it: a circle would stay behind.
        """
        active = self._active
        return 0 if active is None else await active.read_into(view)

    def read_into(self, view: memoryview) -> Intake:
        """Put the rest of the body into `view`, past the parser."""
        intake = Intake(self, view)
        self._change_protocol(intake)
        self.flow.resume_reading()
        return intake

    @property
    def wants_body(self) -> bool:
        """False when what comes is only read away."""
        return not self._discarding

    def took(self, count: int) -> None:
        """Take note that so many bytes of the body went into the application's memory."""
        if self._latest is not None:
            self._latest.took(count)

    def body_complete(self) -> None:
        """Go on with a new parser: the old one still waits for the body."""
        self.parser = httptools.HttpRequestParser(self)
        self._change_protocol(self)
        if not self._discarding:
            self.on_message_complete()

    def _change_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let `protocol` have what is read next; the loops change over between two reads only."""
        self.transport.pause_reading()
        self.transport.set_protocol(protocol)
        if not self.flow.read_paused:
            self.transport.resume_reading()

    # Answering

    @property
    def write_paused(self) -> bool:
        """True while the client reads too slowly for more to be written."""
        return self.flow.write_paused

    @property
    def last_answer(self) -> bool:
        """True when the process stops and nothing waits behind the answer being written."""
        return (self.edge.draining or self.edge.leaving) and not self._waiting

    async def writable(self) -> None:
        """Wait until more may be written, or the connection is lost."""
        await self.flow.drain()

    def read_on(self) -> None:
        """Read further, unless complete requests already wait."""
        if not self._waiting:
            self.flow.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Go on with the next request, or wait for it."""
        self.server_state.total_requests += 1
        if self.edge.on_access is not None:
            self._tell_access(exchange)
        if exchange is not self._active:
            return
        self._active = None
        if self.transport.is_closing():
            return
        if not exchange.keep_alive:
            self._waiting.clear()
            self._end()
        elif self._waiting:
            self._start(self._waiting.popleft())
        elif self._refusal is not None:
            self._tell_refusal(self._refusal)
        else:
            if self._phase == IDLE:
                self._since = self.loop.time()
            self.flow.resume_reading()

    def _tell_access(self, exchange: Exchange) -> None:
        scope, tell = exchange.scope, self.edge.on_access
        if tell is not None:
            tell(
                AccessRecord(
                    scope["method"],
                    scope["raw_path"].decode("ascii"),
                    exchange.status,
                    perf_counter() - exchange.started_at,
                    exchange.sent,
                    exchange.received,
                    exchange.answer_header(b"x-request-id").decode("latin-1"),
                    self.client[0] if self.client else "",
                )
            )

    def _refuse(self, problem: Problem) -> None:
        """Answer with an error after all that came before it, then end the connection."""
        self._discarding = True
        answer = self._written(problem)
        unfinished = self._latest if self._phase == BODY else None
        if unfinished is not None and unfinished.response_started:
            answer = b""
        self._drop_unfinished()
        if self._active is not None:
            self._refusal = answer
        else:
            self._tell_refusal(answer)

    def _tell_refusal(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
        self._end()

    def _written(self, problem: Problem) -> bytes:
        """Write a whole answer; its id is the request's, if so much of it has come."""
        request_id = request_id_of(dict(self.headers) if self._phase != IDLE else {})
        body = problem.body(request_id.decode("ascii"))
        lines = [
            *self.server_state.default_headers,
            JSON_TYPE,
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id),
            NOSNIFF,
            NO_STORE,
            *problem.headers,
            (b"connection", b"close"),
        ]
        return b"%b%b\r\n%b" % (STATUS_LINES[problem.status], _block(lines), body)

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
            allowed = limits.write_timeout + self._slow_bytes / limits.bytes_per_second
            if now - self._slow_since > allowed:
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
                self._refuse(_late("request header", limits.header_timeout))
        elif self._phase == BODY:
            allowed = self._body_allowance()
            if now - self._since > allowed:
                self._refuse(_late("request body", allowed))
        elif self._active is None:
            used = self._latest is not None
            if now - self._since > (limits.keep_alive if used else limits.header_timeout):
                self._end()

    def _body_allowance(self) -> float:
        """Seconds the body may take: longer the more of it came, never past the deadline."""
        exchange, limits = self._latest, self.limits
        received = exchange.received if exchange is not None else 0
        allowed = limits.body_timeout + received / limits.bytes_per_second
        text = dict(self.headers).get(b"x-request-timeout-ms", b"")
        if text.isdigit() and len(text) < 10:
            allowed = min(allowed, int(text) / 1000)
        return min(allowed, limits.max_body_timeout)

    @property
    def busy(self) -> bool:
        """True while a request arrives or waits for its answer."""
        return self._active is not None or self._phase != IDLE

    def shutdown(self) -> None:
        """Called when the process stops: idle connections end, the others after their answer."""
        if not self.busy and not self._discarding:
            self._end()

    def timeout_keep_alive_handler(self) -> None:
        """Unused: the sweep keeps this time too."""


class _Ignored(Exception):
    """Raised inside the parser: what follows is not read, the connection ends before it."""


def _without_blank_line(data: bytes) -> bytes:
    """Skip the one empty line that old clients send after a body; leave the rest to fail."""
    return data[2:] if data.startswith(b"\r\n") else b"\0" + data


def _block(lines: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % line for line in lines])


def _uri_too_long(limits: EdgeLimits) -> Refused:
    message = f"request line: expected at most {limits.request_line_bytes} bytes"
    return Refused(414, ErrorCode.URI_TOO_LONG, message)


def _headers_too_large(limits: EdgeLimits) -> Refused:
    message = (
        f"request headers: expected at most {limits.headers} "
        f"with {limits.header_bytes} bytes together"
    )
    return Refused(431, ErrorCode.HEADERS_TOO_LARGE, message)


def _too_large(limits: EdgeLimits) -> Refused:
    message = f"request body: expected at most {limits.max_body_bytes} bytes"
    return Refused(413, ErrorCode.PAYLOAD_TOO_LARGE, message)


def _late(what: str, seconds: float) -> Problem:
    message = f"{what}: not received within {seconds:g} seconds"
    return Problem(408, ErrorCode.REQUEST_TIMEOUT, message, True)


def make_protocol(
    limits: EdgeLimits | None = None,
    *,
    on_access: Callable[[AccessRecord], None] | None = None,
) -> type[EdgeProtocol]:
    """Make the protocol class of one server, for `uvicorn.Config(http=...)`.

    Args:
        limits: What is accepted; the defaults if not given.
        on_access: Called on the event loop with every answer written; must not block.
    """
    shared = Edge(limits or EdgeLimits(), on_access)
    return type("BoundEdgeProtocol", (EdgeProtocol,), {"edge": shared})
