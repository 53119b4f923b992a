"""What a call of a model that writes may say: every member is checked, and refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Ask, Format
from aiaas_server.http.members import Members
from aiaas_server.http.openai.chat_request import ChatCall, read_chat_call
from tests.server.http.scripted_generator import ScriptedGenerator

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


def read(**members: Any) -> ChatCall:
    document = {"model": "m", "messages": [USER], **members}
    return read_chat_call(Members(document), ScriptedGenerator())


def messages(**members: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "user", "content": "x", **members}]}


WRONG = {
    "no messages": (
        {"messages": []},
        "'messages': expected a list of at least one message, got an empty list",
    ),
    "messages missing": (
        {"messages": None},
        "'messages': expected a list of at least one message, got nothing",
    ),
    "message": ({"messages": ["hi"]}, "'messages[0]': expected an object, got 'hi'"),
    "role": (
        messages(role="robot"),
        "'messages[1].role': expected system, developer, user, assistant or tool, got 'robot'",
    ),
    "no role": (messages(role=None), "'messages[1].role': expected system,"),
    "content": (
        messages(content=5),
        "'messages[1].content': expected a text or a list of its parts, got 5",
    ),
    "no content": (messages(content=None), "'messages[1].content': expected a text"),
    "no parts": (messages(content=[]), "'messages[1].content': expected a text"),
    "picture": (
        messages(content=[{"type": "image_url", "image_url": {}}]),
        "'messages[1].content[0].type': expected text, got 'image_url'",
    ),
    "assistant": (
        messages(role="assistant", content=None),
        "'messages[1].content': expected a text",
    ),
    "call": (
        messages(role="assistant", tool_calls=[{"type": "function"}]),
        "'messages[1].tool_calls[0].function': expected an object",
    ),
    "long arguments": (
        messages(
            role="assistant",
            tool_calls=[{"function": {"name": "f", "arguments": "1" * ((1 << 18) + 1)}}],
        ),
        "'messages[1].tool_calls[0].function.arguments': expected a text of at most 262144 "
        "characters, got 262145",
    ),
    "arguments": (
        messages(role="assistant", tool_calls=[{"function": {"name": "f", "arguments": {}}}]),
        "'messages[1].tool_calls[0].function.arguments': expected a text, got an object",
    ),
    "max_tokens 0": (
        {"max_tokens": 0},
        "'max_tokens': expected a whole number from 1 to 100, the model's context, got 0",
    ),
    "max_tokens huge": (
        {"max_completion_tokens": 10**30},
        "'max_completion_tokens': expected a whole number from 1 to 100, the "
        "model's context, got a number of many digits",
    ),
    "max_tokens text": (
        {"max_tokens": "9"},
        "'max_tokens': expected a whole number from 1 to 100, the model's context, got '9'",
    ),
    "max_tokens true": ({"max_tokens": True}, "got true"),
    "nan": ({"temperature": float("nan")}, "'temperature': expected a number from 0 to 2, got nan"),
    "infinite": (
        {"temperature": float("inf")},
        "'temperature': expected a number from 0 to 2, got inf",
    ),
    "temperature": ({"temperature": 2.1}, "'temperature': expected a number from 0 to 2, got 2.1"),
    "top_p": ({"top_p": 0}, "'top_p': expected a number above 0, to 1, got 0"),
    "top_k": ({"top_k": 301}, "'top_k': expected a whole number from -1 to 300, got 301"),
    "min_p": ({"min_p": -0.1}, "'min_p': expected a number from 0 to 1"),
    "repetition_penalty": (
        {"repetition_penalty": 0},
        "'repetition_penalty': expected a number above 0",
    ),
    "presence_penalty": (
        {"presence_penalty": 3},
        "'presence_penalty': expected a number from -2 to 2, got 3",
    ),
    "seed": ({"seed": 1.5}, "'seed': expected a whole number from -9223372036854775808"),
    "bias": ({"logit_bias": {"a": 1}}, "'logit_bias': expected token ids as keys, got 'a'"),
    "bias beyond": (
        {"logit_bias": {"300": 1}},
        "'logit_bias': expected token ids from 0 to 299, got '300'",
    ),
    "bias value": (
        {"logit_bias": {"3": 101}},
        "'logit_bias.3': expected a number from -100 to 100, got 101",
    ),
    "biases": (
        {"logit_bias": {str(i): 1 for i in range(1025)}},
        "'logit_bias': expected at most 1024 tokens, got 1025",
    ),
    "stop": ({"stop": ["a", ""]}, "'stop': expected texts of 1 to 1000 characters, got ''"),
    "stops": (
        {"stop": ["a"] * 17},
        "'stop': expected a text or a list of at most 16 texts, got a list of 17",
    ),
    "n": ({"n": 0}, "'n': expected a whole number from 1 to 128, got 0"),
    "top_logprobs": ({"top_logprobs": 3}, "'top_logprobs': 3 needs 'logprobs' to be true"),
    "many logprobs": (
        {"logprobs": True, "top_logprobs": 21},
        "'top_logprobs': expected a whole number from 0 to 20",
    ),
    "stream": ({"stream": "yes"}, "'stream': expected true or false, got 'yes'"),
    "best_of": ({"best_of": 2}, "'best_of': only one answer is written"),
    "guided": ({"guided_regex": "[a-z]"}, "'guided_regex': here the members are 'response_format'"),
    "structured": (
        {"structured_outputs": {"regex": "a"}},
        "'structured_outputs': here the members",
    ),
    "least": ({"min_tokens": 5}, "'min_tokens': an answer has no least length here"),
    "stop ids": ({"stop_token_ids": [2]}, "'stop_token_ids': here texts end an answer"),
    "beams": ({"use_beam_search": True}, "'use_beam_search': there is no beam search here"),
    "store": ({"store": True}, "'store': answers are not stored here: expected false, got true"),
    "audio": ({"audio": {"voice": "a"}}, "'audio': there is no audio"),
    "modalities": ({"modalities": ["text", "audio"]}, "'modalities': answers are texts"),
    "prediction": ({"prediction": {}}, "'prediction': predicted outputs are not supported"),
    "web": ({"web_search_options": {}}, "'web_search_options': there is no search"),
    "functions": ({"functions": [{}]}, "'functions': superseded by 'tools'"),
    "function_call": ({"function_call": "auto"}, "'function_call': superseded by 'tool_choice'"),
    "format": (
        {"response_format": {"type": "xml"}},
        "'response_format.type': expected text, json_object or json_schema, got 'xml'",
    ),
    "no schema": (
        {"response_format": {"type": "json_schema"}},
        "'response_format.json_schema': expected an object with a schema, got nothing",
    ),
    "schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
        "'response_format.json_schema.schema': expected a JSON Schema, an object, got 1",
    ),
    "two formats": (
        {"response_format": {"type": "json_object"}, "regex": "a"},
        "'response_format' and 'regex' exclude each other",
    ),
    "two of our own": ({"grammar": "a", "regex": "a"}, "'regex' and 'grammar' exclude each other"),
    "tool": (
        {"tools": [{"type": "web_search"}]},
        "'tools[0].type': expected function, got 'web_search'",
    ),
    "tool name": (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "'tools[0].function.name': expected a name of 1 to 64 letters",
    ),
    "reserved name": (
        {"tools": [{"type": "function", "function": {"name": "auto"}}]},
        "and none of none, auto or required, got 'auto'",
    ),
    "parameters": (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
        "'tools[0].function.parameters': expected a JSON Schema, an object",
    ),
    "same name": ({"tools": [TOOL, TOOL]}, "'tools': expected names that differ, got 'f' twice"),
    "tools": ({"tools": [TOOL] * 129}, "'tools': expected at most 128, got 129"),
    "choice": (
        {"tools": [TOOL], "tool_choice": "any"},
        "'tool_choice': expected none, auto or required, got 'any'",
    ),
    "choice kind": (
        {"tools": [TOOL], "tool_choice": {"type": "custom"}},
        "'tool_choice': expected none, auto or required, or a function, got an object",
    ),
    "unknown choice": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "'tool_choice': expected one of the tools, f, got 'g'",
    ),
    "choice of none": (
        {"tool_choice": "required"},
        "'tool_choice': 'required' needs 'tools', got none",
    ),
    "format and tools": (
        {"tools": [TOOL], "regex": "a"},
        "'regex' holds for the whole answer, which then calls no tools: "
        "expected 'tool_choice' to be none, got 'auto'",
    ),
    "options": ({"chat_template_kwargs": 1}, "'chat_template_kwargs': expected an object, got 1"),
}


@pytest.mark.parametrize(("members", "expected"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_told_by_name(members: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        read(**members)
    assert expected in raised.value.message


@pytest.mark.parametrize("name", ["temperature", "n", "tools", "stop", "response_format", "store"])
def test_null_is_as_good_as_nothing(name: str) -> None:
    assert read(**{name: None}) == read()


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"response_format": {"type": "text"}}, None, id="text"),
        pytest.param(
            {"response_format": {"type": "json_object"}}, Format("json_object"), id="object"
        ),
        pytest.param({"regex": "a+"}, Format("regex", "a+"), id="regex"),
        pytest.param({"grammar": "start: /a/"}, Format("grammar", "start: /a/"), id="grammar"),
        pytest.param(
            {"tools": [TOOL], "tool_choice": "none", "regex": "a"},
            Format("regex", "a"),
            id="tools not to be called",
        ),
    ],
)
def test_formats(members: dict[str, Any], expected: Format | None) -> None:
    assert read(**members).ask.format == expected


def test_what_is_not_said_is_the_models_own() -> None:
    call = read()
    assert call.ask == Ask((), sampling=ScriptedGenerator.defaults)
    assert call.choices == 1
    assert read(top_k=-1).ask.sampling.top_k == 0
