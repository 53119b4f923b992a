"""A fake server's models that write and hear, as the official OpenAI client finds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from aiaas_client.testing import FakeError, FakeServer


def say(messages: Any, temperature: float = 1.0) -> Any:
    said = messages[-1]["content"]
    if said == "nothing":
        raise FakeError(429, "too many", code="rate_limited")
    if said == "wrong":
        raise ValueError("messages: not these")
    if said == "call":
        return {"content": "so:", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}
    return {"content": [f"{temperature} ", said], "finish_reason": "length"}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as one:
        one.add_writer("m", say)
        one.add_writer("tail", lambda prompt: f"{prompt}...")
        one.add_hearer("ears", lambda audio: f"{len(audio)} bytes")
        yield one


@pytest.fixture
def client(server: FakeServer) -> Iterator[openai.OpenAI]:
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, said: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": said}]
    return client.chat.completions.create(model="m", messages=messages, **options)


def test_a_chat_is_whole_or_in_events(client: openai.OpenAI) -> None:
    whole = ask(client, "hi", temperature=0.5, n=2)
    assert [one.message.content for one in whole.choices] == ["0.5 hi", "0.5 hi"]
    assert whole.choices[0].finish_reason == "length"
    events = list(ask(client, "hi", stream=True))
    assert [one.choices[0].delta.content for one in events] == ["", "1.0 ", "hi", None]
    assert events[-1].choices[0].finish_reason == "length"
    counted = list(ask(client, "hi", stream=True, stream_options={"include_usage": True}))
    assert (counted[-1].choices, counted[-1].usage.total_tokens) == ([], 3)


def test_calls_stand_beside_the_text(client: openai.OpenAI) -> None:
    choice = ask(client, "call").choices[0]
    assert (choice.message.content, choice.finish_reason) == ("so:", "tool_calls")
    assert choice.message.tool_calls[0].function.arguments == '{"x": 1}'
    (event,) = [one for one in ask(client, "call", stream=True) if one.choices[0].delta.tool_calls]
    assert event.choices[0].delta.tool_calls[0].function.name == "f"


def test_texts_and_recordings(client: openai.OpenAI) -> None:
    assert client.completions.create(model="tail", prompt="so").choices[0].text == "so..."
    (first, last) = client.completions.create(model="tail", prompt="so", stream=True)
    assert (first.choices[0].text, last.choices[0].finish_reason) == ("so...", "stop")
    found = client.audio.transcriptions.create(model="ears", file=b"RIFF")
    assert found.text == "4 bytes"
    text = client.audio.transcriptions.create(model="ears", file=b"RIFF", response_format="text")
    assert text == "4 bytes"


def test_errors_are_of_openais_form(client: openai.OpenAI, server: FakeServer) -> None:
    for said, kind, code in (
        ("nothing", openai.RateLimitError, "rate_limited"),
        ("wrong", openai.BadRequestError, "invalid_request"),
    ):
        with pytest.raises(kind) as raised:
            ask(client, said)
        assert raised.value.code == code
    with pytest.raises(openai.NotFoundError, match="'tail' is not found"):
        server.remove("tail")
        client.completions.create(model="tail", prompt="so")
