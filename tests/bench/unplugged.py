"""Our connections without sockets: requests come from memory, answers go nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from aiaas_server.app import Application
from aiaas_server.http.edge.connection import EdgeProtocol, make_protocol
from aiaas_server.process import edge_limits

ADDRESSES = {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}


class Nowhere(asyncio.Transport):
    """A transport that is always ready, and tells what is written."""

    def __init__(self, written: Callable[[bytes], None]) -> None:
        super().__init__(ADDRESSES)
        self.write = written  # type: ignore[method-assign,assignment]  # one call less

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Connections:
    """Some connections to an application that has started; made on its event loop."""

    def __init__(self, app: Application, count: int) -> None:
        limits = edge_limits(app.settings)
        protocol = make_protocol(limits, on_refusal=app.refused, hot=app.hot)
        config, state = configuration(app, protocol), ServerState()
        loop = asyncio.get_running_loop()
        self._open = [protocol(config, state, {}, loop) for _ in range(count)]
        for connection in self._open:
            connection.connection_made(Nowhere(self._written))
        self._unanswered = 0
        self._answered: asyncio.Future[None]

    async def ask(self, request: bytes) -> None:
        """Let `request` come on every connection in one turn of the loop; wait for the answers.

        Raises:
            RuntimeError: One was not 200.
        """
        self._answered = asyncio.get_running_loop().create_future()
        self._unanswered = len(self._open)
        for connection in self._open:
            connection.data_received(request)
        await self._answered

    def _written(self, answer: bytes) -> None:
        self._unanswered -= 1
        if not answer.startswith(b"HTTP/1.1 200"):
            self._answered.set_exception(RuntimeError(f"answered {bytes(answer[:80])!r}"))
        elif not self._unanswered:
            self._answered.set_result(None)


def configuration(app: Any, protocol: type[EdgeProtocol]) -> Config:
    """As the server's own, for what a protocol reads of it."""
    config = Config(
        app, http=protocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
        access_log=False, proxy_headers=False, server_header=False,
    )  # fmt: skip
    config.load()
    return config
