"""What `/openapi.json` tells of routes of models that write is what they read, no more or less."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.http.members import Members
from aiaas_server.http.oip.generate_text import KNOWN
from aiaas_server.http.openai.audio_request import Form, read_speech, read_transcription
from aiaas_server.http.openai.chat_request import read_chat_call
from aiaas_server.http.openai.completion_request import read_completion_call
from aiaas_server.http.openai.responses_request import read_response_call
from aiaas_server.http.openapi import Body
from aiaas_server.http.writing_schemas import (
    CHAT,
    COMPLETION,
    GENERATE,
    RESPONSE,
    SPEECH,
    TRANSCRIPTION,
)
from tests.server.http.scripted_generator import ScriptedGenerator

HI = [{"role": "user", "content": "hi"}]


class Read(dict[str, Any]):
    """Remembers which members were looked at."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)


class Refusing(Members):
    """Remembers which members may only have the value that changes nothing."""

    def __init__(self, document: Read) -> None:
        super().__init__(document)
        self.refused: set[str] = set()

    def refuse(self, name: str, reason: str, **fine: Any) -> None:
        self.refused.add(name)
        super().refuse(name, reason, **fine)


@pytest.mark.parametrize(
    ("read", "body", "asked"),
    [
        pytest.param(read_chat_call, CHAT, {"messages": HI, "logprobs": True}, id="chat"),
        pytest.param(
            lambda *given: read_completion_call(*given, 10),
            COMPLETION,
            {"prompt": "hi"},
            id="completion",
        ),
        pytest.param(read_response_call, RESPONSE, {"input": "hi"}, id="response"),
    ],
)
def test_members_that_are_told_are_those_that_are_read(
    read: Callable[..., Any], body: Body, asked: dict[str, Any]
) -> None:
    document = Read({"model": "writer", **asked})
    members = Refusing(document)
    read(members, ScriptedGenerator())
    # With no format asked for, what belongs to one is not looked at.
    assert body.schema["properties"].keys() == document.names - members.refused
    jsonschema.validate(dict(document), body.schema)


def test_members_of_the_generate_extension() -> None:
    assert GENERATE.schema["properties"].keys() == {*KNOWN, "id", "parameters"}


def test_members_of_what_is_spoken() -> None:
    document = Read({"model": "m", "input": "hello", "voice": "alloy"})
    read_speech(document)
    assert SPEECH.schema["properties"].keys() == document.names - {"instructions"}


def test_fields_of_a_transcription() -> None:
    fields = Read({"model": ("m",), "timestamp_granularities[]": ()})
    told = TRANSCRIPTION.schema["properties"].keys()
    read_transcription(Form(b"RIFF", fields))
    assert told - {"file"} <= fields.names
    assert TRANSCRIPTION.media_type == "multipart/form-data"


@pytest.mark.parametrize(
    "body", [CHAT, COMPLETION, RESPONSE, GENERATE, TRANSCRIPTION, SPEECH], ids=lambda _: "body"
)
def test_each_is_a_schema(body: Body) -> None:
    jsonschema.Draft202012Validator.check_schema(body.schema)
    json.dumps(body.schema)


@pytest.mark.parametrize(
    "name", [name for name in CHAT.schema["properties"] if name != "chat_template_kwargs"]
)
def test_a_value_that_no_schema_allows_is_refused_by_name(name: str) -> None:
    asked = {"model": "writer", "messages": HI, "logprobs": True, name: [[]]}
    with pytest.raises(InvalidInput, match=f"'{name}"):
        read_chat_call(Members(asked), ScriptedGenerator())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(asked, CHAT.schema)
