"""Models that write and hear: what a caller's checker is told of their answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, assert_type

from pydantic import BaseModel

from aiaas_client import (
    AiaasError,
    AsyncClient,
    AsyncGenerationStream,
    ChatChunk,
    Client,
    Completion,
    Generation,
    GenerationStream,
    ToolCall,
    Transcription,
    Usage,
)


class Person(BaseModel):
    name: str


def threads(client: Client, talk: Path) -> None:
    messages = [{"role": "user", "content": "hello"}]
    found = client.chat("m", messages, max_tokens=3, temperature=0.5, stop=["\n"])
    assert_type(found, Generation[None])
    assert_type(found.text, str)
    assert_type(found.usage, Usage)
    assert_type(found.tool_calls, list[ToolCall])
    person = client.chat("m", "who?", response_format=Person, tools=[Person])
    assert_type(person.parsed, Person)
    stream = client.chat("m", "hello", stream=True)
    assert_type(stream, GenerationStream[ChatChunk])
    assert_type(stream.text_stream, Generator[str, None, None])
    assert_type(client.chat.many("m", ["a"]), Generator[Generation[Any], None, None])
    both = client.chat.many("m", ["a"], on_error="return", concurrency=2, seed=1)
    assert_type(both, Generator[Generation[Any] | AiaasError, None, None])

    assert_type(client.chat(model="m", messages=messages), Generation[None])
    assert_type(client.generate(model="m", prompt="once"), Generation[None])
    assert_type(client.transcribe(model="m", audio=talk), Transcription)
    assert_type(client.generate("m", "once", max_tokens=3), Generation[None])
    assert_type(client.generate("m", "once", stream=True), GenerationStream[Completion])
    assert_type(client.transcribe("m", talk), Transcription)
    assert_type(client.transcribe("m", talk, format="srt", language="en"), str)

    model = client.model("m")
    assert_type(model.chat(messages), Generation[None])
    assert_type(model.chat(messages, response_format=Person).parsed, Person)
    assert_type(model.chat(messages, stream=True), GenerationStream[ChatChunk])
    assert_type(model.generate("once"), Generation[None])
    assert_type(model.generate("once", stream=True), GenerationStream[Completion])
    assert_type(model.generate(x=1), dict[str, Any])
    assert_type(model.generate({"x": 1}), dict[str, Any])
    assert_type(model.transcribe(talk), Transcription)


async def tasks(client: AsyncClient, talk: Path) -> None:
    found = await client.chat("m", "hello", max_tokens=3)
    assert_type(found, Generation[None])
    assert_type((await client.chat("m", "who?", response_format=Person)).parsed, Person)
    stream = client.chat("m", "hello", stream=True)
    assert_type(stream, AsyncGenerationStream[ChatChunk])
    assert_type(stream.text_stream, AsyncGenerator[str, None])
    assert_type(client.chat.many("m", ["a"]), AsyncGenerator[Generation[Any], None])
    assert_type(await client.generate("m", "once"), Generation[None])
    assert_type(client.generate("m", "once", stream=True), AsyncGenerationStream[Completion])
    assert_type(await client.transcribe("m", talk), Transcription)
    assert_type(await client.transcribe("m", talk, format="vtt"), str)

    model = client.model("m")
    assert_type(await model.chat("hello"), Generation[None])
    assert_type((await model.chat("who?", response_format=Person)).parsed, Person)
    assert_type(model.chat("hello", stream=True), AsyncGenerationStream[ChatChunk])
    assert_type(await model.generate("once"), Generation[None])
    assert_type(await model.generate(x=1), dict[str, Any])
    assert_type(await model.transcribe(talk), Transcription)


def wrong(client: Client) -> None:
    client.chat("m", "hello", temprature=1.0)  # type: ignore[call-overload]
    client.chat("m", 3)  # type: ignore[call-overload]
