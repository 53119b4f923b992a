"""Answers of `POST /v1/responses`: the document, and the events that it is told by as it grows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson
from orjson import Fragment

from aiaas_server.core.generation import Answering, Piece, TextDelta, ToolDelta
from aiaas_server.http.errors import Problem
from aiaas_server.http.openai.chat_answer import ChatAnswer, Document, new_id
from aiaas_server.http.openai.errors import openai_problem
from aiaas_server.http.openai.responses_request import ResponseCall

_ECHOED: Final[Document] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
}
"""What an answer tells again, and what it tells where nothing was asked."""
_LEFT: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseDocument:
    """The answer to one call, as far as it is known.

    Attributes:
        output: Its items.
    """

    def __init__(self, call: ResponseCall) -> None:
        self.id = new_id("resp_")
        self.output: list[Document] = []
        self._call = call
        self._created = int(time.time())

    def told(
        self,
        status: str = "in_progress",
        answering: Answering | None = None,
        reason: str | None = None,
    ) -> Document:
        """The whole document.

        Args:
            answering: Whose tokens are told; None before the end.
            reason: Why it is incomplete.
        """
        call = self._call
        echoed = {
            name: usual if call.asked.get(name) is None else call.asked[name]
            for name, usual in _ECHOED.items()
        }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": call.model,
            "output": self.output,
            "previous_response_id": None,
            "store": False,
            "temperature": call.ask.sampling.temperature,
            "top_p": call.ask.sampling.top_p,
            "truncation": "disabled",
            "usage": None if answering is None else _usage(answering),
            **echoed,
        }

    def ended(self, answer: ChatAnswer, answering: Answering) -> Document:
        """The document at its end."""
        reason = _LEFT.get(answer.finish or "")
        return self.told("incomplete" if reason else "completed", answering, reason)


def whole_output(answer: ChatAnswer, tells: bool) -> list[Document]:
    """The items of an answer that is at its end.

    Args:
        tells: Whether log-probabilities are told.
    """
    status = "incomplete" if answer.finish == "length" else "completed"
    calls = [
        _call(new_id("fc_"), ident, name, arguments, status)
        for ident, name, arguments in answer.calls()
    ]
    if calls and not answer.text:
        return calls
    part = _part(answer.text, answer.told if tells else ())
    return [_message(new_id("msg_"), [part], status), *calls]


class ResponseEvents:
    """Tells an answer as it grows; an item ends before the next one begins."""

    def __init__(self, call: ResponseCall, answer: ChatAnswer) -> None:
        self._document = ResponseDocument(call)
        self._tells = call.ask.logprobs is not None
        self._answer = answer
        self._number = 0
        self._open: _Item | None = None
        self._call = -1

    def begin(self) -> Iterator[bytes]:
        """The first events, when it is known that there is an answer."""
        yield self._event("response.created", response=self._document.told())
        yield self._event("response.in_progress", response=self._document.told())

    def take(self, piece: Piece) -> Iterator[bytes]:
        """What a piece brings."""
        deltas = self._answer.take(piece)
        told = self._answer.fresh
        for delta in deltas:
            if isinstance(delta, TextDelta):
                yield from self._text(delta, told)
                told = []
            else:
                yield from self._tool(delta)
        if told and isinstance(self._open, _Message):
            self._open.told += told

    def end(self, answering: Answering) -> Iterator[bytes]:
        """The last events."""
        yield from self._close("incomplete" if self._answer.finish == "length" else "completed")
        if not self._document.output:
            self._document.output += whole_output(self._answer, self._tells)
        document = self._document.ended(self._answer, answering)
        yield self._event(f"response.{document['status']}", response=document)

    def tell_problem(self, problem: Problem, request_id: str) -> bytes:
        """The event of an error that came in between."""
        error = openai_problem(problem).error()
        told = {"code": error["code"], "message": error["message"], "param": error["param"]}
        return self._event("error", **told)

    def _text(self, delta: TextDelta, told: list[Fragment]) -> Iterator[bytes]:
        item = self._open
        if not isinstance(item, _Message):
            yield from self._close()
            self._open = item = _Message()
            yield self._added(item)
            place = self._place(item) | {"content_index": 0}
            yield self._event("response.content_part.added", **place, part=_part("", ()))
        item.text.append(delta.text)
        item.told += told
        told_here = told if self._tells else []
        place = self._place(item) | {"content_index": 0}
        yield self._event(
            "response.output_text.delta", **place, delta=delta.text, logprobs=told_here
        )

    def _tool(self, delta: ToolDelta) -> Iterator[bytes]:
        item = self._open
        if not isinstance(item, _Call) or delta.call != self._call:
            yield from self._close()
            self._call = delta.call
            self._open = item = _Call(self._answer.ids[delta.call], delta.name)
            yield self._added(item)
        if delta.arguments:
            item.arguments.append(delta.arguments)
            name = "response.function_call_arguments.delta"
            yield self._event(name, **self._place(item), delta=delta.arguments)

    def _added(self, item: _Item) -> bytes:
        index = len(self._document.output)
        document = item.document("in_progress", begun=False)
        return self._event("response.output_item.added", output_index=index, item=document)

    def _close(self, status: str = "completed") -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        place = self._place(item)
        for name, members in item.done(self._tells):
            yield self._event(name, **place, **members)
        document = item.document(status, tells=self._tells)
        index = len(self._document.output)
        self._document.output.append(document)
        yield self._event("response.output_item.done", output_index=index, item=document)

    def _place(self, item: _Item) -> Document:
        return {"item_id": item.id, "output_index": len(self._document.output)}

    def _event(self, kind: str, **members: Any) -> bytes:
        document = {"type": kind, "sequence_number": self._number, **members}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(document))


class _Message:
    """Text that is being written."""

    def __init__(self) -> None:
        self.id = new_id("msg_")
        self.text: list[str] = []
        self.told: list[Fragment] = []

    def document(self, status: str, *, begun: bool = True, tells: bool = False) -> Document:
        parts = [_part("".join(self.text), self.told if tells else ())] if begun else []
        return _message(self.id, parts, status)

    def done(self, tells: bool) -> Iterator[tuple[str, Document]]:
        part = _part("".join(self.text), self.told if tells else ())
        text = {"text": part["text"], "logprobs": part["logprobs"]}
        yield "response.output_text.done", {"content_index": 0, **text}
        yield "response.content_part.done", {"content_index": 0, "part": part}


class _Call:
    """A call that is being written."""

    def __init__(self, call: str, name: str) -> None:
        self.id = new_id("fc_")
        self.call = call
        self.name = name
        self.arguments: list[str] = []

    def document(self, status: str, *, begun: bool = True, tells: bool = False) -> Document:
        arguments = "".join(self.arguments) if begun else ""
        return _call(self.id, self.call, self.name, arguments, status)

    def done(self, tells: bool) -> Iterator[tuple[str, Document]]:
        arguments = "".join(self.arguments)
        told = {"name": self.name, "arguments": arguments}
        yield "response.function_call_arguments.done", told


_Item = _Message | _Call


def _part(text: str, told: Sequence[Fragment]) -> Document:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(told)}


def _message(ident: str, parts: list[Document], status: str) -> Document:
    return {
        "id": ident,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": parts,
    }


def _call(ident: str, call: str, name: str, arguments: str, status: str) -> Document:
    return {
        "id": ident,
        "type": "function_call",
        "call_id": call,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _usage(answering: Answering) -> Document:
    return {
        "input_tokens": answering.prompt_tokens,
        "input_tokens_details": {"cached_tokens": answering.cached_tokens},
        "output_tokens": answering.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answering.prompt_tokens + answering.completion_tokens,
    }
