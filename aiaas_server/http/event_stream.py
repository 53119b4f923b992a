"""Server-Sent Events as they are made: one write for each, and work ends with its reader.

A reader that is slow is waited for: nothing is taken from the model meanwhile, which ends an answer
that is read too late.

What an answer costs is known when it is written, long after its head has left. So it is a comment
of the stream, `: x-cost: 0.0021 EUR`, before the last event; where it comes again, the last counts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aiaas_server.core.events import COST_LINE
from aiaas_server.http.errors import Problem, problem_of
from aiaas_server.http.incoming import (
    ClientGone,
    RequestContext,
    context_of,
    while_connected,
)

EVENT_STREAM: Final = "text/event-stream; charset=utf-8"

Tell = Callable[[Problem, str], bytes]
"""Gives the event that tells an error, which came too late for a status, and the request's id."""


def event(document: Any) -> bytes:
    """One event of JSON."""
    return b"data: " + orjson.dumps(document) + b"\n\n"


class EventStream(Response):
    """An answer in events.

    Args:
        first: The first event, for which the answer has waited: until it was there, an error
            could still have a status.
        events: All others.
        held: What is let go of after the last event, or when the client leaves.
        tell: Makes the event of an error that comes in between.
    """

    def __init__(
        self,
        request: Request,
        first: bytes,
        events: AsyncGenerator[bytes, None],
        held: ExitStack,
        tell: Tell,
    ) -> None:
        super().__init__(headers={"content-type": EVENT_STREAM, "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._context = context_of(request)
        self._first = first
        self._events = events
        self._held = held
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; another end than the last one lets go of everything, too.

        Raises:
            ClientGone: The client left.
        """
        with self._held:
            await while_connected(self._write(send), scope, receive)

    async def _write(self, send: Send) -> None:
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        async with aclosing(self._events) as events:
            costs = _Costs(self._context)
            await send(_body(costs.before(self._first)))
            try:
                async for text in events:
                    await send(_body(costs.before(text)))
                if rest := costs.before(b""):
                    await send(_body(rest))
            except ClientGone:
                raise
            except Exception as error:
                request_id = self._context.request_id
                problem = self._context.broken = problem_of(error, request_id)
                await send(_body(self._tell(problem, request_id.decode("ascii"))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Costs:
    """Finds what has been told of an answer's cost since its last event."""

    def __init__(self, context: RequestContext) -> None:
        self._visit = context.caller.visit
        self._headers = self._told = b""

    def before(self, text: bytes) -> bytes:
        """An event, behind what is new of the cost."""
        visit = self._visit
        if visit is None or visit.headers == self._headers:
            return text
        self._headers = visit.headers
        _, found, rest = self._headers.partition(COST_LINE)
        line = found + rest.partition(b"\r\n")[0]
        if line == self._told:
            return text
        self._told = line
        return b": %b\n\n%b" % (line, text)


def _body(text: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": text, "more_body": True}


async def begin_stream(
    request: Request, events: AsyncGenerator[bytes, None], held: ExitStack, tell: Tell
) -> EventStream:
    """Wait for the first event; whatever goes wrong before it is an ordinary error.

    Args:
        held: Emptied: the stream holds it from now on.
    Raises:
        ClientGone: The client left.
    """
    first = await while_connected(_next(events), request.scope, request.receive)
    return EventStream(request, first, events, held.pop_all(), tell)


async def _next(events: AsyncGenerator[bytes, None]) -> bytes:
    return await anext(events)
