"""A loopback server with the edge protocol over small ASGI applications, and raw sockets to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from aiaas_server.http.answers import Reply
from aiaas_server.http.edge.connection import EdgeProtocol, make_protocol
from aiaas_server.http.edge.limits import EdgeLimits
from aiaas_server.http.gate import Gate
from aiaas_server.http.hot import HotEndpoint, HotRoutes
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.settings import Settings

PLAIN = b"Host: a\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body that came; `/hold` waits for ever before that."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    if scope["path"] == "/hold":
        await asyncio.Event().wait()
    text = scope["method"].encode() + b" " + scope["raw_path"] + b" " + body
    headers = [(b"content-length", b"%d" % len(text)), (b"x-request-id", b"id-1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def hot_echo(call: Any) -> bool:
    """`echo` by plain calls."""
    target = call.head.target
    if target.path != "/hold":
        text = b"%b %b %b" % (call.head.method.encode(), target.raw_path, call.body)
        call.answer(Reply((), (text,), len(text)))
    return True


def hot_routes(endpoint: HotEndpoint, **settings: Any) -> HotRoutes:
    """Have all requests that can be answered past ASGI be answered by `endpoint`."""
    gate = Gate(Settings(**settings), RequestMetrics(), observed=False)
    return HotRoutes(
        gate, lambda method, path: endpoint if method in ("GET", "POST") else None, 1 << 20
    )


@dataclass
class Answer:
    """One HTTP answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """One raw connection."""

    sock: socket.socket
    buffer: bytes = b""

    def send(self, data: bytes) -> Wire:
        """Send bytes; a server that has closed already is no failure of the test."""
        with contextlib.suppress(OSError):
            self.sock.sendall(data)
        return self

    def _fill(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Read up to and with `mark`."""
        while mark not in self.buffer:
            assert self._fill(), f"closed before {mark!r}; got {self.buffer!r}"
        head, _, self.buffer = self.buffer.partition(mark)
        return head + mark

    def answer(self, *, head_only: bool = False) -> Answer:
        """Read one answer."""
        lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        headers = {k.lower(): v for k, _, v in (x.partition(": ") for x in lines[1:] if x)}
        body = b""
        if "content-length" in headers and not head_only:
            size = int(headers["content-length"])
            while len(self.buffer) < size:
                assert self._fill(), "closed inside a body"
            body, self.buffer = self.buffer[:size], self.buffer[size:]
        return Answer(int(lines[0].split()[1]), headers, body)

    def rest(self) -> bytes:
        """Read until the server closes."""
        while self._fill():
            pass
        data, self.buffer = self.buffer, b""
        return data


@dataclass
class EdgeServer:
    """A running server."""

    loop: asyncio.AbstractEventLoop
    protocol: type[EdgeProtocol]
    state: ServerState
    address: Any
    wires: list[socket.socket] = field(default_factory=list)

    def connect(self) -> Wire:
        """Open a raw connection."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.settimeout(15)
        sock.connect(self.address)
        if family == socket.AF_INET:  # pieces are sent as pieces
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wires.append(sock)
        return Wire(sock)

    def ask(self, data: bytes) -> Answer:
        """Send bytes on a connection of their own and read one answer."""
        return self.connect().send(data).answer()

    def on_loop(self, call: Callable[[], Any]) -> Any:
        """Run a function on the server's loop and return its result."""
        result: Future[Any] = Future()
        self.loop.call_soon_threadsafe(lambda: result.set_result(call()))
        return result.result(120)

    def eventually(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, asked on the loop, holds."""
        end = time.monotonic() + 120
        while not self.on_loop(condition):
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.01)


@pytest.fixture
def adapter() -> str:
    """How `echo` answers: on the connection, in the "lane", or as an application, by "asgi".

    A module whose tables hold for both overrides it.
    """
    return "lane"


@pytest.fixture
def serve_edge(adapter: str) -> Iterator[Callable[..., EdgeServer]]:
    """Start servers: `serve_edge(app, limit=value, ...)`."""
    running: list[tuple[EdgeServer, threading.Thread, asyncio.Event]] = []

    def start(
        app: Any = echo,
        *,
        uds: str | None = None,
        on_access: Any = None,
        on_refusal: Any = None,
        hot: HotRoutes | None = None,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
        **limits: Any,
    ) -> EdgeServer:
        if app is echo and adapter == "lane":
            hot = hot or hot_routes(hot_echo)
        protocol = make_protocol(
            EdgeLimits(**limits), on_access=on_access, on_refusal=on_refusal, hot=hot
        )
        ready: Future[tuple[EdgeServer, asyncio.Event]] = Future()

        async def run() -> None:
            config = Config(
                app, http=protocol, ws="none", lifespan="off", log_config=None, proxy_headers=False
            )
            config.load()
            loop, state, stop = asyncio.get_running_loop(), ServerState(), asyncio.Event()

            def connect() -> EdgeProtocol:
                return protocol(config, state, {}, loop)

            if uds is None:
                server = await loop.create_server(connect, "127.0.0.1", 0)
                address = server.sockets[0].getsockname()
            else:
                server, address = await loop.create_unix_server(connect, uds), uds
            ready.set_result((EdgeServer(loop, protocol, state, address), stop))
            await stop.wait()
            server.close()
            for connection in tuple(state.connections):
                connection.transport.abort()
            while state.connections or state.tasks:  # noqa: ASYNC110  # uvicorn's state has no event
                await asyncio.sleep(0.005)
            await server.wait_closed()

        def main() -> None:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(run())

        thread = threading.Thread(target=main)
        thread.start()
        server, stop = ready.result(15)
        running.append((server, thread, stop))
        return server

    yield start
    for server, thread, stop in running:
        for sock in server.wires:
            sock.close()
        server.loop.call_soon_threadsafe(stop.set)
        thread.join(15)
        assert not thread.is_alive()
