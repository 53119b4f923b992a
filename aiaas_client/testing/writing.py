"""OpenAI's routes of a fake server: Python functions as models that write, and that hear."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from email.policy import HTTP
from itertools import islice
from typing import Any

from pydantic import BaseModel

from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.testing.fake_model import CODES, FakeError
from aiaas_client.testing.state import Answer, RecordedRequest, State

_CREATED = 1_700_000_000
_OWN = frozenset({"model", "messages", "prompt", "stream", "stream_options", "n"})
_JSON = ("Content-Type", "application/json")
_EVENTS = ("Content-Type", "text/event-stream; charset=utf-8")


def on_openai(answer: Callable[[], Answer]) -> Answer:
    """Answer, with errors as OpenAI's routes have them."""
    try:
        return answer()
    except FakeError as error:
        return Answer(error.status, _text(_error(error.text, error.code)), [_JSON])
    except ValueError as error:
        return Answer(400, _text(_error(str(error), CODES[400])), [_JSON])


def written(state: State, request: RecordedRequest, *, chat: bool) -> Answer:
    """Answer `/v1/chat/completions`, or `/v1/completions`."""
    body = PYDANTIC_JSON.loads(_posted(request).body)
    function = _find(state.writers, body.get("model"))
    member = "messages" if chat else "prompt"
    if not body.get(member):
        raise FakeError(400, f"{member!r}: expected one")
    prompt = body[member]
    options = _accepted(function, {k: v for k, v in body.items() if k not in _OWN})
    answers = [_Written(function(prompt, **options)) for _ in range(body.get("n") or 1)]
    form = _Form(body["model"], chat, _words(prompt))
    if not body.get("stream"):
        return Answer(200, _text(form.whole(answers)), [_JSON])
    with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
    events = form.events(answers, with_usage=with_usage)
    first = list(islice(events, 2 if chat else 1))  # what fails before it is an answer
    return Answer(200, b"", [_EVENTS], _sent(first, events))


def heard(state: State, request: RecordedRequest) -> Answer:
    """Answer `/v1/audio/transcriptions`."""
    kind = _posted(request).headers.get("content-type", "")
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.body
    )
    parts = {
        one.get_param("name", header="content-disposition"): one for one in message.iter_parts()
    }
    content: dict[str, Any] = {
        str(name): one.get_payload(decode=True) for name, one in parts.items()
    }
    if "file" not in content:
        raise FakeError(400, "'file': expected a recording")
    fields = {name: value.decode() for name, value in content.items() if name != "file"}
    function = _find(state.hearers, fields.pop("model", None))
    form = fields.get("response_format", "json")
    told = function(content["file"], **_accepted(function, fields))
    if isinstance(told, str):
        told = {"text": told} if form in ("json", "verbose_json") else told
    if isinstance(told, str):
        return Answer(200, told.encode(), [("Content-Type", "text/plain; charset=utf-8")])
    document = told.model_dump(mode="json") if isinstance(told, BaseModel) else dict(told)
    return Answer(200, _text(document), [_JSON])


def _posted(request: RecordedRequest) -> RecordedRequest:
    if request.method != "POST":
        raise FakeError(405, "Method Not Allowed")
    return request


def _find(served: Mapping[str, Any], name: Any) -> Callable[..., Any]:
    plain = name.partition("@")[0] if isinstance(name, str) else name  # all versions are one
    if plain not in served:
        raise FakeError(404, f"model {name!r} is not found", code="model_not_found")
    found: Callable[..., Any] = served[plain]
    return found


def _accepted(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the function has arguments for; a real server heeds them all."""
    parameters = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(options)
    return {name: value for name, value in options.items() if name in parameters}


class _Written:
    """What a function gave: pieces of text, and perhaps calls and a reason to end."""

    def __init__(self, given: Any) -> None:
        told = given if isinstance(given, Mapping) else {"content": given}
        content = told.get("content") or ()
        self.pieces: Iterable[str] = (content,) if isinstance(content, str) else content
        self.calls = [_call(at, one) for at, one in enumerate(told.get("tool_calls") or ())]
        default = "tool_calls" if self.calls else "stop"
        self.finish: str = told.get("finish_reason") or default


def _call(at: int, told: Mapping[str, Any]) -> dict[str, Any]:
    arguments = told.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    function = {"name": told["name"], "arguments": text}
    return {"id": told.get("id", f"call_{at}"), "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class _Form:
    """The documents of one answer; a word counts as a token."""

    model: str
    chat: bool
    prompt_tokens: int

    def whole(self, answers: list[_Written]) -> dict[str, Any]:
        """All of it at once."""
        choices, words = [], 0
        for index, one in enumerate(answers):
            text = "".join(one.pieces)
            words += _words(text)
            said: dict[str, Any] = {"text": text}
            if self.chat:
                content = text or (None if one.calls else "")
                calls = one.calls or None
                said = {"message": {"role": "assistant", "content": content, "tool_calls": calls}}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": one.finish})
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self._usage(words)}

    def events(self, answers: list[_Written], *, with_usage: bool) -> Iterator[dict[str, Any]]:
        """The events of a stream, the answers one behind another."""
        words = 0
        for index, one in enumerate(answers):
            if self.chat:
                yield self._event(index, {"role": "assistant", "content": ""})
            for piece in one.pieces:
                words += _words(piece)
                yield self._event(index, {"content": piece} if self.chat else piece)
            for at, call in enumerate(one.calls):
                yield self._event(index, {"tool_calls": [{"index": at, **call}]})
            yield self._event(index, {} if self.chat else "", one.finish)
        if with_usage:
            yield {**self._head(self._kind), "choices": [], "usage": self._usage(words)}

    def _event(self, index: int, added: Any, finish: str | None = None) -> dict[str, Any]:
        said = {"delta" if self.chat else "text": added}
        choice = {"index": index, **said, "logprobs": None, "finish_reason": finish}
        return {**self._head(self._kind), "choices": [choice]}

    @property
    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _head(self, kind: str) -> dict[str, Any]:
        name = "chatcmpl-1" if self.chat else "cmpl-1"
        return {"id": name, "object": kind, "created": _CREATED, "model": self.model}

    def _usage(self, words: int) -> dict[str, Any]:
        total = self.prompt_tokens + words
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": words,
            "total_tokens": total,
        }


def _words(prompt: Any) -> int:
    if isinstance(prompt, str):
        return len(prompt.split())
    return sum(len(str(one.get("content") or "").split()) for one in prompt)


def _sent(first: list[dict[str, Any]], rest: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """Events as they are written; an error after the first is told in an event of its own."""
    try:
        for event in first:
            yield _event(event)
        for event in rest:
            yield _event(event)
    except FakeError as error:
        yield _event(_error(error.text, error.code))
    except Exception as error:
        yield _event(_error(f"{type(error).__name__}: {error}", "inference_failed"))
    finally:  # also when the client has gone
        rest.close()  # type: ignore[attr-defined]  # a generator
    yield b"data: [DONE]\n\n"


def _error(text: str, code: str) -> dict[str, Any]:
    told = {"message": text, "type": "invalid_request_error", "param": None, "code": code}
    return {"error": told}


def _event(document: Mapping[str, Any]) -> bytes:
    return b"data: " + _text(document) + b"\n\n"


def _text(document: Mapping[str, Any]) -> bytes:
    return PYDANTIC_JSON.dumps(dict(document))
