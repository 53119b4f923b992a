"""Writing answers: every one carries its request id and the same two safety headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Send

from aiaas_server.http.errors import Problem
from aiaas_server.http.fastjson import FAST_JSON
from aiaas_server.http.head import JSON_TYPE, NO_STORE, NOSNIFF, HeaderList

Chunk = bytes | bytearray | memoryview


class JsonAnswer(Response):
    """A Starlette response of JSON text, written by the same writer as the tensors."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write the document."""
        return FAST_JSON.dumps(content)


def start_message(status: int, headers: HeaderList) -> Message:
    """The first ASGI message of an answer."""
    return {"type": "http.response.start", "status": status, "headers": headers}


def body_message(chunk: Chunk, more: bool = False) -> Message:
    """A further ASGI message of an answer."""
    return {"type": "http.response.body", "body": chunk, "more_body": more}


async def send_problem(send: Send, problem: Problem, request_id: bytes) -> None:
    """Answer with an error body."""
    body = problem.body(request_id.decode("ascii"))
    headers = [
        JSON_TYPE,
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id),
        NOSNIFF,
        NO_STORE,
        *problem.headers,
    ]
    await send(start_message(problem.status, headers))
    await send(body_message(body))


async def send_chunks(send: Send, headers: HeaderList, chunks: Sequence[Chunk]) -> None:
    """Answer 200 with a body in pieces, none of them copied."""
    await send(start_message(200, headers))
    last = len(chunks) - 1
    for index, chunk in enumerate(chunks):
        await send(body_message(chunk, index < last))


def with_common_headers(send: Send, request_id: bytes) -> Send:
    """Wrap `send` for the Starlette routes: adds what every answer carries."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", request_id),
                NOSNIFF,
                NO_STORE,
            ]
        await send(message)

    return sending
