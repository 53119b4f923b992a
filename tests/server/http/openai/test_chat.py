"""Chats over a scripted generator: what is asked of it, and how its pieces are told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson
import pytest

from aiaas_server.core.errors import DeadlineExceeded, ModelUnavailable, QueueFull
from aiaas_server.core.generation import Piece
from aiaas_server.generate.chat_reader import PlainReader
from aiaas_server.http.openai.chunks import ChatAnswer
from tests.server.http.scripted_generator import pieces, told
from tests.server.http.streams import documents
from tests.waiting import until

PATH = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "writer", "messages": [{"role": "user", "content": "hi"}]}


def choices_of(body: bytes) -> list[Any]:
    """The choices of all events that have one."""
    return [one["choices"][0] for one in documents(body)[:-1] if one["choices"]]


async def test_a_whole_answer(scripted: Any) -> None:
    served = await scripted(pieces("Hello", "", " there"))
    answer = await served.post(PATH, ASKED)
    assert answer.status == 200, answer.body
    document = answer.json()
    assert document.pop("id").startswith("chatcmpl-")
    assert document.pop("created") > 1_700_000_000
    assert document == {
        "object": "chat.completion",
        "model": "writer",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello there"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 3,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }
    assert served.in_use == 0


async def test_a_stream_is_one_write_an_event(scripted: Any) -> None:
    served = await scripted(pieces("Hel", "", "lo"))
    live = served.live(PATH, ASKED | {"stream": True})
    await live.task
    head = dict(live.sent[0]["headers"])
    assert head[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert b"content-length" not in head
    for text in live.writes:
        assert text.startswith(b"data: ")
        assert text.count(b"\n\n") == 1
        assert text.endswith(b"\n\n")
    events = documents(b"".join(live.writes))
    assert events[-1] == "[DONE]"
    assert len({(one["id"], one["created"], one["model"]) for one in events[:-1]}) == 1
    assert {one["object"] for one in events[:-1]} == {"chat.completion.chunk"}
    assert [one["choices"][0]["delta"] for one in events[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    reasons = [one["choices"][0]["finish_reason"] for one in events[:-1]]
    assert reasons == [None, None, None, "stop"]
    assert all("usage" not in one for one in events[:-1])


async def test_a_stream_tells_its_usage_where_that_is_asked_for(scripted: Any) -> None:
    served = await scripted(pieces("a", "b", finish="length"))
    body = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    *events, last, done = documents((await served.post(PATH, body)).body)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 4
    assert all(one["usage"] is None for one in events)
    assert events[-1]["choices"][0]["finish_reason"] == "length"


async def test_what_is_asked_of_the_model(scripted: Any) -> None:
    served = await scripted(pieces("a"))
    body = ASKED | {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be "}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ],
        "max_completion_tokens": 9,
        "max_tokens": 20,
        "temperature": 0,
        "top_p": 0.5,
        "min_p": 0.1,
        "repetition_penalty": 1.5,
        "presence_penalty": -1,
        "frequency_penalty": 2,
        "logit_bias": {"7": -100, "8": 1.5},
        "seed": -1,
        "stop": "END",
        "ignore_eos": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"a": 1}},
        },
        "chat_template_kwargs": {"enable_thinking": False},
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "of_next_year": [1],
    }
    assert (await served.post(PATH, body)).status == 200
    (ask,), (chat,) = served.generator.asks, served.generator.chats
    assert chat.messages == [
        {"role": "system", "content": "be "},
        {"role": "user", "content": "ab"},
    ]
    assert chat.options == {"enable_thinking": False}
    assert bytes(ask.tokens) == b"be \nab"
    assert ask.max_tokens == 9
    assert ask.stop == ("END", "<end>")
    assert ask.ignore_end
    assert ask.format.kind == "json_schema"
    assert ask.format.value == {"a": 1}
    sampling = ask.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (
        0,
        40,
        0.5,
        0.1,
    )
    assert sampling.repetition_penalty == 1.5
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1, 2)
    assert sampling.logit_bias == {7: -100.0, 8: 1.5}
    assert sampling.seed == 2**64 - 1


async def test_several_answers_differ_by_their_seeds_and_come_side_by_side(scripted: Any) -> None:
    gate = asyncio.Event()

    def script(ask: Any, number: int) -> Any:
        return pieces("first") if number else [gate, *pieces("last")]

    served = await scripted(script)
    live = served.live(PATH, ASKED | {"stream": True, "n": 2, "seed": 5})
    await live.events(3)  # of the second answer, which waits for nobody
    gate.set()
    await live.task
    texts = [
        (one["index"], one["delta"].get("content")) for one in choices_of(b"".join(live.writes))
    ]
    assert [text for text in texts if text[1]] == [(1, "first"), (0, "last")]
    assert [ask.sampling.seed for ask in served.generator.asks] == [5, 6]
    whole = await served.post(PATH, ASKED | {"n": 2})
    assert [one["message"]["content"] for one in whole.json()["choices"]] == ["first", "first"]
    assert whole.json()["usage"]["prompt_tokens"] == 2
    assert whole.json()["usage"]["completion_tokens"] == 2
    assert [ask.sampling.seed for ask in served.generator.asks[2:]] == [None, None]


async def test_many_answers_of_one_call_are_not_begun_at_once(scripted: Any) -> None:
    gate = asyncio.Event()
    served = await scripted(lambda ask, number: [gate, *pieces(str(number))])
    live = served.live(PATH, ASKED | {"n": 40})
    await until(lambda: len(served.generator.answers) == 16)
    gate.set()
    await live.task
    assert len(served.generator.answers) == 40
    (choices,) = [one["choices"] for one in map(json.loads, live.writes)]
    assert [one["message"]["content"] for one in choices] == [str(i) for i in range(40)]


async def test_log_probabilities(scripted: Any) -> None:
    held = [
        Piece("", (1,), (told("he"),)),
        Piece("hey", (1,), (told("y"),)),
        Piece("", (2,), (), "stop"),
    ]
    served = await scripted(held)
    body = ASKED | {"logprobs": True, "top_logprobs": 2}
    (choice,) = (await served.post(PATH, body)).json()["choices"]
    first, second = choice["logprobs"]["content"]
    assert (first["token"], second["token"]) == ("he", "y")
    assert first["logprob"] == -0.5
    assert first["bytes"] == [104, 101]
    assert [one["token"] for one in first["top_logprobs"]] == ["he", "\N{REPLACEMENT CHARACTER}"]
    assert first["top_logprobs"][1] == {
        "token": "\N{REPLACEMENT CHARACTER}",
        "logprob": -9999.0,
        "bytes": [0xE4, 0xBD],
    }
    assert served.generator.asks[0].logprobs == 2
    streamed = choices_of((await served.post(PATH, body | {"stream": True})).body)
    texts = [(c["delta"].get("content"), c["logprobs"]) for c in streamed]
    assert [text for text, _ in texts] == ["", "", "hey", None]
    assert [[one["token"] for one in told["content"]] for _, told in texts if told is not None] == [
        ["he"],
        ["y"],
    ]
    await served.post(PATH, ASKED | {"logprobs": True})
    assert served.generator.asks[-1].logprobs == 0


TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "d", "parameters": {"type": "object"}},
    }
    for name in ("weather", "time")
]


async def test_calls_of_tools(scripted: Any) -> None:
    served = await scripted(pieces("Let me see.", "@weather", '+{"a":', "+1}", "@time", "+{}"))
    body = ASKED | {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": True}
    (choice,) = (await served.post(PATH, body)).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    weather, time = choice["message"]["tool_calls"]
    assert weather["id"].startswith("call_")
    assert weather["id"] != time["id"]
    assert weather["type"] == "function"
    assert weather["function"] == {"name": "weather", "arguments": '{"a":1}'}
    assert time["function"] == {"name": "time", "arguments": "{}"}
    (chat,) = served.generator.chats
    assert chat.tool_choice == "required"
    assert [tool["name"] for tool in chat.tools] == ["weather", "time"]
    streamed = choices_of((await served.post(PATH, body | {"stream": True})).body)
    assert streamed[-1]["finish_reason"] == "tool_calls"
    calls = [c["delta"]["tool_calls"][0] for c in streamed if "tool_calls" in c["delta"]]
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert calls[0]["id"].startswith("call_")
    assert calls[1] == {"index": 0, "function": {"arguments": '{"a":'}}


async def test_only_calls_have_no_content(scripted: Any) -> None:
    served = await scripted(pieces("@weather", "+{}"))
    named = {"type": "function", "function": {"name": "weather"}}
    body = ASKED | {"tools": TOOLS, "tool_choice": named}
    (choice,) = (await served.post(PATH, body)).json()["choices"]
    assert choice["message"]["content"] is None
    assert served.generator.chats[0].tool_choice == "weather"


async def test_a_conversation_with_calls_comes_back_as_it_was(scripted: Any) -> None:
    served = await scripted(pieces("ok"))
    call = {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "when?"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    assert (await served.post(PATH, ASKED | {"messages": messages})).status == 200
    assert served.generator.chats[0].messages == [
        {"role": "user", "content": "when?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_call_id": "call_1"},
    ]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        pytest.param(QueueFull("no room"), 503, "queue_full", id="queue"),
        pytest.param(DeadlineExceeded("too late"), 504, "deadline_exceeded", id="deadline"),
        pytest.param(RuntimeError("inside"), 500, "internal", id="unknown"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_errors_before_the_first_piece_have_their_status(
    scripted: Any, error: Exception, status: int, code: str, stream: bool
) -> None:
    served = await scripted([error])
    answer = await served.post(PATH, ASKED | {"stream": stream})
    assert answer.status == status
    assert answer.json()["error"]["code"] == code
    assert answer.headers["content-type"] == "application/json"
    assert "inside" not in answer.body.decode()
    assert served.in_use == 0


@pytest.mark.parametrize("n", [1, 2], ids=["one", "two"])
async def test_an_error_in_between_is_an_event(scripted: Any, n: int) -> None:
    steps = [Piece("a", (1,)), ModelUnavailable("model 'writer' was unloaded")]
    served = await scripted(lambda *_: steps)
    answer = await served.post(PATH, ASKED | {"stream": True, "n": n})
    assert answer.status == 200
    last = documents(answer.body)[-1]
    assert last["error"]["message"] == "model 'writer' was unloaded"
    assert last["error"]["code"] == "model_unavailable"
    assert last["error"]["type"] == "server_error"
    page = (await served.call("GET", "/metrics")).body.decode()
    assert 'aiaas_errors_total{code="model_unavailable"} 1\n' in page
    assert b"[DONE]" not in answer.body
    assert served.in_use == 0


@pytest.mark.parametrize("n", [1, 3], ids=["one", "three"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_ends_its_answers(scripted: Any, n: int, stream: bool) -> None:
    never = asyncio.Event()
    served = await scripted(lambda *_: [Piece("a", (1,)), never])
    live = served.live(PATH, ASKED | {"stream": stream, "n": n})
    if stream:
        await live.events(2 * n)
    else:
        await until(lambda: len(served.generator.answers) == n)
    assert served.in_use == 1
    assert not any(answer.left for answer in served.generator.answers)
    await live.leave()
    assert all(answer.left for answer in served.generator.answers)
    assert served.in_use == 0


async def test_the_model_is_in_use_until_the_last_event(scripted: Any) -> None:
    """Unloading waits for what is being written, and so does a reload."""
    gate = asyncio.Event()
    served = await scripted([Piece("a", (1,)), gate, *pieces("b")])
    live = served.live(PATH, ASKED | {"stream": True})
    await live.events(2)
    unloading = asyncio.create_task(served.app.pool.unload("writer"))
    await until(lambda: not served.app.pool.is_ready("writer"))
    assert not served.generator.closed
    gate.set()
    await live.task
    await unloading
    assert served.generator.closed
    assert live.writes[-1] == b"data: [DONE]\n\n"
    assert not served.generator.answers[0].left


async def test_models_that_do_not_write_and_none(scripted: Any) -> None:
    served = await scripted(pieces("a"))
    answer = await served.post(PATH, ASKED | {"model": "plain"})
    assert (answer.status, answer.json()["error"]["message"]) == (
        400,
        "model 'plain' does not generate text",
    )
    answer = await served.post(PATH, ASKED | {"model": "nobody"})
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")
    too_long = [{"role": "user", "content": "x" * 101}]
    answer = await served.post(PATH, ASKED | {"messages": too_long, "stream": True})
    assert answer.status == 400
    assert "expected at most 100, got 101" in answer.json()["error"]["message"]


async def test_who_says_nothing_of_time_waits_longer_than_for_tensors(scripted: Any) -> None:
    served = await scripted(pieces("a"))
    now = asyncio.get_running_loop().time()
    await served.post(PATH, ASKED)
    await served.call("POST", PATH, ASKED, {"x-request-timeout-ms": "20000"})
    usual, told_so = served.generator.deadlines
    assert usual >= now + 300
    assert now + 20 <= told_so < usual


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"temperature": NaN, %b', "'temperature': expected a number", id="NaN"),
        pytest.param(b'{"top_p": -Infinity, %b', "'top_p': expected a number", id="infinity"),
        pytest.param(b'{"a": "\\ud800", %b', "not valid JSON", id="lone surrogate"),
        pytest.param(b'{"a": NaN, "stop": "\\udfff", %b', "not valid JSON", id="both"),
        pytest.param(b"[%b", "not valid JSON", id="no object"),
    ],
)
async def test_bodies_that_are_hardly_json(scripted: Any, body: bytes, expected: str) -> None:
    served = await scripted(pieces("a"))
    answer = await served.call("POST", PATH, body % json.dumps(ASKED)[1:].encode())
    assert answer.status == 400
    assert expected in answer.json()["error"]["message"]


async def test_a_reload_leaves_what_is_being_written(scripted: Any) -> None:
    gate = asyncio.Event()
    served = await scripted([Piece("a", (1,)), gate, *pieces("b")])
    live = served.live(PATH, ASKED | {"stream": True})
    await live.events(2)
    (before,) = [one for one in served.app.pool.models() if one.name == "writer"]
    card = served.app.settings.models / "writer" / "1" / "model.json"
    card.write_text(card.read_text().replace("{", '{"description": "another", ', 1))
    await served.app.pool.load("writer")
    assert before.successor is not None
    assert not served.generator.closed
    gate.set()
    await live.task
    await until(lambda: served.generator.closed)
    assert live.writes[-1] == b"data: [DONE]\n\n"


async def test_a_large_conversation_is_read_beside_the_loop(scripted: Any) -> None:
    served = await scripted(pieces("a"), offload_json_bytes=1000)
    many = [{"role": "user", "content": ""}] * 90
    assert (await served.post(PATH, ASKED | {"messages": many})).status == 200
    assert len(served.generator.chats[0].messages) == 90
    answer = await served.post(PATH, ASKED | {"messages": [*many, {"role": "x"}]})
    assert "'messages[90].role'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("told_too", [False, True], ids=["text", "log-probabilities"])
async def test_an_answer_that_is_too_large_is_refused_whole_and_not_in_events(
    scripted: Any, told_too: bool
) -> None:
    some = Piece("x" * 5, (1,), (told("x"),)) if told_too else Piece("x" * 100, (1,))
    served = await scripted([some] * 30 + pieces("end"), max_answer_bytes=2000)
    answer = await served.post(PATH, ASKED)
    assert (answer.status, answer.json()["error"]["code"]) == (422, "output_too_large")
    assert "more than 2000 bytes" in answer.json()["error"]["message"]
    assert served.generator.answers[0].left
    streamed = await served.post(PATH, ASKED | {"stream": True})
    assert documents(streamed.body)[-1] == "[DONE]"


def test_log_probabilities_are_written_as_they_come() -> None:
    """Those of a long answer would hold up everybody if they were written at its end."""
    answer = ChatAnswer(PlainReader())
    for text in "ab":
        answer.take(Piece(text, (1,), (told(text),)))
    assert [type(one) for one in answer.told] == [orjson.Fragment] * 2
