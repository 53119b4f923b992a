"""The official OpenAI client, unmodified, against a model that writes.

The model is a few thousand random weights: what it says has no sense, but it is the same each time,
and whatever form is demanded of it, it has to keep.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import LiveServer, serving
from tests.tiny_llm import CONFIG, write_model
from tests.waiting import wait_until

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": [{"type": "text", "text": "the quick brown fox"}]},
]


class Answer(BaseModel):
    """What the model has to say in JSON."""

    mood: Literal["good", "bad"]
    sure: bool


WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Rome", "Paris"]}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    repository: Path = tmp_path_factory.mktemp("models")
    write_model(repository, tools="hermes")
    with serving(create_app(Settings(models=repository))) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **given: Any) -> Any:
    """A chat of a few tokens, always the same."""
    given = {"max_tokens": 12, "temperature": 0, "messages": MESSAGES, **given}
    return client.chat.completions.create(model="tiny", **given)


def test_a_chat(client: openai.OpenAI) -> None:
    answer = ask(client)
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("length", "stop")
    assert answer.usage.prompt_tokens > 10
    assert 1 <= answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_is_the_same_text(client: openai.OpenAI) -> None:
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


async def test_the_asynchronous_client(server: LiveServer, client: openai.OpenAI) -> None:
    whole = await asyncio.to_thread(ask, client)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as own:

        async def text() -> str:
            stream = await own.chat.completions.create(
                model="tiny", messages=MESSAGES, max_tokens=12, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        texts = await asyncio.gather(*(text() for _ in range(6)))
    assert set(texts) == {whole.choices[0].message.content}


def test_a_seed_gives_the_same_text_again_and_several_differ(client: openai.OpenAI) -> None:
    given = {"temperature": 1.5, "seed": 7, "n": 3}
    first, second = (
        [one.message.content for one in ask(client, **given).choices] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) > 1


def test_what_several_answers_took_is_what_is_counted(
    server: LiveServer, client: openai.OpenAI
) -> None:
    """The prompt once, and each answer: in the client's usage as in what is metered."""
    (model,) = server.app.pool.models()
    counts: Any = model.generator.counts  # type: ignore[union-attr]
    before = (counts.tokens_in, counts.tokens_out)
    usage = ask(client, n=3, temperature=1, seed=5, extra_body={"ignore_eos": True}).usage
    assert usage.completion_tokens == 36
    assert counts.tokens_in - before[0] == usage.prompt_tokens
    assert counts.tokens_out - before[1] == 36


def test_log_probabilities(client: openai.OpenAI) -> None:
    (choice,) = ask(client, logprobs=True, top_logprobs=3).choices
    told = choice.logprobs.content
    assert len(told) >= 1
    for one in told:
        assert one.logprob <= 0
        assert len(one.top_logprobs) == 3
        assert one.top_logprobs[0].logprob == one.logprob  # the likeliest was taken


def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(client: openai.OpenAI) -> None:
    text = ask(client).choices[0].message.content
    stop = text[len(text) // 2]
    (choice,) = ask(client, stop=[stop]).choices
    assert choice.message.content == text.partition(stop)[0]
    assert choice.finish_reason == "stop"


def test_a_class_is_parsed(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Answer, temperature=1, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Answer)
    with client.chat.completions.stream(
        model="tiny", messages=MESSAGES, response_format=Answer, temperature=1, seed=1
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.parsed == answer.choices[0].message.parsed


def test_our_own_members_go_with_it(client: openai.OpenAI) -> None:
    (choice,) = ask(client, extra_body={"regex": "(ab|cd){3}"}, max_tokens=50).choices
    assert len(choice.message.content) == 6
    assert set(choice.message.content) <= set("abcd")


def test_a_demanded_call(client: openai.OpenAI) -> None:
    given = {"tools": [WEATHER], "max_tokens": 200}
    named = {"type": "function", "function": {"name": "weather"}}
    (choice,) = ask(client, tool_choice=named, **given).choices
    assert choice.finish_reason == "tool_calls"
    (call, *_) = choice.message.tool_calls
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["town"] in ("Rome", "Paris")
    with client.chat.completions.stream(
        model="tiny",
        messages=MESSAGES,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,  # this model would write one call after the other
        temperature=0,
        max_tokens=200,
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert final.choices[0].message.tool_calls[0].function.name == "weather"
    told: list[Any] = [*MESSAGES, choice.message.model_dump(exclude_none=True)]
    told.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
    assert ask(client, messages=told).choices[0].message.role == "assistant"


def test_completions(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(prompt=["the quick", "a model"], echo=True, **given)
    assert [one.text.startswith(p) for one, p in zip(whole.choices, ("the", "a"), strict=True)]
    alone = client.completions.create(prompt="the quick", logprobs=2, **given)
    assert "the quick" + alone.choices[0].text == whole.choices[0].text
    assert len(alone.choices[0].logprobs.tokens) >= 1
    chunks = list(client.completions.create(prompt="the quick", stream=True, **given))
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone.choices[0].text


def test_responses(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_output_tokens": 12}
    answer = client.responses.create(input="the quick", instructions="be brief", **given)
    assert answer.output_text
    assert answer.status in ("completed", "incomplete")
    with client.responses.stream(input="the quick", instructions="be brief", **given) as stream:
        events = list(stream)
    deltas = [one.delta for one in events if one.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text
    assert events[-1].type in ("response.completed", "response.incomplete")
    assert events[-1].response.usage.output_tokens == answer.usage.output_tokens
    parsed = client.responses.parse(model="tiny", input="x", text_format=Answer)
    assert isinstance(parsed.output_parsed, Answer)


def test_responses_with_calls(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", **WEATHER["function"], "strict": True}
    first = client.responses.create(
        model="tiny",
        input="x",
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,  # it draws, and several calls may leave no room to go on
        max_output_tokens=200,
    )
    calls = [one for one in first.output if one.type == "function_call"]
    assert calls[0].name == "weather"
    told: list[Any] = [{"role": "user", "content": "x"}, *first.output]
    told += [
        {"type": "function_call_output", "call_id": one.call_id, "output": "sun"} for one in calls
    ]
    again = client.responses.create(model="tiny", input=told, tools=[tool], max_output_tokens=8)
    assert again.status in ("completed", "incomplete")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param({"max_tokens": 0}, "'max_tokens': expected", id="no tokens"),
        pytest.param({"messages": []}, "'messages': expected", id="no messages"),
        pytest.param({"logit_bias": {"99999": 1}}, "'logit_bias'", id="token"),
        pytest.param(
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "what"}},
                }
            },
            "",
            id="schema",
        ),
        pytest.param({"extra_body": {"regex": "("}}, "", id="regex"),
        pytest.param({"store": True}, "'store'", id="store"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_bad_calls_raise_the_clients_own_errors(
    client: openai.OpenAI, given: Any, told: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, stream=stream, **given)
    assert told in raised.value.message


def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.completions.create(model="tiny", prompt=[5] * 1100)
    assert "1100" in raised.value.message
    assert str(CONFIG.context) in raised.value.message


def test_whoever_leaves_a_stream_frees_the_model(server: LiveServer, client: openai.OpenAI) -> None:
    (model,) = server.app.pool.models()
    with ask(client, stream=True, max_tokens=400, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
        assert model.in_use == 1
    wait_until(lambda: model.in_use == 0, "the model is still in use")


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
