"""Models that write, called whole, as streams and in bulk, by threads and on event loops."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from aiaas_client import (
    APIConnectionError,
    BadRequestError,
    BulkError,
    Client,
    InferenceFailedError,
    InputError,
    ModelNotFoundError,
    NotSupportedError,
    OptionTypeError,
    ProtocolError,
)
from aiaas_client.testing import FakeError, FakeServer

WORDS = ["Paris", " is", " lovely."]


class Person(BaseModel):
    """Somebody."""

    name: str
    age: int


def answer(messages: Any) -> Any:
    said = messages[-1]["content"]
    if said == "long":
        raise FakeError(400, "the prompt has 9 tokens, the context 8", code="invalid_request")
    if said == "break":
        return broken()
    return list(WORDS) if said == "where?" else f"you said {said}"


def broken() -> Iterator[str]:
    yield "so far"
    raise RuntimeError("out of words")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as one:
        one.add_writer("chat", answer)
        yield one


@pytest.fixture
def caller(either: Any, server: FakeServer) -> Any:
    return either(server.url)


def every(caller: Any, stream: Any) -> list[Any]:
    """All of a stream or a generator of either kind."""
    if caller._runner is None:
        return list(stream)

    async def collect() -> list[Any]:
        return [one async for one in stream]

    found: list[Any] = caller._runner.run(collect())
    return found


def sent(server: FakeServer) -> Any:
    """The body of the last request."""
    return json.loads(server.requests[-1].body)


def test_an_answer_has_its_text_and_what_it_took(caller: Any, server: FakeServer) -> None:
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "where?"}]
    found = caller.run(caller.client.chat("chat", messages, max_tokens=9, temperature=0.5))
    assert found.text == "Paris is lovely."
    assert found.texts == [found.text]
    assert (found.finish_reason, found.tool_calls, found.parsed) == ("stop", [], None)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (2, 3)
    assert found.message == {"role": "assistant", "content": found.text}
    assert found.request_id
    assert sent(server) == {
        "model": "chat",
        "messages": messages,
        "max_tokens": 9,
        "temperature": 0.5,
    }


def test_a_text_is_what_the_user_says(caller: Any, server: FakeServer) -> None:
    found = caller.run(caller.client.model("chat").chat("hello", seed=None, extra={"x": 1}))
    assert found.text == "you said hello"
    hello = [{"role": "user", "content": "hello"}]
    assert sent(server) == {"model": "chat", "messages": hello, "x": 1}


def test_n_answers_come_together(caller: Any) -> None:
    assert caller.run(caller.client.chat("chat", "a", n=2)).texts == ["you said a", "you said a"]


def test_a_stream_gives_its_events_and_then_the_whole(caller: Any, server: FakeServer) -> None:
    stream = caller.client.chat("chat", "where?", stream=True)
    assert server.requests == []  # nothing is sent before the first step
    assert (stream.generation.text, stream.generation.finish_reason) == ("", None)
    events = every(caller, stream)
    assert [one.choices[0].delta.content for one in events if one.choices][1:4] == WORDS
    assert sent(server)["stream_options"] == {"include_usage": True}
    whole = stream.generation
    assert (whole.text, whole.finish_reason) == ("Paris is lovely.", "stop")
    assert whole.usage.total_tokens == 4
    assert whole.message == {"role": "assistant", "content": "Paris is lovely."}


def test_the_text_of_a_stream_comes_in_pieces(caller: Any) -> None:
    stream = caller.client.model("chat").chat("where?", stream=True)
    assert every(caller, stream.text_stream) == WORDS
    assert every(caller, stream) == []


def test_a_text_is_gone_on_with(caller: Any, server: FakeServer) -> None:
    server.add_writer("tail", lambda prompt, stop=None: [prompt, " and", f" {stop}"])
    assert caller.run(caller.client.generate("tail", "one", stop="two")).text == "one and two"
    handle = caller.client.model("tail")
    assert caller.run(handle.generate("one", max_tokens=3)).text == "one and None"
    assert sent(server) == {"model": "tail", "prompt": "one", "max_tokens": 3}
    for stream in (
        caller.client.generate("tail", "one", stream=True),
        handle.generate("one", stream=True),
    ):
        assert every(caller, stream.text_stream) == ["one", " and", " None"]
        assert stream.generation.text == "one and None"
        assert stream.generation.usage.completion_tokens == 3


def test_inputs_by_name_are_the_generate_extension(caller: Any, server: FakeServer) -> None:
    server.add_generator("old", lambda text_input: [{"text_output": text_input.upper()}])
    handle = caller.client.model("old")
    assert caller.run(handle.generate(text_input="a"))["text_output"] == "A"
    assert caller.run(handle.generate({"text_input": "b"}))["text_output"] == "B"


def test_an_answer_is_of_the_class_that_was_asked_for(caller: Any, server: FakeServer) -> None:
    server.add_writer("ada", lambda messages: ['{"name": "Ada"', ', "age": 36}'])
    found = caller.run(caller.client.chat("ada", "who?", response_format=Person))
    assert found.parsed == Person(name="Ada", age=36)
    form = sent(server)["response_format"]
    assert (form["type"], form["json_schema"]["name"]) == ("json_schema", "Person")
    assert form["json_schema"]["schema"] == {
        "type": "object",
        "description": "Somebody.",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    stream = caller.client.chat("ada", "who?", response_format=Person, stream=True)
    every(caller, stream)
    assert stream.generation.parsed == found.parsed


def test_an_answer_that_was_cut_off_is_of_no_class(caller: Any, server: FakeServer) -> None:
    cut = {"content": '{"name": "Ad', "finish_reason": "length"}
    server.add_writer("ada", lambda messages: cut)
    found = caller.run(caller.client.chat("ada", "who?", response_format=Person))
    assert found.text == cut["content"]  # it is not lost
    with pytest.raises(ProtocolError, match=r"a Person, got .*Ad.* \(finish_reason 'length'\)"):
        found.parsed  # noqa: B018


def test_tools_are_classes_or_dictionaries(caller: Any, server: FakeServer) -> None:
    call = {"name": "Person", "arguments": {"name": "Ada", "age": 36}}
    server.add_writer("tools", lambda messages: {"tool_calls": [call, call]})
    plain = {"type": "function", "function": {"name": "f", "parameters": {}}}
    options: Any = {"tools": [Person, plain], "tool_choice": "Person"}
    found = caller.run(caller.client.chat("tools", "who?", **options))
    first, second = found.tool_calls
    assert Person.model_validate_json(first.function.arguments).age == 36
    assert (first.id, second.id, found.finish_reason) == ("call_0", "call_1", "tool_calls")
    assert (found.text, found.message["content"]) == ("", None)
    body = sent(server)
    assert body["tools"][0]["function"]["description"] == "Somebody."
    assert body["tools"][1] == plain
    assert body["tool_choice"] == {"type": "function", "function": {"name": "Person"}}
    stream = caller.client.chat("tools", "who?", stream=True, **options)
    every(caller, stream)
    assert stream.generation.tool_calls == found.tool_calls


def test_calls_that_come_in_pieces_are_put_together(caller: Any, wire: Any, steps: Any) -> None:
    def event(**delta: Any) -> str:
        return json.dumps({"choices": [{"index": 0, "delta": delta}]})

    def call(index: int, arguments: str, **told: Any) -> dict[str, Any]:
        return {"index": index, "function": {"arguments": arguments, **told}}

    texts = [
        event(role="assistant", content=None),
        event(tool_calls=[{**call(0, "", name="f"), "id": "a", "type": "function"}]),
        event(tool_calls=[call(0, '{"x":', name=None)]),  # as other servers have it
        event(tool_calls=[{**call(1, "{}", name="g"), "id": "b"}, call(0, " 1}")]),
        "[DONE]",
    ]
    caller.client = caller.client.__class__(wire(steps.events(*texts)).url)
    stream = caller.client.chat("m", "?", stream=True)
    every(caller, stream)
    told = [(c.id, c.function.name, c.function.arguments) for c in stream.generation.tool_calls]
    assert told == [("a", "f", '{"x": 1}'), ("b", "g", "{}")]
    caller.run(caller.client.close())


def test_errors_are_told_by_their_codes(caller: Any, server: FakeServer) -> None:
    with pytest.raises(BadRequestError, match="9 tokens, the context 8"):
        caller.run(caller.client.chat("chat", "long"))
    with pytest.raises(BadRequestError, match="9 tokens, the context 8"):
        every(caller, caller.client.chat("chat", "long", stream=True))
    with pytest.raises(ModelNotFoundError, match="nothing"):
        caller.run(caller.client.generate("nothing", "a"))
    stream = caller.client.chat("chat", "break", stream=True)
    with pytest.raises(InferenceFailedError, match="out of words"):
        every(caller, stream)
    assert stream.generation.text == "so far"


def test_a_server_without_such_models_says_so(caller: Any, wire: Any, steps: Any) -> None:
    with Client(wire(default=steps.answer(404, {"error": "Not Found"})).url) as client:
        with pytest.raises(NotSupportedError):
            client.chat("m", "hello")
        with pytest.raises(NotSupportedError):
            client.transcribe("m", b"RIFF")


def test_a_stream_that_breaks_off_is_an_error(caller: Any, server: FakeServer) -> None:
    server.truncate(3, path="/v1/chat")
    stream = caller.client.chat("chat", "where?", stream=True)
    with pytest.raises(APIConnectionError):
        every(caller, stream)


def test_what_is_wrong_is_found_before_it_is_sent(caller: Any, server: FakeServer) -> None:
    chat: Any = caller.client.chat
    for error, text, given in (
        (InputError, "messages: expected at least one, got none", {"messages": []}),
        (InputError, "messages: expected a text or a list of messages, got int", {"messages": 1}),
        (InputError, r"messages\[0\]: expected a mapping", {"messages": ["hello"]}),
        (InputError, "temperature: expected a finite number, got nan", {"temperature": 1e999 * 0}),
        (OptionTypeError, "'max_token'; did you mean 'max_tokens'", {"max_token": 1}),
        (OptionTypeError, "response_format: expected a mapping or", {"response_format": int}),
        (InputError, "lone surrogate", {"messages": "\ud800"}),
    ):
        options: dict[str, Any] = {"messages": "hello", **given}
        with pytest.raises(error, match=text):
            chat("chat", options.pop("messages"), **options)
    with pytest.raises(InputError, match="prompt: expected text, got list"):
        caller.client.generate("chat", ["a"])
    assert server.requests == []


def test_a_handle_of_a_version_asks_that_version(caller: Any, server: FakeServer) -> None:
    for version, named in ((2, "chat@2"), ("production", "chat@production")):
        caller.run(caller.client.model("chat", version).chat("hello"))
        assert json.loads(server.requests[-1].body)["model"] == named


def test_leaving_a_stream_early_stops_the_model(caller: Any, server: FakeServer) -> None:
    stopped = threading.Event()

    def endless(messages: Any) -> Iterator[str]:
        try:
            while True:
                yield "more "
        finally:
            stopped.set()

    server.add_writer("endless", endless)
    stream = caller.client.chat("endless", "go", stream=True)
    texts = stream.text_stream
    if caller._runner is None:
        assert next(texts) == "more "
        texts.close()
    else:

        async def take_one() -> None:
            assert await anext(texts) == "more "
            await texts.aclose()

        caller._runner.run(take_one())
    assert stopped.wait(120)


def test_many_prompts_are_answered_in_their_order(caller: Any, server: FakeServer) -> None:
    told: list[tuple[int, int | None]] = []
    prompts = [f"number {at}" for at in range(20)]
    many = caller.client.chat.many(
        "chat",
        prompts,
        concurrency=3,
        progress=lambda done, total: told.append((done, total)),
        max_tokens=5,
    )
    found = every(caller, many)
    assert [one.text for one in found] == [f"you said {prompt}" for prompt in prompts]
    assert [one.index for one in found] == list(range(20))
    assert told[-1] == (20, 20)
    assert sent(server)["max_tokens"] == 5


def test_prompts_of_many_fail_alone(caller: Any) -> None:
    prompts: Any = ["a", "long", [], "b"]
    chat = caller.client.model("chat").chat
    found = every(caller, chat.many(prompts, on_error="return"))
    assert [getattr(one, "text", type(one).__name__) for one in found] == [
        "you said a",
        "BadRequestError",
        "InputError",
        "you said b",
    ]
    assert [one.index for one in found] == [0, 1, 2, 3]
    with pytest.raises(BulkError, match="2 of 4 items failed") as raised:
        every(caller, chat.many(iter(prompts)))
    assert sorted(raised.value.failures) == [1, 2]


def test_many_prompts_are_read_no_further_than_they_are_needed(caller: Any) -> None:
    read: list[int] = []

    def prompts() -> Iterator[str]:
        for at in range(100):
            read.append(at)
            yield "a"

    many = caller.client.chat.many("chat", prompts(), concurrency=2)
    if caller._runner is None:
        next(many)
        many.close()
    else:

        async def take_one() -> None:
            await anext(many)
            await many.aclose()

        caller._runner.run(take_one())
    assert len(read) <= 4  # one handed out, and `concurrency + 1`


def test_what_is_no_list_of_prompts_is_refused(caller: Any) -> None:
    for prompts in ("one", {"role": "user", "content": "one"}, 3):
        with pytest.raises(InputError):
            every(caller, caller.client.chat.many("chat", prompts))
    with pytest.raises(InputError, match="concurrency: expected at least 1"):
        caller.client.chat.many("chat", ["a"], concurrency=0)
    with pytest.raises(OptionTypeError, match="'temprature'; did you mean 'temperature'"):
        caller.client.chat.many("chat", ["a"], temprature=1)


def test_asynchronous_prompts_are_for_event_loops(caller: Any) -> None:
    async def prompts() -> Any:
        yield "a"
        yield "b"

    if caller._runner is None:
        with pytest.raises(InputError, match="asynchronous ones are for an AsyncClient"):
            caller.client.chat.many("chat", prompts())
    else:
        found = every(caller, caller.client.chat.many("chat", prompts()))
        assert [one.text for one in found] == ["you said a", "you said b"]


def test_the_whole_answer_of_a_chat(caller: Any, server: FakeServer) -> None:
    server.add_hearer("ears", lambda audio: "hello")
    raw = caller.client.with_raw_response
    one = caller.run(raw.chat("chat", "a"))
    assert (one.status, one.parse().text) == (200, "you said a")
    assert json.loads(one.body)["object"] == "chat.completion"
    handle = caller.client.model("chat").with_raw_response
    assert caller.run(handle.chat("a")).parse().text == "you said a"
    server.add_writer("chat", lambda prompt: prompt)
    assert caller.run(handle.generate("on")).parse().text == "on"
    assert caller.run(raw.generate("chat", "and on")).parse().text == "and on"
    assert caller.run(raw.transcribe("ears", b"RIFF")).parse().text == "hello"


def test_arguments_may_be_named(caller: Any) -> None:
    messages = [{"role": "user", "content": "hi"}]
    chat = caller.client.chat
    assert caller.run(chat(model="chat", messages=messages)).text == "you said hi"
    assert caller.run(caller.client.model("chat").chat(messages="hi")).text == "you said hi"
    assert len(every(caller, chat.many(model="chat", prompts=["a", "b"]))) == 2


def test_chats_and_streams_tell_what_they_are(caller: Any) -> None:
    assert "messages" in repr(caller.client.chat)
    stream = caller.client.chat("chat", "where?", stream=True)
    assert "so far Generation('', finish_reason=None)" in repr(stream)
    every(caller, stream)
    assert "'Paris is lovely.', finish_reason='stop'" in repr(stream)


def test_a_tool_that_is_none_is_named(caller: Any) -> None:
    def look(at: str) -> str:
        return at

    with pytest.raises(OptionTypeError, match=r"^tools: expected .* class, got function$"):
        caller.run(caller.client.chat("chat", "hi", tools=[look]))
    with pytest.raises(OptionTypeError, match=r"^tools: expected .* class, got 'look'$"):
        caller.run(caller.client.chat("chat", "hi", tools=["look"]))


def test_a_handle_is_no_name(caller: Any) -> None:
    with pytest.raises(InputError, match=r"^model: expected its name, got (Async)?Model$"):
        caller.run(caller.client.chat(caller.client.model("chat"), "hi"))
