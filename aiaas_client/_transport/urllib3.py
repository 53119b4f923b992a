"""`Client(backend="urllib3")`: the same calls at about half the CPU; the one home of urllib3.

Its pools keep the connections and its connections speak TLS. What goes over them is written and
read in `http1`, so that nothing is retried, redirected or decoded that the SDK does not know of.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from types import TracebackType
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ClosedPoolError, HTTPError
from urllib3.util import parse_url

from aiaas_client import _errors as errors
from aiaas_client._api.call import Response
from aiaas_client._config import Limits
from aiaas_client._transport.connecting import open_socket
from aiaas_client._transport.failures import broken, cannot_connect, not_http, timed_out
from aiaas_client._transport.http1 import Answer, Incoming, head_of, wait
from aiaas_client._transport.wire import (
    SMALL_BODY_BYTES,
    AnswerReader,
    OpenAnswer,
    Pieces,
    WireExchange,
    WireRequest,
)

_DEFAULT_PORTS = {"http": 80, "https": 443}
_FOREIGN = (HTTPException, OSError, ValueError, HTTPError)
_NO_TIME = 1e-3  # seconds for a socket: to it, 0 is "do not wait"


class _Timely:
    """What a connection of ours has beside urllib3's.

    Attributes:
        until: `time.monotonic()` by which it is to be open, its handshake included.
        incoming: What it receives, while it is open.
    """

    until = 0.0
    incoming: Incoming

    def _open(self, host: str, port: int) -> socket.socket:
        connected = open_socket(host, port, self.until)
        connected.settimeout(max(self.until - time.monotonic(), _NO_TIME))
        return connected


class _Plain(_Timely, HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return self._open(self._dns_host, self.port)


class _Secure(_Timely, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return self._open(self._dns_host, self.port)


Connection = _Plain | _Secure


class _Idle:
    """The idle connections of an endpoint, in place of a pool's queue; the last one in goes first.

    Every step is one that Python makes whole, without a lock: one that a thread held at a fork
    would be held for ever in the child, whose end closes these connections.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self.expiry = 0.0  # seconds
        self._kept: deque[tuple[float, Connection]] = deque()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, block: bool = True, timeout: float | None = None) -> Connection:
        """Give the one that was used last.

        Raises:
            queue.Empty: there is none.
        """
        try:
            while self._kept[0][0] + self.expiry < time.monotonic():
                self.drop()
            return self._kept.pop()[1]
        except IndexError:
            raise queue.Empty from None

    def put(
        self, connection: Connection | None, block: bool = True, timeout: float | None = None
    ) -> None:
        """Keep a connection; None, urllib3's sign for a place without one, is nothing to keep."""
        if connection is not None:
            self._kept.append((time.monotonic(), connection))

    def oldest(self) -> float:
        """When the one that has been idle longest was used; infinity without any."""
        try:
            return self._kept[0][0]
        except IndexError:
            return float("inf")

    def drop(self) -> None:
        """Close the one that has been idle longest."""
        with contextlib.suppress(IndexError):
            self._kept.popleft()[1].close()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls: Any = _Plain
    QueueCls = _Idle  # type: ignore[assignment]  # what is called of a queue, it has


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls: Any = _Secure
    QueueCls = _Idle  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A base URL as it is called: its pool, the path before all paths, the value of Host."""

    pool: HTTPConnectionPool
    idle: _Idle
    prefix: bytes
    host: bytes

    def take(self) -> Connection:
        """Give a connection, which may have to be opened."""
        connection: Any = self.pool._get_conn()
        return connection  # type: ignore[no-any-return]  # of `ConnectionCls`

    def keep(self, connection: Any) -> None:
        """Keep an open connection for the next exchange."""
        self.pool._put_conn(connection)


class Urllib3Transport:
    """Keeps connections of its own, one of urllib3's pools for each endpoint."""

    def __init__(
        self, ssl_context: Callable[[], ssl.SSLContext], limits: Limits, max_answer_bytes: int
    ) -> None:
        self._ssl_context = ssl_context
        self._limits = limits
        self._max_answer_bytes = max_answer_bytes
        self._places = threading.Semaphore(limits.max_connections)
        self._endpoints: dict[str, _Endpoint] = {}
        self._busy: set[Connection] = set()

    def send(self, request: WireRequest) -> Response:
        """Send one attempt and read its whole answer."""
        exchange = request.exchange = WireExchange(request.deadline)
        with _Translating(request, exchange):
            held = self._hold(request, exchange)
            try:
                answer = held.begin()
                reader = AnswerReader(answer.status, answer.fields, self._max_answer_bytes)
                for piece in answer.pieces():
                    reader.feed(piece)
            finally:
                held.close()
            return reader.finish()

    def stream(self, request: WireRequest) -> OpenAnswer:
        """Send one attempt and read the head of its answer."""
        exchange = request.exchange = WireExchange(request.deadline)
        with _Translating(request, exchange):
            held = self._hold(request, exchange)
            try:
                answer = held.begin()
            except BaseException:
                held.close()
                raise
        pieces = _steps(answer.pieces(), request, exchange)
        return OpenAnswer(answer.status, answer.fields, pieces, held.close)

    def _hold(self, request: WireRequest, exchange: WireExchange) -> _Held:
        """Take a place and a connection, which is open then."""
        self._take_place(request, exchange)
        try:
            endpoint = self._endpoints.get(request.base_url) or self._add(request.base_url)
            connection = endpoint.take()
            held = _Held(self, endpoint, connection, request, exchange)
            self._busy.add(connection)
        except BaseException:
            self._places.release()
            raise
        try:
            if connection.sock is None:
                self._drop_idle(self._limits.max_connections - len(self._busy))
                _connect(connection, request, exchange)
        except BaseException:
            held.close()
            raise
        return held

    def _take_place(self, request: WireRequest, exchange: WireExchange) -> None:
        if self._places.acquire(blocking=False):
            return
        if not self._places.acquire(timeout=max(exchange.clip(request.timeouts.pool), 0.0)):
            raise timed_out("pool", request)

    def _add(self, base_url: str) -> _Endpoint:
        url = parse_url(base_url)
        scheme, host = url.scheme or "http", url.host or ""
        default = _DEFAULT_PORTS[scheme]
        port = url.port or default
        if scheme == "https":
            context = self._ssl_context()
            # Said only where the context itself compares no names: urllib3 would turn that off.
            said: dict[str, Any] = {} if context.check_hostname else {"assert_hostname": False}
            pool: HTTPConnectionPool = _SecurePool(host, port, ssl_context=context, **said)
        else:
            pool = _PlainPool(host, port)
        idle: Any = pool.pool
        idle.expiry = self._limits.keepalive_expiry
        prefix = (url.path or "").rstrip("/").encode("ascii")
        told = host if port == default else f"{host}:{port}"
        endpoint = _Endpoint(pool, idle, prefix, told.encode("ascii"))
        return self._endpoints.setdefault(base_url, endpoint)

    def give_back(self, endpoint: _Endpoint, connection: Connection, *, usable: bool) -> None:
        """End an exchange: its connection is kept or closed, and its place is free again."""
        try:
            if usable:
                endpoint.keep(connection)
                most = self._limits.max_keepalive_connections
                if len(self._endpoints) > 1 or len(endpoint.idle) > most:
                    self._drop_idle(most)
            else:
                connection.close()
        finally:
            self._busy.discard(connection)
            self._places.release()

    def _drop_idle(self, most: int) -> None:
        """Close idle connections beyond `most`, those of the longest rest first."""
        idle = [endpoint.idle for endpoint in list(self._endpoints.values())]
        for _ in range(sum(map(len, idle)) - max(most, 0)):
            min(idle, key=_Idle.oldest).drop()

    def close(self) -> None:
        """Close every connection; exchanges that are under way end as if their server had left."""
        for endpoint in list(self._endpoints.values()):
            endpoint.pool.close()
        for connection in list(self._busy):
            connected = connection.sock
            if connected is not None:
                with contextlib.suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)


class _Held:
    """A connection and a place, held for one exchange."""

    __slots__ = (
        "_answer",
        "_connection",
        "_endpoint",
        "_exchange",
        "_request",
        "_sent",
        "_transport",
    )

    def __init__(
        self,
        transport: Urllib3Transport,
        endpoint: _Endpoint,
        connection: Connection,
        request: WireRequest,
        exchange: WireExchange,
    ) -> None:
        self._transport: Urllib3Transport | None = transport
        self._endpoint = endpoint
        self._connection = connection
        self._request = request
        self._exchange = exchange
        self._answer: Answer | None = None
        self._sent = False

    def begin(self) -> Answer:
        """Send the request and read the head of its answer."""
        request, exchange = self._request, self._exchange
        incoming = self._connection.incoming
        exchange.socket = incoming.connected
        head = head_of(request, self._endpoint.prefix, self._endpoint.host)
        self._sent = _send(incoming.connected, head, request, exchange)
        incoming.serve(exchange, request.timeouts.read)
        self._answer = Answer(incoming, request.method)
        return self._answer

    def close(self) -> None:
        """Let go of both, once; a connection that can be used again is kept."""
        transport, self._transport = self._transport, None
        if transport is not None:
            answer = self._answer
            usable = self._sent and answer is not None and answer.leaves_connection()
            transport.give_back(self._endpoint, self._connection, usable=usable)


def _send(
    connected: socket.socket, head: bytes, request: WireRequest, exchange: WireExchange
) -> bool:
    """Send a request; False where the server stopped reading, which may have answered then.

    A small body leaves in one packet with its head, a large one in pieces, each within the write
    timeout.
    """
    content, timeout = request.content or [], request.timeouts.write
    exchange.sending = True
    try:
        if request.content_length <= SMALL_BODY_BYTES:
            _send_piece(connected, b"".join([head, *content]), exchange, timeout)
        else:
            _send_piece(connected, head, exchange, timeout)
            for piece in Pieces(content):
                _send_piece(connected, piece, exchange, timeout)
    except TimeoutError:
        raise
    except OSError:
        sent = False
    else:
        sent = True
    exchange.sending = False
    return sent


def _send_piece(
    connected: socket.socket, piece: bytes, exchange: WireExchange, timeout: float | None
) -> None:
    wait(connected, exchange.clip(timeout))
    connected.sendall(piece)


def _connect(connection: Connection, request: WireRequest, exchange: WireExchange) -> None:
    """Open a connection, its TLS included."""
    patience = max(exchange.clip(request.timeouts.connect), _NO_TIME)
    connection.until = time.monotonic() + patience
    try:
        connection.connect()
    except TimeoutError as error:
        raise timed_out("connect", request) from error
    except OSError as error:
        raise cannot_connect(str(error) or type(error).__name__, request, error) from error
    connection.incoming = Incoming(connection.sock)
    exchange.connected = True


class _Translating:
    """What goes wrong inside becomes an error of ours."""

    __slots__ = ("_exchange", "_request")

    def __init__(self, request: WireRequest, exchange: WireExchange) -> None:
        self._request = request
        self._exchange = exchange

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, _FOREIGN) and not isinstance(error, errors.AiaasError):
            raise _translate(error, self._request, self._exchange) from error


def _translate(error: Exception, request: WireRequest, exchange: WireExchange) -> errors.AiaasError:
    reason = str(error) or type(error).__name__
    if isinstance(error, ClosedPoolError):  # since the call began
        return errors.ClientClosedError(errors.ClientClosedError.TEXT)
    if isinstance(error, TimeoutError):
        return timed_out("write" if exchange.sending else "read", request)
    broke = isinstance(error, OSError | IncompleteRead)  # `RemoteDisconnected` is an OSError
    if isinstance(error, HTTPException) and not broke:
        return not_http(reason, request)
    if not broke:  # a URL or a header
        return errors.ConfigurationError(f"request cannot be sent to {request.base_url}: {reason}")
    died_idle = not exchange.connected and not exchange.received
    unheard = exchange.connected and not exchange.received
    return broken(reason, request, died_idle=died_idle, unheard=unheard)


def _steps(
    pieces: Iterator[bytes], request: WireRequest, exchange: WireExchange
) -> Iterator[bytes]:
    while True:
        with _Translating(request, exchange):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece
