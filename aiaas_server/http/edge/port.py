"""What an exchange needs of the connection it runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.edge.edge import Edge
from aiaas_server.http.edge.intake import BodyReceiver

Application = Callable[
    [Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]


class AnyConnection(Protocol):
    """What every exchange needs."""

    edge: Edge
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    """Tells while the client reads too slowly for more to be written."""
    default_block: bytes
    """Header lines that every answer starts with, the date for one."""

    @property
    def last_answer(self) -> bool:
        """True when the connection ends after the exchange now being answered."""
        ...

    def read_on(self) -> None:
        """Take further request bytes from the socket."""
        ...

    def answered(self, exchange: Any) -> None:
        """Take note that the answer of `exchange` is written completely."""
        ...


class Connection(AnyConnection, Protocol):
    """One connection, as seen from the requests that the application answers."""

    app: Application
    tasks: set[asyncio.Task[None]]
    """Of all connections."""
    default_lines: int
    """How many lines `default_block` has."""

    def read_into(self, view: memoryview) -> BodyReceiver:
        """Put the rest of the body being read into `view`, which has just the room for it."""
        ...

    def failed(self, code: ErrorCode) -> None:
        """Take note that the answer is an error which the application has not seen."""
        ...


class LaneConnection(AnyConnection, Protocol):
    """One connection, as seen from its hot requests."""

    outbox: Any
    """Where answers wait for the end of the loop's turn, an `Outbox`."""
    client: tuple[str, int] | None
    """The other end; None of a Unix socket."""

    def pass_on(self, call: Any, body: bytes) -> None:
        """Have the application answer `call`, a `LaneCall`, which has done nothing yet."""
        ...
