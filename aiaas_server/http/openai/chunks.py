"""Answers of chats as OpenAI's clients read them: whole, and in chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import orjson
from starlette.responses import Response

from aiaas_server.core.generation import Answering, Delta, TextDelta
from aiaas_server.http.errors import Problem
from aiaas_server.http.openai.chat_answer import ChatAnswer, Document, new_id
from aiaas_server.http.openai.errors import openai_problem

DONE: Final = b"data: [DONE]\n\n"


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
