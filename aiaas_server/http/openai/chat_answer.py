"""One answer of a chat, read piece by piece: text and calls, whatever form it is told in."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import orjson

from aiaas_server.core.generation import (
    ChatReader,
    Delta,
    FinishReason,
    Piece,
    TextDelta,
    ToolDelta,
)
from aiaas_server.http.openai.chances import chances

Document = dict[str, Any]


def new_id(kind: str) -> str:
    """An id that nothing else has."""
    return f"{kind}{secrets.token_hex(12)}"


class ChatAnswer:
    """One answer of a chat as it is read: its text, its calls, and how it ended.

    Args:
        keeps: Whether log-probabilities are wanted again, when the answer is whole.

    Attributes:
        fresh: Log-probabilities that the last piece brought, where they are asked for.
        told: All of them.
        finish: Why it ended; None before that.
    """

    def __init__(self, reader: ChatReader, *, keeps: bool = True) -> None:
        self._reader = reader
        self._keeps = keeps
        self._texts: list[str] = []
        self._names: list[str] = []
        self._arguments: list[list[str]] = []
        self.ids: list[str] = []
        self.fresh: list[orjson.Fragment] = []
        self.told: list[orjson.Fragment] = []
        self.finish: FinishReason | None = None

    def take(self, piece: Piece) -> list[Delta]:
        """What a piece brings."""
        deltas = self._reader.feed(piece.text) if piece.text else []
        if piece.finish is not None:
            deltas = [*deltas, *self._reader.finish()]
        self.fresh = chances(piece.told)
        if self._keeps:
            self.told += self.fresh
        for delta in deltas:
            if isinstance(delta, TextDelta):
                self._texts.append(delta.text)
            else:
                self._call(delta)
        if piece.finish is not None:
            called = bool(self.ids) and piece.finish == "stop"
            self.finish = "tool_calls" if called else piece.finish
        return deltas

    def _call(self, delta: ToolDelta) -> None:
        while len(self.ids) <= delta.call:
            self.ids.append(new_id("call_"))
            self._names.append("")
            self._arguments.append([])
        self._names[delta.call] += delta.name
        self._arguments[delta.call].append(delta.arguments)

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._texts)

    def calls(self) -> Iterator[tuple[str, str, str]]:
        """The id, name and arguments of each call so far."""
        for ident, name, arguments in zip(self.ids, self._names, self._arguments, strict=True):
            yield ident, name, "".join(arguments)

    def message(self) -> Document:
        """The whole message."""
        calls = [
            {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}
            for ident, name, arguments in self.calls()
        ]
        text = self.text
        message: Document = {"role": "assistant", "content": None if calls and not text else text}
        return {**message, "tool_calls": calls} if calls else message
