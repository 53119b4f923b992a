"""Chats with a real model of a few random weights: over a socket, and in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

pytest.importorskip("aiaas_server.generate.opening", reason="what runs such models is not here")

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    Client,
    InputError,
    VersionNotFoundError,
)
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.tiny_llm import CONFIG, write_model
from tests.waiting import wait_until

MESSAGES = [{"role": "user", "content": "the quick brown fox"}]
FEW: Any = {"max_tokens": 12, "temperature": 0}


class Mood(BaseModel):
    """What the model has to say in JSON."""

    mood: Literal["good", "bad"]
    sure: bool


class Sure(BaseModel):
    sure: bool


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository: Path = tmp_path_factory.mktemp("models")
    write_model(repository, tools="hermes")
    return repository


@pytest.fixture(scope="module", params=["socket", "local"])
def client(request: pytest.FixtureRequest, repository: Path) -> Iterator[Client]:
    if request.param == "local":
        with Client.local(repository) as client:
            yield client
        return
    with serving(create_app(Settings(models=repository))) as server, Client(server.url) as client:
        yield client


def test_a_stream_says_what_the_whole_answer_says(client: Client) -> None:
    whole = client.chat("tiny", MESSAGES, **FEW)
    assert whole.text
    assert 0 < whole.usage.completion_tokens <= 12
    with client.chat("tiny", MESSAGES, stream=True, **FEW) as stream:
        assert "".join(stream.text_stream) == whole.text
    assert stream.generation.usage.completion_tokens == whole.usage.completion_tokens
    assert stream.generation.finish_reason == whole.finish_reason


def test_a_text_is_gone_on_with(client: Client) -> None:
    whole = client.model("tiny").generate("the river runs", **FEW)
    assert whole.text
    stream = client.generate("tiny", "the river runs", stream=True, **FEW)
    assert "".join(stream.text_stream) == whole.text
    assert stream.generation.finish_reason == whole.finish_reason


def test_an_answer_has_the_form_that_was_asked_for(client: Client) -> None:
    found = client.chat("tiny", MESSAGES, response_format=Mood, max_tokens=60, seed=1)
    assert found.parsed.mood in ("good", "bad")
    found = client.chat("tiny", MESSAGES, regex="(yes|no)", seed=3, max_tokens=9)
    assert found.text in ("yes", "no")


def test_a_tool_is_called(client: Client) -> None:
    options: Any = {"tools": [Sure], "tool_choice": "Sure", "max_tokens": 60, "seed": 1}
    found = client.chat("tiny", "sure?", **options)
    (call,) = found.tool_calls
    assert Sure.model_validate_json(call.function.arguments)
    assert found.finish_reason == "tool_calls"
    stream = client.chat("tiny", "sure?", stream=True, **options)
    assert "".join(stream.text_stream) == ""
    (streamed,) = stream.generation.tool_calls
    assert streamed.function == call.function


def test_many_are_answered_as_one_by_one(client: Client) -> None:
    prompts = [f"the river {number}" for number in range(12)]
    alone = [client.chat("tiny", prompt, **FEW).text for prompt in prompts]
    assert [one.text for one in client.chat.many("tiny", prompts, **FEW)] == alone


def test_what_the_server_refuses_is_told(client: Client) -> None:
    with pytest.raises(BadRequestError, match=str(CONFIG.context)):
        client.chat("tiny", "the sea " * CONFIG.context)
    with pytest.raises(BadRequestError, match="temperature"):
        client.chat("tiny", MESSAGES, temperature=-1.0)
    with pytest.raises(InputError, match="at least one"):
        client.chat("tiny", [])


def test_a_version_is_asked_by_its_number(client: Client) -> None:
    newest = client.chat("tiny", MESSAGES, **FEW).text
    assert client.model("tiny", 1).chat(MESSAGES, **FEW).text == newest
    assert client.chat("tiny@1", MESSAGES, **FEW).text == newest
    with pytest.raises(VersionNotFoundError, match="7"):
        client.model("tiny", 7).chat(MESSAGES, **FEW)
    with pytest.raises(VersionNotFoundError, match="staging"):
        client.chat("tiny@staging", MESSAGES, **FEW)


def test_leaving_early_frees_the_model(client: Client) -> None:
    stream = client.chat("tiny", MESSAGES, stream=True, ignore_eos=True, max_tokens=400)
    for _ in stream.text_stream:
        break
    stream.close()
    wait_until(lambda: client.chat("tiny", MESSAGES, **FEW).text != "")


async def test_tasks_share_a_model_in_this_process(repository: Path) -> None:
    async with AsyncClient.local(repository) as client:
        asked = [client.chat("tiny", f"the fox {number}", **FEW) for number in range(6)]
        whole = [one.text for one in await asyncio.gather(*asked)]
        for number, text in enumerate(whole):
            stream = client.chat("tiny", f"the fox {number}", stream=True, **FEW)
            assert "".join([piece async for piece in stream.text_stream]) == text
        many = client.chat.many("tiny", [f"the fox {number}" for number in range(6)], **FEW)
        assert [one.text async for one in many] == whole
