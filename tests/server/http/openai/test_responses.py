"""Responses over a scripted generator: what is asked of it, the document, and the events."""

from __future__ import annotations

from typing import Any

import pytest

from aiaas_server.core.errors import InferenceFailed, QueueFull
from aiaas_server.core.generation import Piece
from tests.server.http.scripted_generator import pieces, told
from tests.server.http.streams import documents

PATH = "/v1/responses"
ASKED = {"model": "writer", "input": "hi"}
TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


async def test_a_whole_answer(scripted: Any) -> None:
    served = await scripted(pieces("Hello", " there"))
    body = ASKED | {"instructions": "be kind", "metadata": {"a": "b"}, "max_output_tokens": 9}
    document = (await served.post(PATH, body)).json()
    assert document["id"].startswith("resp_")
    assert document["object"] == "response"
    assert document["status"] == "completed"
    assert document["error"] is document["incomplete_details"] is None
    assert document["store"] is False
    assert document["instructions"] == "be kind"
    assert document["metadata"] == {"a": "b"}
    assert document["temperature"] == 0.7
    (item,) = document["output"]
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "Hello there", "annotations": [], "logprobs": []}
        ],
    }
    assert document["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }
    (ask,), (chat,) = served.generator.asks, served.generator.chats
    assert ask.max_tokens == 9
    assert [message["role"] for message in chat.messages] == ["system", "user"]


async def test_an_answer_that_ends_too_early_says_so(scripted: Any) -> None:
    served = await scripted(pieces("Hel", finish="length"))
    document = (await served.post(PATH, ASKED)).json()
    assert document["status"] == document["output"][0]["status"] == "incomplete"
    assert document["incomplete_details"] == {"reason": "max_output_tokens"}
    *_, last = documents((await served.post(PATH, ASKED | {"stream": True})).body)
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_the_events_of_a_text(scripted: Any) -> None:
    served = await scripted(pieces("Hel", "lo"))
    live = served.live(PATH, ASKED | {"stream": True})
    await live.task
    for text in live.writes:
        assert text.startswith(b"event: response.")
        assert text.count(b"\n\n") == 1
        assert text.endswith(b"\n\n")
    events = documents(b"".join(live.writes))
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    assert [one["type"].removeprefix("response.") for one in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[2]["item"]["content"] == []
    assert [one["delta"] for one in events[4:6]] == ["Hel", "lo"]
    assert events[6]["text"] == events[7]["part"]["text"] == "Hello"
    assert len({one["item_id"] for one in events[3:8]}) == 1
    last = events[-1]["response"]
    assert last["output"] == [events[8]["item"]]
    assert last["usage"]["total_tokens"] == 4
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["usage"] is None


async def test_calls_and_their_events(scripted: Any) -> None:
    served = await scripted(pieces("Hm.", "@weather", "+{", "+}", "@weather", "+[]"))
    choice = {"type": "function", "name": "weather"}
    body = ASKED | {"tools": [TOOL], "tool_choice": choice, "parallel_tool_calls": False}
    whole = (await served.post(PATH, body)).json()
    assert [one["type"] for one in whole["output"]] == ["message", "function_call", "function_call"]
    assert [one.get("arguments") for one in whole["output"]] == [None, "{}", "[]"]
    assert whole["tools"] == [TOOL]
    (chat,) = served.generator.chats
    assert (chat.tool_choice, chat.parallel) == ("weather", False)
    events = documents((await served.post(PATH, body | {"stream": True})).body)
    calls = [one for one in events if "function_call_arguments" in one["type"]]
    assert [one["type"].rpartition(".")[2] for one in calls] == [
        "delta",
        "delta",
        "done",
        "delta",
        "done",
    ]
    assert [one["output_index"] for one in calls] == [1, 1, 1, 2, 2]
    assert calls[2]["arguments"] == "{}"
    items = [one["item"] for one in events if one["type"] == "response.output_item.done"]
    assert [one["type"] for one in items] == ["message", "function_call", "function_call"]
    assert events[-1]["response"]["output"] == items
    assert items[1]["call_id"] != items[2]["call_id"]


async def test_an_answer_of_nothing_is_an_empty_message(scripted: Any) -> None:
    served = await scripted(pieces(""))
    whole = (await served.post(PATH, ASKED)).json()
    events = documents((await served.post(PATH, ASKED | {"stream": True})).body)
    for document in (whole, events[-1]["response"]):
        (item,) = document["output"]
        assert item["content"][0]["text"] == ""


async def test_log_probabilities(scripted: Any) -> None:
    steps = [Piece("hey", (1,), (told("hey"),)), Piece("", (2,), (told("!"),), "stop")]
    served = await scripted(lambda *_: steps)
    body = ASKED | {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = (await served.post(PATH, body)).json()
    events = documents((await served.post(PATH, body | {"stream": True})).body)
    assert events[4]["logprobs"][0]["token"] == "hey"
    for document in (whole, events[-1]["response"]):
        found = document["output"][0]["content"][0]["logprobs"]
        assert [one["token"] for one in found] == ["hey", "!"]
    assert served.generator.asks[0].logprobs == 2


async def test_a_conversation_is_sent_whole(scripted: Any) -> None:
    served = await scripted(pieces("ok"))
    first = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
    told = {"type": "output_text", "text": "Hm.", "annotations": [], "logprobs": []}
    given = [
        {"role": "user", "content": "rain?"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [told]},
        first | {"id": "fc_1", "status": "completed"},
        first | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "no"},
        {"role": "developer", "content": [{"type": "input_text", "text": "be brief"}]},
    ]
    assert (await served.post(PATH, ASKED | {"input": given})).status == 200
    function = {"name": "weather", "arguments": "{}"}
    assert served.generator.chats[0].messages == [
        {"role": "user", "content": "rain?"},
        {
            "role": "assistant",
            "content": "Hm.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "content": "no", "tool_call_id": "c1"},
        {"role": "system", "content": "be brief"},
    ]


async def test_a_format(scripted: Any) -> None:
    served = await scripted(pieces("{}"))
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}}
    document = (await served.post(PATH, ASKED | {"text": text})).json()
    assert document["text"] == text
    format = served.generator.asks[0].format
    assert (format.kind, format.value) == ("json_schema", {"type": "object"})


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({"store": True}, "'store': answers are not stored here", id="store"),
        pytest.param(
            {"previous_response_id": "resp_1"},
            "'previous_response_id': answers are not stored here: send the conversation, "
            "got 'resp_1'",
            id="previous_response_id",
        ),
        pytest.param({"conversation": "c"}, "'conversation': conversations are", id="conversation"),
        pytest.param({"background": True}, "'background': answers are not", id="background"),
        pytest.param({"prompt": {"id": "p"}}, "'prompt': prompts are not stored", id="prompt"),
        pytest.param({"truncation": "auto"}, "'truncation': conversations are not", id="cut"),
        pytest.param({"input": None}, "'input': expected a text or a list", id="no input"),
        pytest.param({"input": []}, "'input': expected a text or a list", id="empty input"),
        pytest.param(
            {"input": [{"type": "item_reference", "id": "x"}]},
            "'input[0].type': expected message, function_call or function_call_output, "
            "got 'item_reference'",
            id="reference",
        ),
        pytest.param(
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "'input[0].content[0].type': expected input_text, output_text or text, "
            "got 'input_image'",
            id="picture",
        ),
        pytest.param(
            {"tools": [{"type": "web_search"}]},
            "'tools[0].type': expected function, got 'web_search'",
            id="tool",
        ),
        pytest.param(
            {"text": {"format": {"type": "json_schema", "name": "x"}}},
            "'text.format.schema': expected a JSON Schema",
            id="schema",
        ),
        pytest.param({"max_output_tokens": 0}, "'max_output_tokens': expected", id="length"),
    ],
)
async def test_what_is_wrong_is_told_by_name(scripted: Any, members: Any, expected: str) -> None:
    served = await scripted(pieces("a"))
    answer = await served.post(PATH, ASKED | members)
    assert answer.status == 400
    assert expected in answer.json()["error"]["message"]
    assert not served.generator.asks


async def test_errors_before_and_in_between(scripted: Any) -> None:
    served = await scripted(
        lambda ask, number: (
            [Piece("a", (1,)), InferenceFailed("of the runtime")] if number else [QueueFull("full")]
        )
    )
    body = ASKED | {"stream": True}
    first = await served.post(PATH, body)
    assert (first.status, first.json()["error"]["code"]) == (503, "queue_full")
    *_, last = documents((await served.post(PATH, body)).body)
    assert last["type"] == "error"
    assert last["code"] == "inference_failed"
    assert "of the runtime" not in last["message"]
    assert served.in_use == 0
