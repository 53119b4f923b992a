"""The generate extension over models that write."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiaas_server.core.errors import ModelUnavailable, QueueFull
from aiaas_server.core.generation import Piece
from tests.server.http.scripted_generator import pieces
from tests.server.http.streams import documents

WHOLE = "/v2/models/writer/generate"
STREAM = "/v2/models/writer/generate_stream"


async def test_a_text_in_gives_a_text_out(scripted: Any) -> None:
    served = await scripted(pieces(" upon", " a time"))
    sent = {
        "id": "1",
        "text_input": "once",
        "parameters": {"temperature": 0, "max_tokens": 5, "stop": ["x"], "seed": 3, "priority": 0},
        "stream": False,
    }
    answer = await served.post(WHOLE, sent)
    assert answer.json() == {
        "id": "1",
        "model_name": "writer",
        "model_version": "1",
        "text_output": " upon a time",
        "finish_reason": "stop",
        "prompt_tokens": 4,
        "completion_tokens": 2,
    }
    (ask,) = served.generator.asks
    assert bytes(ask.tokens) == b"once"
    assert (ask.max_tokens, ask.stop, ask.sampling.temperature) == (5, ("x",), 0)
    assert ask.sampling.seed == 3
    assert served.in_use == 0


async def test_each_piece_is_an_event_and_there_is_no_end_marker(scripted: Any) -> None:
    served = await scripted(pieces(" upon", "", " a", " time"))
    live = served.live("/v2/models/writer/versions/1/generate_stream", {"text_input": "once"})
    await live.task
    assert dict(live.sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert len(live.writes) == 3
    events = [one for text in live.writes for one in documents(text)]
    assert [one["text_output"] for one in events] == [" upon", " a", " time"]
    assert [one.get("finish_reason") for one in events] == [None, None, "stop"]
    assert events[-1]["completion_tokens"] == 4
    assert "id" not in events[0]


@pytest.mark.parametrize("path", [WHOLE, STREAM], ids=["whole", "stream"])
async def test_the_text_that_came_stands_before_it_where_that_is_wanted(
    scripted: Any, path: str
) -> None:
    served = await scripted(pieces(" upon"))
    answer = await served.post(path, {"text_input": "once", "exclude_input_in_output": False})
    document = answer.json() if path == WHOLE else documents(answer.body)[0]
    assert document["text_output"] == "once upon"


async def test_errors_before_and_in_between(scripted: Any) -> None:
    served = await scripted(
        lambda ask, number: (
            [Piece("a", (1,)), ModelUnavailable("unloaded")] if number else [QueueFull("full")]
        )
    )
    first = await served.post(STREAM, {"text_input": "x"})
    assert (first.status, first.json()["error"]) == (503, "full")
    second = await served.post(STREAM, {"text_input": "x"})
    assert second.status == 200
    piece, error = documents(second.body)
    assert piece["text_output"] == "a"
    assert error["error"] == "unloaded"


async def test_a_client_that_leaves_ends_its_answer(scripted: Any) -> None:
    served = await scripted([Piece("a", (1,)), asyncio.Event()])
    live = served.live(STREAM, {"text_input": "x"})
    await live.events(1)
    assert served.in_use == 1
    await live.leave()
    assert served.generator.answers[0].left
    assert served.in_use == 0


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param({}, "'text_input': expected a text, got nothing", id="nothing"),
        pytest.param({"text_input": 5}, "'text_input': expected a text, got 5", id="number"),
        pytest.param({"text_input": "a", "id": 5}, "'id': expected a string", id="id"),
        pytest.param({"text_input": "a", "temprature": 0}, "'temprature' is not known", id="typo"),
        pytest.param(
            {"text_input": "a", "parameters": {"max_tokens": 0}},
            "'max_tokens': expected a whole number from 1 to 100",
            id="length",
        ),
        pytest.param({"text_input": "a", "priority": -1}, "'priority': expected", id="priority"),
        pytest.param({"text_input": "a" * 101}, "expected at most 100, got 101", id="long"),
    ],
)
@pytest.mark.parametrize("path", [WHOLE, STREAM], ids=["whole", "stream"])
async def test_what_is_wrong_is_told_by_name(
    scripted: Any, path: str, sent: Any, expected: str
) -> None:
    served = await scripted(pieces("a"))
    answer = await served.post(path, sent)
    assert answer.status == 400
    assert expected in answer.json()["error"]


async def test_tensors_of_other_models_are_as_before(scripted: Any) -> None:
    served = await scripted(pieces("a"))
    answer = await served.post("/v2/models/plain/generate", {"x": [1, 2, 3, 4]})
    assert answer.json()["y"] == [1, 2, 3, 4]
    answer = await served.post("/v2/models/plain/generate", {"text_input": "a"})
    assert answer.status == 400
    assert "'x'" in answer.json()["error"]


async def test_a_part_of_another_model_is_not_listed_and_takes_tensors(scripted: Any) -> None:
    served = await scripted(pieces("a"))
    assert [one["id"] for one in (await served.call("GET", "/v1/models")).json()["data"]] == [
        "plain",
        "writer",
    ]
    assert (await served.call("GET", "/v1/models/writer")).json()["context"] == 100
    served.generator.reads_text = False
    names = [one["id"] for one in (await served.call("GET", "/v1/models")).json()["data"]]
    assert names == ["plain"]
    assert (await served.post(WHOLE, {"x": [1, 2, 3, 4]})).json()["y"] == [1, 2, 3, 4]
