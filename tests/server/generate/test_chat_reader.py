from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.generation import Delta, TextDelta, ToolDelta
from aiaas_server.generate.tools import FORMS

TOOLS = ({"name": "weather"}, {"name": "time"})
PARIS = {"city": "Paris", "days": [1, {"a": '}]"\\'}], "é": None}
CALL = json.dumps({"name": "weather", "arguments": PARIS})
LLAMA = json.dumps({"name": "weather", "parameters": PARIS})
OTHER = '{"name": "time", "arguments": {}}'
WEATHER, TIME = ("weather", PARIS), ("time", {})


def read(
    form: str, answer: str, *, parallel: bool = True, opened: bool = False, seed: int | None = None
) -> tuple[str, list[tuple[str, Any]]]:
    """The text and the calls of an answer that comes in pieces."""
    reader = FORMS[form].reader(TOOLS, parallel, opened)
    deltas: list[Delta] = []
    for piece in pieces(answer, seed):
        deltas += reader.feed(piece)
    return gathered([*deltas, *reader.finish()])


def pieces(answer: str, seed: int | None) -> list[str]:
    if seed is None:
        return [answer]
    draw = random.Random(seed)
    cuts = sorted({0, len(answer), *(draw.randrange(len(answer) + 1) for _ in range(12))})
    return [answer[a:b] for a, b in pairwise(cuts)]


def gathered(deltas: list[Delta]) -> tuple[str, list[tuple[str, Any]]]:
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    names: list[str] = []
    arguments: list[str] = []
    for delta in deltas:
        if isinstance(delta, ToolDelta):
            if delta.name:
                assert delta.call == len(names)  # each name once, in order
                names.append(delta.name)
                arguments.append("")
            arguments[delta.call] += delta.arguments
    return text, [(n, json.loads(a)) for n, a in zip(names, arguments, strict=True)]


ANSWERS = [
    ("hermes", "Hello, world.", "Hello, world.", []),
    ("hermes", "1 < 2 and <tool", "1 < 2 and <tool", []),
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", "", [WEATHER]),
    ("hermes", f"I look.\n<tool_call>{CALL}</tool_call>\n", "I look.", [WEATHER]),
    (
        "hermes",
        f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{OTHER}\n</tool_call>",
        "",
        [WEATHER, TIME],
    ),
    ("hermes", f"<tool_call>[{CALL}, {OTHER}]</tool_call>", "", [WEATHER, TIME]),
    ("hermes", f"<tool_call>{CALL}</tool_call>\nDone.", "\nDone.", [WEATHER]),
    ("hermes", f"<tool_call>\n{CALL}", "", [WEATHER]),
    ("hermes", f"<tool_call>\n{CALL}\n</tool", "", [WEATHER]),  # cut off by its length
    ("hermes", "<tool_call>\nnonsense\n</tool_call>", "<tool_call>\nnonsense\n</tool_call>", []),
    ("hermes", '<tool_call>{"x": 1}</tool_call>', '<tool_call>{"x": 1}</tool_call>', []),
    ("hermes", '<tool_call>{"name": "we', '<tool_call>{"name": "we', []),
    ("hermes", "<tool_call></tool_call>", "<tool_call></tool_call>", []),
    ("hermes", CALL, CALL, []),
    ("json", "Hello", "Hello", []),
    ("json", CALL, "", [WEATHER]),
    ("json", f"\n {CALL}\n", "", [WEATHER]),
    ("json", f"[{CALL}, {OTHER}]", "", [WEATHER, TIME]),
    ("json", '{"name": "nobody", "arguments": {}}', '{"name": "nobody", "arguments": {}}', []),
    ("json", '{"answer": 42}', '{"answer": 42}', []),
    ("json", "[1] says so", "[1] says so", []),
    ("json", "{", "{", []),
    ("json", '{"arguments": {"a": 1}, "name": "time"}', "", [("time", {"a": 1})]),
    ("json", '{"name": "time"}', "", [TIME]),
    ("json", '{"name": "time", "arguments": null}', "", [TIME]),
    ("json", '{"name": "time", "arguments": "{\\"a\\": 1}"}', "", [("time", {"a": 1})]),
    ("json", '{"type": "function", "name": "time", "parameters": {}}', "", [TIME]),
    ("json", '{"name": 5}', '{"name": 5}', []),
    ("json", '{"name": }', '{"name": }', []),
    ("json", f"Look: {CALL}", f"Look: {CALL}", []),
    ("llama3", LLAMA, "", [WEATHER]),
    ("llama3", f"<|python_tag|>{LLAMA}", "", [WEATHER]),
    ("llama3", f"{LLAMA}; {OTHER}", "", [WEATHER, TIME]),
    ("llama3", "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    ("llama3", "Hello.", "Hello.", []),
    ("mistral", f"[TOOL_CALLS][{CALL}, {OTHER}]", "", [WEATHER, TIME]),
    ("mistral", f"[TOOL_CALLS] [{CALL}]", "", [WEATHER]),
    ("mistral", f"[{CALL}]", "", [WEATHER]),  # the mark was a special token
    ("mistral", f"I look. [TOOL_CALLS][{CALL}]", "I look.", [WEATHER]),
    ("mistral", "[TOOL", "[TOOL", []),
    ("mistral", "Hello [you]", "Hello [you]", []),
]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), ANSWERS, ids=range(len(ANSWERS)))
def test_text_and_calls_are_told_apart_however_they_are_cut(
    form: str, answer: str, text: str, calls: list[tuple[str, Any]]
) -> None:
    assert read(form, answer) == (text, calls)
    for seed in range(20):
        assert read(form, answer, seed=seed) == (text, calls)
    assert gathered_by_character(form, answer) == (text, calls)


def gathered_by_character(form: str, answer: str) -> tuple[str, list[tuple[str, Any]]]:
    reader = FORMS[form].reader(TOOLS, True, False)
    deltas = [delta for sign in answer for delta in reader.feed(sign)]
    return gathered([*deltas, *reader.finish()])


def test_arguments_are_told_while_they_are_written() -> None:
    reader = FORMS["hermes"].reader(TOOLS, True, False)
    assert reader.feed('<tool_call>\n{"name": "weat') == []
    assert reader.feed('her", "arguments": {"ci') == [
        ToolDelta(0, name="weather"),
        ToolDelta(0, arguments='{"ci'),
    ]
    assert reader.feed('ty": "Paris"}') == [ToolDelta(0, arguments='ty": "Paris"}')]
    assert reader.feed("}\n</tool_call>") == []
    assert reader.finish() == []


def test_text_is_told_at_once_where_no_call_can_begin() -> None:
    reader = FORMS["hermes"].reader(TOOLS, True, False)
    assert reader.feed("Hello") == [TextDelta("Hello")]
    assert reader.feed(" <b>") == [TextDelta(" <b>")]
    assert reader.feed(" <to") == []
    assert reader.feed("p>") == [TextDelta(" <top>")]


def test_one_call_is_told_where_one_is_wanted() -> None:
    both = f"<tool_call>{CALL}</tool_call>\n<tool_call>{OTHER}</tool_call> and so on"
    assert read("hermes", both, parallel=False) == ("", [WEATHER])
    assert read("json", f"[{CALL}, {OTHER}]", parallel=False) == ("", [WEATHER])


@pytest.mark.parametrize(
    ("form", "rest"),
    [("hermes", f"{CALL}\n</tool_call>"), ("mistral", f"[{CALL}]"), ("json", CALL)],
    ids=["hermes", "mistral", "json"],
)
def test_an_answer_whose_opening_the_prompt_had_is_a_call(form: str, rest: str) -> None:
    assert read(form, rest, opened=True) == ("", [WEATHER])


_PARTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", CALL, LLAMA, OTHER),
        *("{", "}", "[", "]", '"', "\\", ",", ":", ";", " ", "\n", "name", "text", "é"),
        *('{"name": "', '"arguments": ', "null", "1e5", '{"name": 5}'),
    ]
)


@given(form=st.sampled_from(sorted(FORMS)), parts=st.lists(_PARTS, max_size=12), cut=st.integers())
def test_whatever_is_written_is_read_alike_in_one_piece_and_in_many(
    form: str, parts: list[str], cut: int
) -> None:
    answer = "".join(parts)

    def told(seed: int | None) -> tuple[str, list[tuple[str, str]]]:
        reader = FORMS[form].reader(TOOLS, True, False)
        deltas = [delta for piece in pieces(answer, seed) for delta in reader.feed(piece)]
        deltas += reader.finish()
        text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
        calls: dict[int, tuple[str, str]] = {}
        for delta in deltas:
            if isinstance(delta, ToolDelta):
                name, arguments = calls.get(delta.call, ("", ""))
                calls[delta.call] = (name + delta.name, arguments + delta.arguments)
        return text, list(calls.values())

    text, calls = told(None)
    assert told(cut) == (text, calls)
    assert calls or text == answer  # without calls, nothing is lost
