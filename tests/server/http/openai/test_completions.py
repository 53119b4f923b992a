"""Completions over a scripted generator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiaas_server.core.generation import Piece
from tests.server.http.scripted_generator import pieces, told
from tests.server.http.streams import documents

PATH = "/v1/completions"
ASKED = {"model": "writer", "prompt": "once"}


async def test_a_whole_text(scripted: Any) -> None:
    served = await scripted(pieces(" upon", " a time"))
    document = (await served.post(PATH, ASKED)).json()
    assert document["id"].startswith("cmpl-")
    assert document["object"] == "text_completion"
    assert document["choices"] == [
        {"index": 0, "text": " upon a time", "logprobs": None, "finish_reason": "stop"}
    ]
    assert document["usage"]["total_tokens"] == 6
    (ask,) = served.generator.asks
    assert bytes(ask.tokens) == b"once"
    assert ask.max_tokens == 16
    assert ask.stop == ()


async def test_a_stream(scripted: Any) -> None:
    served = await scripted(pieces(" upon", "", " a time", finish="length"))
    body = ASKED | {"stream": True, "stream_options": {"include_usage": True}, "echo": True}
    *events, usage, done = documents((await served.post(PATH, body)).body)
    assert done == "[DONE]"
    assert [one["choices"][0]["text"] for one in events] == ["once upon", " a time"]
    assert [one["choices"][0]["finish_reason"] for one in events] == [None, "length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        pytest.param("ab", [(97, 98)], id="text"),
        pytest.param(["ab", "c"], [(97, 98), (99,)], id="texts"),
        pytest.param([97, 98], [(97, 98)], id="tokens"),
        pytest.param([[97], [98, 99]], [(97,), (98, 99)], id="lists of tokens"),
    ],
)
async def test_prompts(scripted: Any, prompt: Any, tokens: Any) -> None:
    served = await scripted(lambda ask, number: pieces(str(number)))
    body = ASKED | {"prompt": prompt, "n": 2, "echo": True, "seed": 1}
    document = (await served.post(PATH, body)).json()
    assert [ask.tokens for ask in served.generator.asks] == [one for one in tokens for _ in "12"]
    assert [ask.sampling.seed for ask in served.generator.asks] == [1, 2] * len(tokens)
    texts = [bytes(one).decode() for one in tokens for _ in "12"]
    found = [one["text"] for one in document["choices"]]
    assert found == [f"{text}{number}" for number, text in enumerate(texts)]
    assert document["usage"]["prompt_tokens"] == sum(map(len, tokens))
    assert document["usage"]["completion_tokens"] == 2 * len(tokens)


async def test_other_work_comes_in_between_the_prompts_of_one_call(scripted: Any) -> None:
    served = await scripted(pieces("x"))
    turns = 0
    seen: list[int] = []
    encode = served.generator.encode

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def watched(text: str) -> Any:
        seen.append(turns)
        return await encode(text)

    served.generator.encode = watched
    counting = asyncio.create_task(count())
    await served.post(PATH, ASKED | {"prompt": list("abcdef")})
    counting.cancel()
    assert len(seen) == len(set(seen)) == 6


async def test_log_probabilities_in_the_older_form(scripted: Any) -> None:
    steps = [Piece("he", (1,), (told("he"),)), Piece("y", (1,), (told("y"),), "stop")]
    served = await scripted(lambda *_: steps)
    (choice,) = (await served.post(PATH, ASKED | {"logprobs": 2})).json()["choices"]
    assert choice["logprobs"] == {
        "tokens": ["he", "y"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [
            {"he": -0.5, "\N{REPLACEMENT CHARACTER}": -9999.0},
            {"y": -0.5, "\N{REPLACEMENT CHARACTER}": -9999.0},
        ],
        "text_offset": [0, 2],
    }
    body = ASKED | {"logprobs": 0, "stream": True}
    *events, _ = documents((await served.post(PATH, body)).body)
    found = [one["choices"][0]["logprobs"] for one in events]
    assert [one["text_offset"] for one in found] == [[0], [2]]
    assert found[0]["top_logprobs"] is None


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({"prompt": None}, "'prompt': expected a text, a list of texts", id="none"),
        pytest.param({"prompt": []}, "'prompt': expected a text", id="empty"),
        pytest.param({"prompt": ["a", 1]}, "'prompt': expected a text", id="mixed"),
        pytest.param({"prompt": [300]}, "expected token ids from 0 to 299, got 300", id="token"),
        pytest.param({"prompt": [[1, "a"]]}, "expected token ids from 0 to 299", id="text"),
        pytest.param({"suffix": "end"}, "'suffix': text is not written between", id="suffix"),
        pytest.param({"best_of": 3}, "'best_of': only one answer", id="best_of"),
        pytest.param({"echo": True, "logprobs": 1}, "'echo': the log-probabilities", id="echo"),
        pytest.param({"logprobs": 21}, "'logprobs': expected a whole number", id="logprobs"),
        pytest.param({"max_tokens": 0}, "'max_tokens': expected a whole number", id="none wanted"),
        pytest.param({"model": 5}, "'model': expected a text, got 5", id="model"),
    ],
)
async def test_what_is_wrong_is_told_by_name(scripted: Any, members: Any, expected: str) -> None:
    served = await scripted(pieces("a"))
    answer = await served.post(PATH, ASKED | members)
    assert answer.status == 400
    assert expected in answer.json()["error"]["message"]
    assert not served.generator.asks
    assert served.in_use == 0


async def test_too_many_prompts(scripted: Any) -> None:
    served = await scripted(pieces("a"), max_instances=2)
    answer = await served.post(PATH, ASKED | {"prompt": ["a", "b", "c"]})
    assert answer.status == 400
    assert "'prompt': got 3, expected at most 2" in answer.json()["error"]["message"]
