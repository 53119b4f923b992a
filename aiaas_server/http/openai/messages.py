"""Conversations and tools as OpenAI's chat route has them, checked member by member."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from aiaas_server.core.errors import InvalidInput
from aiaas_server.http.members import Members, members_of, one_of, shown, wrong

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
CHOICES: Final = ("none", "auto", "required")
MOST_TOOLS: Final = 128
LONGEST_ARGUMENTS: Final = 1 << 18  # characters of one call, as of formats
_name = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_NAME: Final = "a name of 1 to 64 letters, digits, '_' and '-'"


def read_messages(asked: Members) -> list[dict[str, Any]]:
    """The conversation; contents are texts, and `developer` is `system`.

    Raises:
        InvalidInput: There is none, or a message is not what it should be, by its number.
    """
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise asked.wrong("messages", "a list of at least one message")
    return [_message(members_of(one, f"messages[{at}]")) for at, one in enumerate(messages)]


def _message(given: Members) -> dict[str, Any]:
    role = given.one_of("role", ROLES)
    for name in ("audio", "function_call"):
        given.refuse(name, "there is no such thing here")
    calls = read_calls(given) if role == "assistant" else []
    message: dict[str, Any] = {"role": "system" if role == "developer" else role}
    missing = given.get("content") is None and role == "assistant" and bool(calls)
    message["content"] = "" if missing else read_content(given, "content", ("text",))
    if given.get("name") is not None:
        message["name"] = given.text("name")
    if calls:
        message["tool_calls"] = calls
    if role == "tool":
        message["tool_call_id"] = given.text("tool_call_id", "")
    return message


def read_content(given: Members, name: str, kinds: Sequence[str]) -> str:
    """The text of a content: a text itself, or parts of it.

    Args:
        kinds: What types of parts are texts.
    Raises:
        InvalidInput: Neither, or a part of another type, such as a picture.
    """
    content = given.get(name)
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise given.wrong(name, "a text or a list of its parts")
    texts = []
    for at, one in enumerate(content):
        part = members_of(one, f"{given.place}{name}[{at}]")
        if part.get("type") not in kinds:
            raise part.wrong("type", one_of(kinds))
        texts.append(part.text("text"))
    return "".join(texts)


def read_calls(given: Members) -> list[dict[str, Any]]:
    """The calls of an assistant's message.

    Raises:
        InvalidInput: One is not what it should be.
    """
    calls = []
    for at, one in enumerate(given.items("tool_calls")):
        call = members_of(one, f"{given.place}tool_calls[{at}]")
        call.one_of("type", ("function",), "function")
        function = call.part("function")
        if function is None:
            raise call.wrong("function", "an object with 'name' and 'arguments'")
        told = {"name": read_name(function), "arguments": read_arguments(function)}
        calls.append({"id": call.text("id", ""), "type": "function", "function": told})
    return calls


def read_tools(asked: Members) -> list[dict[str, Any]]:
    """The functions that may be called: `name`, `description`, `parameters`.

    Raises:
        InvalidInput: A tool of another type, too many, two of a name, or one that is malformed.
    """
    tools = []
    for at, one in enumerate(asked.items("tools")):
        tool = members_of(one, f"tools[{at}]")
        tool.one_of("type", ("function",))
        function = tool.part("function")
        if function is None:
            raise tool.wrong("function", "an object with a 'name'")
        tools.append(read_function(function))
    check_tools(tools)
    return tools


def read_function(given: Members) -> dict[str, Any]:
    """One function."""
    parameters = given.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise given.wrong("parameters", "a JSON Schema, an object")
    return {
        "name": read_name(given),
        "description": given.text("description", ""),
        "parameters": parameters or {"type": "object", "properties": {}},
    }


def read_arguments(given: Members) -> str:
    """The arguments of a call, as text; they are read as JSON later, which holds up all others."""
    arguments = given.text("arguments")
    if len(arguments) > LONGEST_ARGUMENTS:
        expected = f"a text of at most {LONGEST_ARGUMENTS} characters"
        raise InvalidInput(f"'{given.place}arguments': expected {expected}, got {len(arguments)}")
    return arguments


def read_name(given: Members) -> str:
    """The name of a function."""
    name = given.text("name")
    if not _name(name) or name in CHOICES:
        raise given.wrong("name", f"{_NAME}, and none of {one_of(CHOICES)}")
    return name


def check_tools(tools: Sequence[dict[str, Any]]) -> None:
    """Names must differ, and there may not be too many.

    Raises:
        InvalidInput: They do not, or there are.
    """
    if len(tools) > MOST_TOOLS:
        raise InvalidInput(f"'tools': expected at most {MOST_TOOLS}, got {len(tools)}")
    names: set[str] = set()
    for tool in tools:
        if tool["name"] in names:
            raise InvalidInput(f"'tools': expected names that differ, got {tool['name']!r} twice")
        names.add(tool["name"])


def read_choice(asked: Members, tools: Sequence[dict[str, Any]], *, flat: bool = False) -> str:
    """`tool_choice`: none, auto, required, or the name of one of the functions.

    Args:
        flat: The name stands beside the type, not inside `function`.
    Raises:
        InvalidInput: Anything else, or a call is demanded of a function that is not there.
    """
    value = asked.get("tool_choice")
    if value is None:
        return "auto"
    if isinstance(value, str):
        chosen = asked.one_of("tool_choice", CHOICES)
    else:
        choice = asked.part("tool_choice")
        if choice is None or choice.get("type") != "function":
            raise wrong("tool_choice", f"{one_of(CHOICES)}, or a function", value)
        function = choice if flat else choice.part("function")
        if function is None:
            raise choice.wrong("function", "an object with a 'name'")
        chosen = read_name(function)
    if chosen not in ("none", "auto"):
        _check_chosen(chosen, tools)
    return chosen


def _check_chosen(chosen: str, tools: Sequence[dict[str, Any]]) -> None:
    names = [tool["name"] for tool in tools]
    if not names:
        raise InvalidInput(f"'tool_choice': {shown(chosen)} needs 'tools', got none")
    if chosen != "required" and chosen not in names:
        raise wrong("tool_choice", f"one of the tools, {one_of(names)[:200]}", chosen)
