"""Calls between the parent and a worker: JSON frames over a Unix socket pair.

A frame is four bytes, the length in network order, and so much JSON: `{"call", "id", "body"}`,
answered by `{"answer", "body"}` or `{"answer", "error"}`. A call with id 0 is not answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiaas_server.core import errors
from aiaas_server.core.errors import InvalidInput, ServerError

logger = logging.getLogger("aiaas_server")

MAX_FRAME = 16 << 20
"""Bytes of one frame; files travel by path."""

Document = dict[str, Any]
OnCall = Callable[[str, Document], Awaitable[Document]]


class LinkLost(Exception):
    """The other side has ended or closed its end."""


class Link:
    """One end of the pair.

    Args:
        on_call: Answers a call of the other side; each runs as a task of its own.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_call: OnCall
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_call = on_call
        self._number = 0
        self._waiting: dict[int, asyncio.Future[Document]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost = False

    @classmethod
    async def open(cls, sock: socket.socket, on_call: OnCall) -> Link:
        """Take over one socket of a connected pair."""
        return cls(*await asyncio.open_unix_connection(sock=sock), on_call)

    async def serve(self) -> None:
        """Read until the other side is gone, or sends what is no frame."""
        try:
            while True:
                head = await self._reader.readexactly(4)
                size = int.from_bytes(head)
                if size > MAX_FRAME:
                    logger.error("a frame of %d bytes between workers is refused", size)
                    return
                self._take(json.loads(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, OSError):
            return
        except (ValueError, TypeError, KeyError):
            logger.exception("what came between workers is no call")
        finally:
            self._end()

    async def ask(self, call: str, body: Document | None = None) -> Document:
        """Call the other side and wait for its answer.

        Raises:
            LinkLost: It ended before it answered.
            ServerError: What the call raised there.
        """
        if self._lost:
            raise LinkLost
        self._number += 1
        number = self._number
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"call": call, "id": number, "body": body or {}})
            answer: Document = await future
            return answer
        finally:
            self._waiting.pop(number, None)

    def tell(self, call: str, body: Document | None = None) -> None:
        """Call the other side without waiting; nothing happens when it is gone or not reading."""
        if not self._lost and self._writer.transport.get_write_buffer_size() < MAX_FRAME:
            self._send({"call": call, "id": 0, "body": body or {}})

    def close(self) -> None:
        """Close this end; what has been told is still delivered."""
        self._writer.close()

    def _send(self, frame: Document) -> None:
        text = json.dumps(frame, separators=(",", ":")).encode()
        if len(text) > MAX_FRAME:
            raise InvalidInput(
                f"the request makes {len(text)} bytes between workers, at most {MAX_FRAME} are sent"
            )
        self._writer.write(len(text).to_bytes(4) + text)

    def _take(self, frame: Document) -> None:
        if "call" in frame:
            task = asyncio.create_task(self._answer(frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        future = self._waiting.get(frame["answer"])
        if future is None or future.done():
            return
        if "error" in frame:
            future.set_exception(error_from(frame["error"]))
        else:
            future.set_result(frame["body"])

    async def _answer(self, frame: Document) -> None:
        number = frame["id"]
        try:
            answer: Document = {
                "answer": number,
                "body": await self._on_call(frame["call"], frame["body"]),
            }
        except ServerError as error:
            answer = {"answer": number, "error": error_as_json(error)}
        except Exception:
            logger.exception("the call %r between workers failed", frame["call"])
            answer = {"answer": number, "error": error_as_json(ServerError("internal error"))}
        if number and not self._lost:
            with suppress(InvalidInput):
                self._send(answer)

    def _end(self) -> None:
        self._lost = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkLost())
        self._writer.close()


def error_as_json(error: ServerError) -> Document:
    """A domain error for the other side."""
    return {
        "kind": type(error).__name__,
        "message": error.message,
        "retry_after": error.retry_after,
    }


def error_from(document: Document) -> ServerError:
    """The error that `error_as_json` wrote."""
    kind = getattr(errors, document["kind"], ServerError)
    error: ServerError = kind(document["message"], retry_after=document["retry_after"])
    return error
