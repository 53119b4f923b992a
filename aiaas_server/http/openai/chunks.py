"""Answers of chats as OpenAI's clients read them: whole, and in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson
from starlette.responses import Response

from aiaas_server.core.generation import (
    Answering,
    Chance,
    ChatReader,
    Delta,
    FinishReason,
    Piece,
    TextDelta,
    Told,
    ToolDelta,
)
from aiaas_server.http.errors import Problem
from aiaas_server.http.openai.errors import openai_problem

DONE: Final = b"data: [DONE]\n\n"
_LEAST: Final = -9999.0  # JSON has no infinity; OpenAI tells this of what never comes

Document = dict[str, Any]


def new_id(kind: str) -> str:
    """An id that nothing else has."""
    return f"{kind}{secrets.token_hex(12)}"


class Head:
    """What all chunks of an answer have in common.

    Args:
        kind: Begins its id: `chatcmpl-`, `cmpl-`.
    """

    def __init__(self, kind: str, model: str) -> None:
        self.id = new_id(kind)
        self.created = int(time.time())
        self.model = model

    def document(self, kind: str, choices: Sequence[Document], usage: Document | None) -> Document:
        """The answer, whole."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
        }


class ChunkWriter:
    """Writes the chunks of one stream; what they have in common is written once.

    Args:
        usage: Whether one more tells the tokens at the end; the others say null then.
    """

    def __init__(self, head: Head, kind: str, *, usage: bool) -> None:
        document = {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
        }
        self._before = b"data: " + orjson.dumps(document)[:-1] + b',"choices":['
        self._behind = b'],"usage":null}\n\n' if usage else b"]}\n\n"

    def choice(self, choice: Document) -> bytes:
        """The event of a choice."""
        return self._before + orjson.dumps(choice) + self._behind

    def usage(self, usage: Document) -> bytes:
        """The event without choices."""
        return self._before + b'],"usage":' + orjson.dumps(usage) + b"}\n\n"


def json_answer(document: Document) -> Response:
    """A whole answer."""
    return Response(orjson.dumps(document), media_type="application/json")


def tell_problem(problem: Problem, request_id: str) -> bytes:
    """The event of an error that came after the first one."""
    return b"data: " + openai_problem(problem).body(request_id) + b"\n\n"


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


def delta_document(answer: ChatAnswer, delta: Delta) -> Document:
    """More of a message, as a chunk has it."""
    if isinstance(delta, TextDelta):
        return {"content": delta.text}
    function: Document = {"arguments": delta.arguments}
    call: Document = {"index": delta.call}
    if delta.name:
        function = {"name": delta.name, **function}
        call |= {"id": answer.ids[delta.call], "type": "function"}
    return {"tool_calls": [call | {"function": function}]}


def usage_of(groups: Sequence[Sequence[Answering]]) -> Document:
    """Tokens that were taken.

    Args:
        groups: The answers of each prompt, whose tokens count once.
    """
    prompt = sum(group[0].prompt_tokens for group in groups)
    cached = sum(group[0].cached_tokens for group in groups)
    written = sum(answer.completion_tokens for group in groups for answer in group)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def chances(told: Sequence[Told]) -> list[orjson.Fragment]:
    """Log-probabilities of tokens, and of the likeliest ones at their places.

    They are written as they come: those of a long answer, all at its end, would hold up the others.
    """
    return [
        orjson.Fragment(
            orjson.dumps(
                {
                    **_chance(one.chosen),
                    "top_logprobs": [_chance(chance) for chance in one.likeliest],
                }
            )
        )
        for one in told
    ]


def _chance(chance: Chance) -> Document:
    return {
        "token": text_of(chance),
        "logprob": logprob_of(chance),
        "bytes": list(chance.text),
    }


def text_of(chance: Chance) -> str:
    """A token as text, as far as its bytes are one."""
    return chance.text.decode("utf-8", "replace")


def logprob_of(chance: Chance) -> float:
    """Its log-probability, as JSON has it."""
    return max(chance.logprob, _LEAST)
