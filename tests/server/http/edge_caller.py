"""An application behind the server's own connection, without a socket: the lane as it is served.

`EdgeCaller` is called as `AsgiCaller` is, so that what is asked of the bare application can be
asked of the connection by the same tables.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from aiaas_server.app import Application
from aiaas_server.http.edge.connection import EdgeProtocol, make_protocol
from aiaas_server.process import edge_limits
from tests.server.http.serving import Answer


class Pipe(asyncio.Transport):
    """The other end of one connection: takes what the server writes.

    Attributes:
        written: What has come of the answers.
    """

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 50000), "sockname": ("127.0.0.1", 8000)})
        self.written = bytearray()
        self._changed = asyncio.Event()
        self._protocol: Any = None
        self._closing = False
        self._reading = True
        self._held = bytearray()  # sent while the server does not read

    def send(self, data: bytes) -> None:
        """Give bytes to the server, as far as it reads."""
        self._held += data
        while self._held and self._reading and not self._closing:
            protocol = self._protocol
            if isinstance(protocol, asyncio.BufferedProtocol):
                view = protocol.get_buffer(-1)
                piece = self._held[: len(view)]
                del self._held[: len(piece)]
                view[: len(piece)] = piece
                protocol.buffer_updated(len(piece))
            else:
                piece, self._held = self._held, bytearray()
                protocol.data_received(bytes(piece))

    async def more(self) -> None:
        """Wait until something is written, or the server has closed."""
        self._changed.clear()
        await self._changed.wait()

    def forget(self) -> None:
        """Let go of the server's side, as a transport does that is closed."""
        self._protocol = None

    def write(self, data: Any) -> None:
        self.written += data
        self._changed.set()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._changed.set()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            asyncio.get_running_loop().call_soon(self.send, b"")

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._changed.set()

    def get_write_buffer_size(self) -> int:
        return 0


class EdgeCaller:
    """Calls an application with one request on a connection of its own; collects the answer.

    Args:
        app: The application.
        lane: Whether the connection answers hot requests itself.

    Attributes:
        passed_on: Paths of the requests that came to the application by ASGI.
    """

    def __init__(self, app: Application, *, lane: bool = True) -> None:
        self.app = app
        self.passed_on: list[str] = []
        self.protocol = make_protocol(
            edge_limits(app.settings), on_refusal=app.refused, hot=app.hot if lane else None
        )
        options: dict[str, Any] = {"ws": "none", "lifespan": "off", "interface": "asgi3"}
        self._config = Config(self._asgi, http=self.protocol, log_config=None, **options)
        self._config.load()
        self.state = ServerState()

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.passed_on.append(scope["path"])
        await self.app(scope, receive, send)

    def connect(self, client: str = "127.0.0.1") -> tuple[EdgeProtocol, Pipe]:
        """Open a connection."""
        pipe = Pipe(client)
        connection = self.protocol(self._config, self.state, {}, asyncio.get_running_loop())
        pipe.set_protocol(connection)
        connection.connection_made(pipe)
        return connection, pipe

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = b"",
        headers: Mapping[str, str] | None = None,
        *,
        client: str = "127.0.0.1",
    ) -> Answer:
        """Send bytes, a tuple of chunks, or anything else as JSON."""
        _, pipe = self.connect(client)
        try:
            head, *pieces = wire_form(method, path, body, headers or {})
            pipe.send(head + b"".join(pieces[:1]))  # as most clients do, at once
            for piece in pieces[1:]:
                await asyncio.sleep(0)
                pipe.send(piece)
            return await whole_answer(pipe, method)
        finally:
            pipe.close()
            await asyncio.sleep(0)


def wire_form(method: str, path: str, body: Any, headers: Mapping[str, str]) -> list[bytes]:
    """A request as it is sent: its head, and the pieces of its body."""
    names = {name.lower() for name in headers}
    lines = [f"{method} {path} HTTP/1.1", "host: a"]
    if not isinstance(body, bytes | tuple):
        body = json.dumps(body).encode()
        if "content-type" not in names:
            lines.append("content-type: application/json")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    pieces = list(body) if isinstance(body, tuple) else [body]
    if not names & {"content-length", "transfer-encoding"}:
        if isinstance(body, tuple):
            lines.append("transfer-encoding: chunked")
            pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
            pieces.append(b"0\r\n\r\n")
        elif body or method == "POST":
            lines.append(f"content-length: {len(body)}")
    return ["\r\n".join([*lines, "\r\n"]).encode("latin-1"), *pieces]


async def whole_answer(pipe: Pipe, method: str = "GET") -> Answer:
    """Wait for one answer and take it off what was written."""
    while b"\r\n\r\n" not in pipe.written:
        assert not pipe.is_closing(), f"closed inside a head: {bytes(pipe.written)!r}"
        await pipe.more()
    head, _, rest = bytes(pipe.written).partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
    status = int(line.split()[1])
    if status == 100:
        pipe.written[:] = rest
        return await whole_answer(pipe, method)
    start = len(head) + 4
    if method == "HEAD":
        end, body = start, b""
    elif headers.get("transfer-encoding") == "chunked":
        while not pipe.written.endswith(b"0\r\n\r\n"):
            assert not pipe.is_closing(), "closed inside a body"
            await pipe.more()
        end = len(pipe.written)
        body = _unchunked(bytes(pipe.written[start:]))
    else:
        end = start + int(headers.get("content-length", 0))
        while len(pipe.written) < end:
            assert not pipe.is_closing(), "closed inside a body"
            await pipe.more()
        body = bytes(pipe.written[start:end])
    del pipe.written[:end]
    return Answer(status, headers, body)


def _unchunked(text: bytes) -> bytes:
    body = b""
    while text:
        size, _, text = text.partition(b"\r\n")
        length = int(size, 16)
        body, text = body + text[:length], text[length + 2 :]
    return body
