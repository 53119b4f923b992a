"""What the routes of models that write and speak take, for `/openapi.json`.

The routes read their members one by one, so that each is refused by name; a test holds what is
told here against what they read.
"""

from __future__ import annotations

from typing import Any, Final

from aiaas_server.http.openai.audio_request import FASTEST, FORMATS, SLOWEST, SPOKEN_FORMATS
from aiaas_server.http.openai.messages import CHOICES, MOST_TOOLS, ROLES
from aiaas_server.http.openapi import Body
from aiaas_server.http.sampling import (
    LONGEST_STOP,
    MOST_ANSWERS,
    MOST_BIASES,
    MOST_LIKELIEST,
    MOST_STOPS,
)

Document = dict[str, Any]


def _number(low: float, high: float, text: str = "") -> Document:
    return {"type": "number", "minimum": low, "maximum": high} | _about(text)


def _whole(low: int, high: int | None = None, text: str = "") -> Document:
    most = {} if high is None else {"maximum": high}
    return {"type": "integer", "minimum": low, **most} | _about(text)


def _words(*words: str) -> Document:
    return {"type": "string", "enum": list(words)}


def _about(text: str) -> Document:
    return {"description": text} if text else {}


def _object(*required: str, **properties: Document) -> Document:
    return {"type": "object", "required": list(required), "properties": properties}


_TEXT: Final[Document] = {"type": "string"}
_YES: Final[Document] = {"type": "boolean"}
_TEXTS: Final[Document] = {"type": "array", "items": _TEXT}
_STOP: Final[Document] = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}
_SCHEMA: Final[Document] = {"type": "object", "description": "A JSON Schema."}

_SAMPLING: Final[dict[str, Document]] = {
    "temperature": _number(0, 2, "0 takes the likeliest token each time."),
    "top_p": _number(0, 1),
    "top_k": _whole(-1, text="-1 and 0 are all tokens."),
    "min_p": _number(0, 1),
    "repetition_penalty": _number(0, 10),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "logit_bias": {
        "type": "object",
        "maxProperties": MOST_BIASES,
        "additionalProperties": _number(-100, 100),
        "description": "Token ids as keys.",
    },
    "seed": {"type": "integer", "description": "Equal seeds write equal texts."},
    "ignore_eos": {**_YES, "description": "Whether the model's own end ends no answer."},
    "stop": {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MOST_STOPS}]},
    "regex": {**_TEXT, "description": "What the answer must match, whole."},
    "grammar": {**_TEXT, "description": "What the answer must match, in Lark's notation."},
}
_FORMAT: Final = _object(
    "type",
    type=_words("text", "json_object", "json_schema"),
    json_schema=_object("schema", name=_TEXT, schema=_SCHEMA, strict=_YES),
)
_FUNCTION: Final = _object("name", name=_TEXT, description=_TEXT, parameters=_SCHEMA, strict=_YES)
_CALL: Final = _object(
    "function",
    id=_TEXT,
    type=_words("function"),
    function=_object("name", "arguments", name=_TEXT, arguments=_TEXT),
)
_CONTENT: Final[Document] = {
    "anyOf": [
        _TEXT,
        {
            "type": "array",
            "minItems": 1,
            "items": _object("type", "text", type=_words("text"), text=_TEXT),
        },
        {"type": "null"},
    ]
}
_MESSAGE: Final = _object(
    "role",
    role=_words(*ROLES),
    content=_CONTENT,
    name=_TEXT,
    tool_calls={"type": "array", "items": _CALL},
    tool_call_id=_TEXT,
)
_STREAMED: Final[dict[str, Document]] = {
    "stream": {**_YES, "description": "Whether it comes in events, as it is written."},
    "stream_options": _object(include_usage=_YES),
}
_OFTEN: Final = {"n": _whole(1, MOST_ANSWERS, "Answers.")}


def _chosen(named: Document) -> Document:
    return {"anyOf": [_words(*CHOICES), named]}


def _tools(tool: Document) -> Document:
    return {"type": "array", "maxItems": MOST_TOOLS, "items": tool}


def _named(name: str, function: Document) -> Document:
    return _object("type", name, type=_words("function"), **{name: function})


CHAT: Final = Body(
    _object(
        "model",
        "messages",
        model=_TEXT,
        messages={"type": "array", "minItems": 1, "items": _MESSAGE},
        max_completion_tokens=_whole(1),
        max_tokens=_whole(1),
        response_format=_FORMAT,
        tools=_tools(_named("function", _FUNCTION)),
        tool_choice=_chosen(_named("function", _object("name", name=_TEXT))),
        parallel_tool_calls=_YES,
        logprobs=_YES,
        top_logprobs=_whole(0, MOST_LIKELIEST),
        modalities={"type": "array", "items": _words("text")},
        chat_template_kwargs={"type": "object"},
        **_OFTEN,
        **_SAMPLING,
        **_STREAMED,
    )
)
_TOKENS: Final[Document] = {"type": "array", "minItems": 1, "items": _whole(0)}
COMPLETION: Final = Body(
    _object(
        "model",
        "prompt",
        model=_TEXT,
        prompt={"anyOf": [_TEXT, _TEXTS, _TOKENS, {"type": "array", "items": _TOKENS}]},
        max_tokens=_whole(1),
        response_format=_FORMAT,
        logprobs=_whole(0, MOST_LIKELIEST),
        echo=_YES,
        **_OFTEN,
        **_SAMPLING,
        **_STREAMED,
    )
)
RESPONSE: Final = Body(
    _object(
        "model",
        "input",
        model=_TEXT,
        input={"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {"type": "object"}}]},
        instructions=_TEXT,
        max_output_tokens=_whole(1),
        text=_object(
            format=_object(
                "type",
                type=_words("text", "json_object", "json_schema"),
                name=_TEXT,
                schema=_SCHEMA,
                strict=_YES,
            )
        ),
        tools=_tools({**_FUNCTION, "properties": {**_FUNCTION["properties"], "type": _TEXT}}),
        tool_choice=_chosen(_named("name", _TEXT)),
        parallel_tool_calls=_YES,
        top_logprobs=_whole(0, MOST_LIKELIEST),
        include=_TEXTS,
        stream=_STREAMED["stream"],
        **_SAMPLING,
    )
)
GENERATE: Final = Body(
    _object(
        text_input={**_TEXT, "description": "Of a model that writes; of others, tensors by name."},
        id=_TEXT,
        parameters={"type": "object", "description": "The same members, one level down."},
        max_tokens=_whole(1),
        exclude_input_in_output=_YES,
        stream=_YES,
        priority=_whole(0),
        timeout=_whole(0, text="Microseconds."),
        **_SAMPLING,
    )
)
TRANSCRIPTION: Final = Body(
    _object(
        "file",
        "model",
        file={"type": "string", "format": "binary"},
        model=_TEXT,
        response_format=_words(*FORMATS),
        language=_TEXT,
        prompt=_TEXT,
        temperature=_number(0, 1),
        **{"timestamp_granularities[]": {"type": "array", "items": _words("segment")}},
    ),
    "multipart/form-data",
)
SPEECH: Final = Body(
    _object(
        "model",
        "input",
        model=_TEXT,
        input=_TEXT,
        voice={**_TEXT, "description": "Any: a model has one of its own."},
        response_format=_words(*SPOKEN_FORMATS),
        speed=_number(SLOWEST, FASTEST),
        stream_format=_words("audio"),
    )
)
