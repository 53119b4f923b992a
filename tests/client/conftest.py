"""What the SDK's tests share: a server that misbehaves on request, and every kind of client."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import httpx2
import pytest

from aiaas_client import AsyncClient, Client, Clock, RetryPolicy
from aiaas_client._api.call import Call, StreamCall
from tests.ports import dead_address

METADATA = {"name": "wire", "version": "1", "extensions": []}


@dataclass
class Received:
    """One request as it came in, and the number of the connection it came on."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


Step = Callable[[socket.socket, Received], bool]  # returns whether the connection stays open


def answer(status: int = 200, body: object = METADATA, **headers: str) -> Step:
    """A well-formed answer; header names are written with underscores."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {"Content-Length": str(len(raw))}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return say(f"HTTP/1.1 {status} Reason\r\n{head}\r\n".encode() + raw, keep=True)


def say(data: bytes, *, keep: bool = False) -> Step:
    """Exactly these bytes, then the end of the connection unless `keep`."""

    def step(connection: socket.socket, received: Received) -> bool:
        connection.sendall(data)
        return keep

    return step


def events(*texts: str, then: threading.Event | None = None, rest: Sequence[str] = ()) -> Step:
    """A stream of events, chunked; the rest of them once `then` is set."""

    def step(connection: socket.socket, received: Received) -> bool:
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for text in texts:
            connection.sendall(_chunk(f"data: {text}\n\n".encode()))
        if then is not None:
            then.wait(10)
        for text in rest:
            connection.sendall(_chunk(f"data: {text}\n\n".encode()))
        connection.sendall(b"0\r\n\r\n")
        return True

    return step


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def hang_up(connection: socket.socket, received: Received) -> bool:
    """No answer, the connection ends."""
    return False


def reset(connection: socket.socket, received: Received) -> bool:
    """No answer, the connection is torn down."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def fall_silent(connection: socket.socket, received: Received) -> bool:
    """Nothing, until the other side gives up."""
    with suppress(OSError):
        while connection.recv(4096):
            pass
    return False


def drip(data: bytes, pause: float) -> Step:
    """One byte at a time."""

    def step(connection: socket.socket, received: Received) -> bool:
        with suppress(OSError):
            for byte in data:
                connection.sendall(bytes([byte]))
                time.sleep(pause)
        return False

    return step


def flood(data: bytes, most: int) -> Step:
    """Again and again, as fast as it is read, up to `most` bytes."""

    def step(connection: socket.socket, received: Received) -> bool:
        with suppress(OSError):
            for _ in range(most // len(data)):
                connection.sendall(data)
        return False

    return step


class WireServer:
    """Answers each request with the next step of its script; the last default goes on for ever."""

    def __init__(self, *script: Step, default: Step | None = None) -> None:
        self.script = deque(script)
        self.default = default or answer()
        self.received: list[Received] = []
        self.connections = 0
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with self._changed:
                    self.connections += 1
                    number = self.connections
                    self._open.add(connection)
                threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        stream = connection.makefile("rb")
        with suppress(OSError, ValueError), connection, stream:
            while received := _read(stream, number):
                with self._changed:
                    self.received.append(received)
                    step = self.script.popleft() if self.script else self.default
                    self._changed.notify_all()
                if not step(connection, received):
                    break
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def speak_tls(self, context: ssl.SSLContext) -> None:
        """Begin each connection with a handshake, and close those where it fails."""
        serve = self._serve

        def serve_tls(connection: socket.socket, number: int) -> None:
            try:
                secured = context.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
            else:
                serve(secured, number)

        self._serve = serve_tls  # type: ignore[method-assign]
        self.url = self.url.replace("http:", "https:")

    def wait_for(self, count: int) -> None:
        """Wait until `count` requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.received) >= count, 120)

    def wait_closed(self) -> None:
        """Wait until no connection is open."""
        with self._changed:
            assert self._changed.wait_for(lambda: not self._open, 120)

    def stop(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            left = list(self._open)
        for connection in left:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _read(stream: Any, number: int) -> Received | None:
    line = stream.readline()
    if not line:
        return None
    method, target, _ = line.decode().split()
    headers: dict[str, str] = {}
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", 0)))
    return Received(method, target, headers, body, number)


@dataclass
class FakeClock:
    """Time that passes by itself and by sleeping, without anyone waiting; chance at its largest."""

    chance: float = 1.0
    slept: list[float] = field(default_factory=list)
    offset: float = 0.0

    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: time.monotonic() + self.offset,
            wall=lambda: 1_800_000_000.0 + self.offset,
            sleep=self.sleep,
            async_sleep=self.async_sleep,
            random=lambda: self.chance,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.offset += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)

    def policy(self, **changes: Any) -> RetryPolicy:
        return RetryPolicy(clock=self.clock(), **changes)


END = object()  # what "the next value" of a stream gives after the last


class SyncCaller:
    """Makes calls through a `Client`."""

    def __init__(self, http_client: Any, arguments: Mapping[str, Any]) -> None:
        if http_client == "urllib3":
            http_client, arguments = None, {"backend": "urllib3", **arguments}
        self._http_client = http_client
        self.client: Any = Client(http_client=http_client, **arguments)

    def send(self, call: Call[Any]) -> Any:
        return self.client._sender.send(call)

    def stream(self, call: StreamCall[Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Give "the next value" (`END` after the last) and "close"."""
        stream = self.client._sender.stream(call)
        return lambda: next(stream, END), stream.close

    def close(self) -> None:
        self.client.close()
        if self._http_client is not None:
            self._http_client.close()


class AsyncCaller:
    """Makes calls through an `AsyncClient`, each to its end."""

    def __init__(self, library: Any, arguments: Mapping[str, Any]) -> None:
        self._runner = asyncio.Runner()
        if library == "aiohttp":
            library, arguments = None, {"backend": "aiohttp", **arguments}
        self._http_client = None if library is None else library.AsyncClient()
        self.client: Any = AsyncClient(http_client=self._http_client, **arguments)

    def send(self, call: Call[Any]) -> Any:
        return self._runner.run(self.client._sender.send(call))

    def stream(self, call: StreamCall[Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
        stream = self.client._sender.stream(call)

        async def step() -> Any:
            return await anext(stream, END)

        return (
            lambda: self._runner.run(step()),
            lambda: self._runner.run(stream.aclose()),
        )

    def close(self) -> None:
        self._runner.run(self.client.close())
        if self._http_client is not None:
            self._runner.run(self._http_client.aclose())
            self._runner.run(asyncio.sleep(0.01))  # a closed socket leaves the loop in later turns
        self._runner.close()


def _library(name: str) -> Any:
    libraries = {"httpx2": httpx2, "httpx": httpx, "aiohttp": "aiohttp", "urllib3": "urllib3"}
    return libraries.get(name)


FLAVOURS = (
    "sync",
    "sync-urllib3",
    "async",
    "async-aiohttp",
    "sync-httpx2",
    "async-httpx2",
    "sync-httpx",
    "async-httpx",
)


@contextmanager
def calling(flavour: str, url: str | list[str], **arguments: Any) -> Iterator[Any]:
    """Give a caller of one flavour for the server at `url`."""
    kind, _, name = flavour.partition("-")
    library = _library(name)
    arguments = {"base_url": url, **arguments}
    if kind == "async":
        caller: Any = AsyncCaller(library, arguments)
    else:
        own = library if isinstance(library, str | None) else library.Client()
        caller = SyncCaller(own, arguments)
    try:
        yield caller
    finally:
        caller.close()


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Every way to send: our own pool, and clients of both libraries, sync and async."""
    return str(request.param)


@pytest.fixture(params=("sync", "sync-urllib3", "async", "async-aiohttp"))
def kind(request: pytest.FixtureRequest) -> str:
    """Both clients on their own pools."""
    return str(request.param)


@pytest.fixture
def call_through() -> Any:
    """The context manager `calling`."""
    return calling


@pytest.fixture
def wire() -> Iterator[Callable[..., WireServer]]:
    """Start servers with a script; all are stopped in the end."""
    servers: list[WireServer] = []

    def start(*script: Step, default: Step | None = None) -> WireServer:
        servers.append(WireServer(*script, default=default))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def steps() -> Any:
    """The ways to answer."""

    class Steps:
        answer = staticmethod(answer)
        events = staticmethod(events)
        say = staticmethod(say)
        drip = staticmethod(drip)
        flood = staticmethod(flood)
        hang_up = staticmethod(hang_up)
        reset = staticmethod(reset)
        fall_silent = staticmethod(fall_silent)

    return Steps


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock whose sleeps take no time."""
    return FakeClock()


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    """A client of the module's own `server`."""
    with Client(server.url) as client:
        yield client


@pytest.fixture
async def async_client(server: Any) -> AsyncIterator[AsyncClient]:
    """As `client`, on the event loop of the test."""
    async with AsyncClient(server.url) as client:
        yield client


@pytest.fixture
def dead_url() -> Iterator[str]:
    """An address where nobody listens."""
    with dead_address() as address:
        yield f"http://{address}"


class Either:
    """Runs a client's method to its end, whichever kind the client is."""

    def __init__(self, kind: str, url: str) -> None:
        kind, _, backend = kind.partition("-")
        self._runner = asyncio.Runner() if kind == "async" else None
        make: Any = AsyncClient if kind == "async" else Client
        options = {"backend": backend or "httpx2", "retry": RetryPolicy(max_retries=0)}
        self.client: Any = make(url, breaker=None, **options)

    def run(self, result: Any) -> Any:
        return result if self._runner is None else self._runner.run(_awaited(result))

    def close(self) -> None:
        self.run(self.client.close())
        if self._runner is not None:
            self._runner.close()


async def _awaited(result: Any) -> Any:
    return await result


@pytest.fixture
def either(kind: str) -> Iterator[Any]:
    """Make a client of either kind for an address; closed in the end."""
    made: list[Either] = []

    def make(url: str) -> Either:
        made.append(Either(kind, url))
        return made[-1]

    yield make
    for one in made:
        one.close()
