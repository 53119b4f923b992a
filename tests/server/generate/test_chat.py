from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Chat, Prompt, TextDelta
from aiaas_server.generate.chat import Chats
from aiaas_server.generate.chat_template import ChatTemplate
from aiaas_server.generate.constraint import Grammars
from aiaas_server.generate.tools import FORMS, marks_of
from tests.server.generate.random_answers import ENDS, encode, write
from tests.server.generate.test_chat_reader import gathered
from tests.tiny_llm import CONFIG, TEMPLATE, tokenizer_json

CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city"],
    "$defs": {"city": {"enum": ["Paris", "Köln"]}},
}
WEATHER = {"name": "weather", "description": "Tells it.", "parameters": CITY}
TIME = {"name": "time", "description": "", "parameters": {"type": "object", "properties": {}}}
TOOLS = (WEATHER, TIME)
USER = {"role": "user", "content": "How is it in Paris?"}
PAST = (
    USER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
)
# In the manner of Qwen's and Hermes'.
KNOWING = """
{%- if tools %}{{- '<|im_start|>system\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' ~ (tool | tojson) }}{%- endfor %}{{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' ~ message.role ~ '\\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>' ~ ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}
{%- endfor %}
{%- if message.role == 'tool' %}{{- ' of ' ~ message.name }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(tokenizer_json(), CONFIG.vocabulary, ENDS)


class Texts:
    """Keeps the texts that were to be encoded."""

    def __init__(self) -> None:
        self.last = ""

    def encode(self, text: str) -> list[int]:
        self.last = text
        return encode(text)


def prompt(
    chat: Chat, form: str = "hermes", source: str = TEMPLATE, grammars: Grammars | None = None
) -> tuple[Prompt, str]:
    """The prompt of a conversation, and its text."""
    texts = Texts()
    check = None if grammars is None else grammars.compile
    template = ChatTemplate(source, "chat_template.jinja", {})
    return Chats(template, form, texts.encode, check).prompt(chat), texts.last


def test_a_conversation_without_tools_is_what_the_template_makes_of_it() -> None:
    made, text = prompt(Chat([USER]))
    assert text == "<|im_start|>user\nHow is it in Paris?<|im_end|>\n<|im_start|>assistant\n"
    assert made.tokens == tuple(encode(text))
    assert made.tokens[0] == 1  # as one token, not as its characters
    assert made.format is None
    assert made.stop == ()
    assert made.reader().feed("<tool_call>{") == [TextDelta("<tool_call>{")]


def test_a_template_that_knows_tools_gets_them() -> None:
    _, text = prompt(Chat([USER], TOOLS), source=KNOWING)
    system = text.partition("<|im_end|>")[0]
    assert [json.loads(line) for line in system.splitlines()[2:-1]] == [
        {"type": "function", "function": tool} for tool in TOOLS
    ]


def test_calls_of_earlier_answers_reach_a_template_as_objects_with_names() -> None:
    _, text = prompt(Chat(PAST, TOOLS), source=KNOWING)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}<|im_end|>' in text
    assert "<|im_start|>tool\nRain. of weather<|im_end|>" in text


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_template_that_knows_no_tools_gets_a_system_message(form: str) -> None:
    _, text = prompt(Chat([USER], TOOLS), form)
    system, _, rest = text.partition("<|im_end|>")
    assert system.startswith("<|im_start|>system\n# Tools")
    assert json.dumps({"type": "function", "function": WEATHER}, ensure_ascii=False) in system
    assert FORMS[form].arguments in system
    assert rest.startswith("\n<|im_start|>user\nHow")


def test_the_system_message_that_is_there_is_kept() -> None:
    _, text = prompt(Chat([{"role": "system", "content": "Be brief."}, USER], TOOLS))
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert text.count("<|im_start|>system") == 1


def test_a_model_without_system_messages_is_told_of_tools_by_the_user() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('No system!') }}{% endif %}"
    _, text = prompt(Chat([USER], TOOLS), source=strict + TEMPLATE)
    assert text.startswith("<|im_start|>user\n# Tools")
    assert "\n\nHow is it in Paris?<|im_end|>" in text
    with pytest.raises(InvalidInput, match="No system!"):
        prompt(Chat([{"role": "system", "content": "x"}, USER], TOOLS), source=strict + TEMPLATE)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_calls_of_earlier_answers_are_written_as_the_model_writes_them(form: str) -> None:
    _, text = prompt(Chat(PAST, TOOLS), form)
    answer = text.split("<|im_start|>assistant\n")[1].partition("<|im_end|>")[0]
    reader = FORMS[form].reader(TOOLS, True, False)
    deltas = [*reader.feed(answer), *reader.finish()]
    assert gathered(deltas) == ("", [("weather", {"city": "Paris"})])
    assert "<|im_start|>user\n<tool_response>\nRain.\n</tool_response><|im_end|>" in text


def test_no_tools_are_shown_where_none_may_be_called() -> None:
    made, text = prompt(Chat([USER], TOOLS, tool_choice="none"), source=KNOWING)
    assert "weather" not in text
    assert made.reader().feed("<tool_call>") == [TextDelta("<tool_call>")]


def test_where_the_model_chooses_nothing_is_demanded() -> None:
    made, _ = prompt(Chat([USER], TOOLS))
    assert made.format is None
    assert made.stop == ()


def test_one_call_ends_the_answer_where_one_is_wanted() -> None:
    made, _ = prompt(Chat([USER], TOOLS, parallel=False))
    assert made.stop == ("</tool_call>",)


def answer_to(made: Prompt, grammars: Grammars, seed: int) -> list[tuple[str, Any]] | None:
    """The calls of a random answer that keeps to what is demanded; None if it has no end."""
    assert made.format is not None
    written = write(grammars.compile(made.format).matcher(), seed, most=300)
    assert not written.failed
    if not written.finished:
        return None
    reader = made.reader()
    text, calls = gathered([*reader.feed(written.text), *reader.finish()])
    assert text == ""
    return calls


def check_call(call: tuple[str, Any], schemas: Mapping[str, Any]) -> None:
    name, arguments = call
    jsonschema.validate(arguments, schemas[name])


@pytest.mark.parametrize("form", [*sorted(FORMS), ""], ids=[*sorted(FORMS), "none"])
@pytest.mark.parametrize("parallel", [True, False], ids=["several", "one"])
def test_calls_that_are_demanded_are_made_and_fit_their_schemas(
    grammars: Grammars, form: str, parallel: bool
) -> None:
    chat = Chat([USER], TOOLS, tool_choice="required", parallel=parallel)
    made, text = prompt(chat, form, grammars=grammars)
    assert text.endswith("assistant\n" + (FORMS[form].prefix if form else ""))
    schemas = {str(tool["name"]): tool["parameters"] for tool in TOOLS}
    found = [calls for seed in range(12) if (calls := answer_to(made, grammars, seed)) is not None]
    assert len(found) >= 8
    for calls in found:
        assert 1 <= len(calls) <= (16 if parallel else 1)
        for call in calls:
            check_call(call, schemas)
    assert {name for calls in found for name, _ in calls} == set(schemas)


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("parallel", [True, False], ids=["several", "one"])
def test_calls_as_the_model_writes_them_are_permitted_where_they_are_demanded(
    grammars: Grammars, form: str, parallel: bool
) -> None:
    demanded = FORMS[form].demanded(TOOLS, parallel)
    call = {"name": "weather", "arguments": {"city": "Köln", "days": 2}}
    for calls in ([call], [call, {"name": "time", "arguments": {}}]):
        tokens = encode(FORMS[form].written(calls).removeprefix(FORMS[form].prefix))
        matcher = grammars.compile(demanded).matcher()
        whole = matcher.permitted(tokens) == len(tokens)
        assert whole == (parallel or len(calls) == 1)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_function_that_is_named_is_the_one_that_is_called(grammars: Grammars, form: str) -> None:
    made, _ = prompt(Chat([USER], TOOLS, tool_choice="weather"), form, grammars=grammars)
    found = [calls for seed in range(8) if (calls := answer_to(made, grammars, seed)) is not None]
    assert found
    for calls in found:
        ((name, arguments),) = calls
        assert name == "weather"
        jsonschema.validate(arguments, CITY)
        assert set(arguments) <= {"city", "days"}  # what nobody described is no argument


def test_white_space_in_calls_is_bounded_whatever_a_schema_says(grammars: Grammars) -> None:
    tool = {"name": "f", "parameters": {**CITY, "x-guidance": {"whitespace_flexible": True}}}
    made, _ = prompt(Chat([USER], (tool,), tool_choice="required"), grammars=grammars)
    assert made.format is not None
    matcher = grammars.compile(made.format).matcher()
    assert matcher.permitted(encode("{\n")) == 1
    assert matcher.permitted(encode('{"name"')) == len(encode('{"name"'))


@pytest.mark.parametrize(
    ("chat", "form", "told"),
    [
        pytest.param(
            Chat([USER], TOOLS, tool_choice="rain"),
            "hermes",
            "tool_choice: expected one of 'weather', 'time', got 'rain'",
            id="unknown function",
        ),
        pytest.param(
            Chat([USER], (), tool_choice="required"), "hermes", "without tools", id="no tools"
        ),
        pytest.param(Chat([USER], TOOLS), "", "generation.tools", id="no form"),
        pytest.param(Chat([USER], ({"name": ""},)), "json", r"tools\[0\].name", id="no name"),
        pytest.param(
            Chat(
                [USER],
                ({"name": "f", "parameters": {"properties": {"a": {"not": {}}}}},),
                tool_choice="required",
            ),
            "hermes",
            r"tools: parameters cannot be kept to: .*\"not\"",
            id="schema",
        ),
    ],
)
def test_what_cannot_be_called_is_refused(
    grammars: Grammars, chat: Chat, form: str, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        prompt(chat, form, grammars=grammars)


def test_functions_nested_beyond_reason_are_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(1000):
        schema = {"type": "object", "properties": {"a": schema}}
    tools = ({"name": "f", "description": "", "parameters": schema},)
    chats = Chats(ChatTemplate(TEMPLATE, "t", {}), "hermes", encode)
    for choice in ("auto", "required"):
        with pytest.raises(InvalidInput, match="nested less deeply"):
            chats.prompt(Chat((USER,), tools, choice))


def test_arguments_that_are_no_json_stay_what_they_were() -> None:
    call = {"id": "c", "function": {"name": "time", "arguments": "{oops"}}
    _, text = prompt(Chat([USER, {"role": "assistant", "tool_calls": [call]}], TOOLS))
    assert "{oops" in text


def test_marks_of_calls_are_told_to_whoever_reads_tokens() -> None:
    assert marks_of("hermes") == ("<tool_call>", "</tool_call>")
    assert marks_of("mistral") == ("[TOOL_CALLS]",)
    assert marks_of("json") == marks_of("") == ()
