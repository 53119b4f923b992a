"""Writing answers: every one carries its request id and the same two safety headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.responses import Response
from starlette.types import Message, Send

from aiaas_server.http.errors import Problem
from aiaas_server.http.incoming import RequestContext
from aiaas_server.http.json import FAST_JSON

Chunk = bytes | bytearray | memoryview
HeaderList = list[tuple[bytes, bytes]]

NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_STORE = (b"cache-control", b"no-store")
JSON_TYPE = (b"content-type", b"application/json")
BINARY_TYPE = (b"content-type", b"application/octet-stream")

_CONTROLS = bytes([*range(9), *range(10, 32), 127])  # all but the tab


class Reply(NamedTuple):
    """A whole answer, before it is known by which way it leaves.

    Attributes:
        headers: Without Content-Length and what belongs to the request alone.
        chunks: The body in pieces.
        length: Bytes of the body.
        block: `headers` as they are sent, where that was remembered.
        timing: The value of Server-Timing; empty is none.
    """

    headers: Sequence[tuple[bytes, bytes]]
    chunks: Sequence[Chunk]
    length: int
    block: bytes = b""
    timing: bytes = b""

    def header_list(self, request_id: bytes) -> HeaderList:
        """All headers, as ASGI wants them."""
        found = [*self.headers, (b"content-length", b"%d" % self.length)]
        if self.timing:
            found.append((b"server-timing", self.timing))
        found.append((b"x-request-id", request_id))
        return found


def header_block(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Header lines as they are sent.

    Raises:
        ValueError: A value would end its line, or holds another control character.
    """
    block = b"".join([b"%b: %b\r\n" % line for line in headers])
    if len(block) - len(block.translate(None, _CONTROLS)) != 2 * len(headers):
        raise ValueError("response header value: control characters are not allowed")
    return block


def header_lines(block: bytes) -> HeaderList:
    """What `header_block` has written, as ASGI wants it."""
    lines = (line.partition(b": ") for line in block.split(b"\r\n") if line)
    return [(name, value) for name, _, value in lines]


class JsonAnswer(Response):
    """A Starlette response of JSON text, written by the same writer as the tensors."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write the document."""
        return FAST_JSON.dumps(content)


def whole_problem(problem: Problem, request_id: bytes = b"") -> tuple[HeaderList, bytes]:
    """An error as it is sent, headers and body; without an id where the request's is not known."""
    body = problem.body(request_id.decode("ascii"))
    headers = [JSON_TYPE, (b"content-length", b"%d" % len(body))]
    if request_id:
        headers.append((b"x-request-id", request_id))
    return [*headers, NOSNIFF, NO_STORE, *problem.headers], body


async def send_problem(send: Send, problem: Problem, request_id: bytes) -> None:
    """Answer with an error body."""
    headers, body = whole_problem(problem, request_id)
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_reply(send: Send, reply: Reply, context: RequestContext) -> None:
    """Answer 200 with `reply`; pieces of its body are not copied."""
    headers = reply.header_list(context.request_id) + header_lines(context.more_headers)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    more = len(reply.chunks)
    for chunk in reply.chunks:
        more -= 1
        await send({"type": "http.response.body", "body": chunk, "more_body": more > 0})


def with_common_headers(send: Send, context: RequestContext) -> Send:
    """Wrap `send` for the Starlette routes: adds what every answer carries."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.answering = True
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", context.request_id),
                NOSNIFF,
                NO_STORE,
                *header_lines(context.more_headers),
            ]
        await send(message)

    return sending
