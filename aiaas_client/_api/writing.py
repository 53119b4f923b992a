"""Calls of models that write: chats and completions on OpenAI's routes, whole or as streams."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict

from aiaas_client import _errors as errors
from aiaas_client._api.call import JSON_BODY, Call, Response, ServerEvent, StreamCall, read_json
from aiaas_client._api.collecting import Collected
from aiaas_client._api.failures import stream_error
from aiaas_client._api.generation import Generation

if TYPE_CHECKING:
    from pydantic import BaseModel

    from aiaas_client.protocol.generation import ChatChunk, Completion

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
DONE = "[DONE]"

Message = Mapping[str, Any]
"""`{"role": "user", "content": "..."}`, as OpenAI has messages."""


class GenerationOptions(TypedDict, total=False):
    """How a model writes; what is left out, the model's card or the server says.

    `regex` and `grammar` (Lark's notation) say what the whole answer must be; `ignore_eos` goes on
    behind the model's own end, to `max_tokens`. `extra` has further members of the request, for
    servers that know more. `timeout` and `deadline` (seconds) are this call's, not the client's.
    """

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    n: int | None
    logprobs: bool | int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[str, float] | Mapping[int, float] | None
    regex: str | None
    grammar: str | None
    ignore_eos: bool | None
    extra: Mapping[str, Any] | None
    timeout: float | None
    deadline: float | None


class ChatOptions(GenerationOptions, total=False):
    """How a model answers in a chat.

    `tools` are OpenAI's dictionaries, or pydantic classes: a class is a function whose arguments
    are its fields. `tool_choice` is "none", "auto", "required", or the name of one of them.
    """

    tools: Sequence[Mapping[str, Any] | type[BaseModel]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    top_logprobs: int | None


_VALUES = frozenset({"const", "default", "enum", "examples"})  # in a schema, no schemas
_NOT_SENT = frozenset({"extra", "timeout", "deadline"})
_CHOICES = frozenset({"none", "auto", "required"})


def chat(
    model: str, messages: str | Sequence[Message], wanted: object, options: Mapping[str, Any]
) -> Call[Generation[Any]]:
    """`POST /v1/chat/completions`.

    Args:
        messages: The conversation; a text is what the user says.
        wanted: A pydantic class, a `response_format`, or None.
        options: As `ChatOptions` has them.
    Raises:
        InputError: Something cannot be sent; it is named.
    """
    return chat_of(model, content_of(model, chat_body(model, messages, wanted, options)), wanted)


def chat_of(model: str, content: bytes, wanted: object) -> Call[Generation[Any]]:
    """The same, of a body that was written before."""
    return _call(CHAT, model, content, _Read(model, "ChatCompletion", class_of(wanted)))


def chat_stream(
    model: str, messages: str | Sequence[Message], wanted: object, options: Mapping[str, Any]
) -> tuple[StreamCall[ChatChunk], Collected]:
    """The same, whose events come one by one, and what collects them."""
    body = chat_body(model, messages, wanted, options)
    return _stream(CHAT, model, body, _ReadEvent(model, "ChatChunk", class_of(wanted)))


def completion(model: str, prompt: str, options: Mapping[str, Any]) -> Call[Generation[None]]:
    """`POST /v1/completions`.

    Raises:
        InputError: Something cannot be sent; it is named.
    """
    content = content_of(model, _completion_body(model, prompt, options))
    return _call(COMPLETION, model, content, _Read(model, "Completion", None))


def completion_stream(
    model: str, prompt: str, options: Mapping[str, Any]
) -> tuple[StreamCall[Completion], Collected]:
    """The same, whose events come one by one, and what collects them."""
    body = _completion_body(model, prompt, options)
    return _stream(COMPLETION, model, body, _ReadEvent(model, "Completion", None))


def class_of(wanted: object) -> type[BaseModel] | None:
    """The pydantic class that an answer is to be read as, if one was given."""
    return wanted if isinstance(wanted, type) else None


def chat_body(
    model: str, messages: str | Sequence[Message], wanted: object, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The members of a request for an answer in a chat."""
    body = {"model": model, "messages": _messages(messages), **checked(options, ChatOptions)}
    if body.get("tools") is not None:
        body["tools"] = [_tool(one) for one in body["tools"]]
    choice = body.get("tool_choice")
    if isinstance(choice, str) and choice not in _CHOICES:
        body["tool_choice"] = {"type": "function", "function": {"name": choice}}
    if wanted is not None:
        body["response_format"] = _format(wanted)
    return body


def _completion_body(model: str, prompt: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(prompt, str):
        raise errors.InputError(f"prompt: expected text, got {type(prompt).__name__}", model=model)
    return {"model": model, "prompt": prompt, **checked(options, GenerationOptions)}


def _messages(messages: Any) -> list[Any]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or isinstance(messages, bytes):
        kind = type(messages).__name__
        raise errors.InputError(f"messages: expected a text or a list of messages, got {kind}")
    if not messages:
        raise errors.InputError("messages: expected at least one, got none")
    for at, one in enumerate(messages):
        if not isinstance(one, Mapping):
            text = f"messages[{at}]: expected a mapping with 'role' and 'content'"
            raise errors.InputError(f"{text}, got {type(one).__name__}")
    return list(map(dict, messages))


def checked(options: Mapping[str, Any], known: Any) -> dict[str, Any]:
    """The options that are given and sent.

    Raises:
        OptionTypeError: One that is not known.
        InputError: A number that is none.
    """
    names = known.__annotations__
    for name, value in options.items():
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
            raise errors.OptionTypeError(f"unexpected option {name!r}; {hint}")
        if isinstance(value, float) and not math.isfinite(value):
            raise errors.InputError(f"{name}: expected a finite number, got {value}")
    given = {
        name: value
        for name, value in options.items()
        if value is not None and name not in _NOT_SENT
    }
    return {**given, **(options.get("extra") or {})}


def _tool(tool: Any) -> Any:
    if isinstance(tool, Mapping):
        return dict(tool)
    schema = _schema(tool, "tools")
    function = {"name": tool.__name__, "parameters": schema}
    described = (tool.__doc__ or "").strip()
    if described:
        function["description"] = described
    return {"type": "function", "function": function}


def _format(wanted: Any) -> Any:
    if isinstance(wanted, Mapping):
        return dict(wanted)
    schema = _schema(wanted, "response_format")
    return {
        "type": "json_schema",
        "json_schema": {"name": wanted.__name__, "schema": schema, "strict": True},
    }


def _schema(kind: Any, name: str) -> Any:
    make = getattr(kind, "model_json_schema", None)
    if not callable(make):
        got = f"{kind!r}" if isinstance(kind, type | str) else type(kind).__name__
        raise errors.OptionTypeError(f"{name}: expected a mapping or a pydantic class, got {got}")
    return _closed(make())


def _closed(schema: Any) -> Any:
    """A schema whose objects have their properties and no others, unless it says otherwise.

    Titles, which pydantic makes of the names, would be tokens that tell nothing.
    """
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: value if name in _VALUES else _closed(value)
        for name, value in schema.items()
        if name != "title" or not isinstance(value, str)
    }
    if schema.get("type") == "object" and "properties" in schema:
        found.setdefault("additionalProperties", False)
    return found


def _call(path: str, model: str, content: bytes, read: Callable[[Response], Any]) -> Call[Any]:
    return Call(
        "POST",
        path,
        read,
        headers=(JSON_BODY,),
        content=[content],
        content_length=len(content),
        model=model,
        optional=True,  # other servers of the protocol write nothing
    )


def _stream(
    path: str, model: str, body: dict[str, Any], read: _ReadEvent
) -> tuple[StreamCall[Any], Collected]:
    told = {"stream": True, "stream_options": {"include_usage": True}}
    call = _call(path, model, content_of(model, {**body, **told}), _nothing)
    return StreamCall(call, read, DONE), read.collected


def content_of(model: str, body: dict[str, Any]) -> bytes:
    """A request's body as JSON.

    Raises:
        InputError: A member that JSON cannot carry, half of a character, a model that is no name.
    """
    if not isinstance(model, str):
        raise errors.InputError(f"model: expected its name, got {type(model).__name__}")
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        text = "the text holds half of a character (a lone surrogate)"
        raise errors.InputError(f"model {model!r}: {text}", model=model) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.InputError(f"model {model!r}: {error}", model=model) from error


def _nothing(response: Response) -> None:
    """Of a stream only the events are read."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Reads a whole answer."""

    model: str
    kind: str
    parsed: type[BaseModel] | None

    def __call__(self, response: Response) -> Generation[Any]:
        document = read_document(self.kind, self.model, read_json(response.body))
        return Generation(document, response.request_id, response.timing, None, self.parsed)


@dataclass(slots=True)
class _ReadEvent:
    """Reads the events of one stream, and collects what they tell."""

    model: str
    kind: str
    parsed: type[BaseModel] | None
    collected: Collected = field(init=False)

    def __post_init__(self) -> None:
        self.collected = Collected(is_chat=self.kind == "ChatChunk", parsed=self.parsed)

    def __call__(self, event: ServerEvent) -> Any:
        document = read_json(event.data)
        failure = stream_error(document, self.model)
        if failure is not None:
            raise failure
        chunk = read_document(self.kind, self.model, document)
        self.collected.add(chunk)
        return chunk


def read_document(kind: str, model: str, document: Any) -> Any:
    """Read a document of `protocol.generation`; a member that is null is one that is not told.

    Raises:
        ProtocolError: It is none.
    """
    from pydantic import ValidationError

    from aiaas_client.protocol import generation

    try:
        return getattr(generation, kind).model_validate(_told(document))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise errors.ProtocolError(
            f"model {model!r}: not a {kind}: {where}: {first['msg']}", model=model
        ) from error


def _told(document: Any) -> Any:
    """A document without members that are null: other servers put them where ours has none."""
    if isinstance(document, dict):
        return {name: _told(value) for name, value in document.items() if value is not None}
    return [_told(one) for one in document] if isinstance(document, list) else document
