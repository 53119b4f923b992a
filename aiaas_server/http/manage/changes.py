"""`GET /api/v1/events`: what is changed, as it happens, as Server-Sent Events.

Each event carries its number as `id`; a client that comes back with it as `Last-Event-ID` gets all
that it missed. What a slow reader has not taken is read again from the database, not kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.management import Change
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.manage.requests import READ, Manage, author_of
from aiaas_server.registry.documents import change_document
from aiaas_server.registry.reconcile import Feed
from aiaas_server.state.changes import ChangeRow

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment is sent: a connection that is gone is found out."""
_LOOK: Final = 1.0  # seconds between two looks whether the server is stopping
_MOST_STREAMS: Final = 256  # of one process


class Streams:
    """Those of a kind that are open in this process."""

    def __init__(self) -> None:
        self.open = 0

    def begin_behind(self, text: str) -> int:
        """Where a new one begins, by its `Last-Event-ID`.

        Raises:
            HttpError: 503 where too many are open, 400 for what is no id.
        """
        if self.open >= _MOST_STREAMS:
            raise HttpError(
                503,
                ErrorCode.TOO_MANY_CONNECTIONS,
                f"{_MOST_STREAMS} streams of events are open already",
                retry_after=1.0,
            )
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise bad_request(f"Last-Event-ID: expected the id of an event, got {text[:64]!r}")
        return int(text)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one, for as long as it is open."""
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class ChangeRoutes:
    """The stream of changes.

    Args:
        stopping: Whether the server takes no more work; streams end then.
        heartbeat: Seconds of silence after which a comment is sent.
    """

    def __init__(
        self, feed: Feed, stopping: Callable[[], bool], heartbeat: float = HEARTBEAT
    ) -> None:
        self._feed = feed
        self._stopping = stopping
        self._heartbeat = heartbeat
        self._streams = Streams()

    @property
    def streams(self) -> int:
        """How many are open."""
        return self._streams.open

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """The one there is."""
        return [manage.route("/events", self.events, "GET", READ, tells=Change)]

    async def events(self, request: Request) -> Response:
        """All changes from now on, or from behind `Last-Event-ID`, as Server-Sent Events."""
        seq = self._streams.begin_behind(request.headers.get("last-event-id", "0"))
        if "last-event-id" not in request.headers:
            seq = await self._feed.last()
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = self._events(author_of(request).tenant, seq)
        return StreamingResponse(events, 200, headers, "text/event-stream")

    async def _events(self, tenant: str, seq: int) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        with self._streams.one():
            yield b": changes\n\n"
            silent_since = loop.time()
            while not self._stopping():
                try:
                    rows = await asyncio.wait_for(self._feed.wait_beyond(seq), _LOOK)
                except TimeoutError:
                    rows = None
                if rows is not None:
                    if not rows:  # the feed is closed
                        return
                    seq = rows[-1].seq
                    text = b"".join([_event(row) for row in rows if row.tenant == tenant])
                    if text:
                        yield text
                        silent_since = loop.time()
                if loop.time() - silent_since >= self._heartbeat:
                    yield b": still here\n\n"
                    silent_since = loop.time()


def _event(row: ChangeRow) -> bytes:
    document = FAST_JSON.dumps(change_document(row).model_dump(mode="json"))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (row.seq, row.kind.encode(), document)
