"""What a call of `POST /v1/responses` asks for: no more than what is sent with it.

Nothing is stored, so that `store` and what refers to former answers is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aiaas_server.core.generation import Ask, Chat, Format, Generator
from aiaas_server.http.members import Members, members_of
from aiaas_server.http.openai.chat_request import check_format
from aiaas_server.http.openai.messages import (
    check_tools,
    read_arguments,
    read_choice,
    read_content,
    read_function,
    read_name,
)
from aiaas_server.http.sampling import (
    MOST_LIKELIEST,
    read_ask,
    read_format,
    read_length,
    read_one_format,
)

LOGPROBS: Final = "message.output_text.logprobs"
_REFUSED: Final = {
    "store": ("answers are not stored here: expected false", (False,)),
    "previous_response_id": ("answers are not stored here: send the conversation", ()),
    "conversation": ("conversations are not stored here: send the messages", ()),
    "background": ("answers are not written in the background: expected false", (False,)),
    "prompt": ("prompts are not stored here: send 'instructions' and 'input'", ()),
    "truncation": ("conversations are not cut: expected 'disabled'", ("disabled",)),
    "context_management": ("conversations are not cut", ([],)),
}
_ROLES: Final = ("user", "assistant", "system", "developer")
_TEXTS: Final = ("input_text", "output_text", "text")


class ResponseCall(NamedTuple):
    """One call.

    Attributes:
        asked: The members that an answer tells again.
        ask: As `ChatCall` has it.
    """

    model: str
    chat: Chat
    ask: Ask
    stream: bool
    asked: Mapping[str, Any]


def read_response_call(asked: Members, generator: Generator) -> ResponseCall:
    """A call from its JSON object.

    Raises:
        InvalidInput: A member is missing, unusable, or asks for what cannot be done.
    """
    for name, (reason, neutral) in _REFUSED.items():
        asked.refuse(name, reason, but=neutral)
    tools = _tools(asked)
    chat = Chat(
        _conversation(asked),
        tools,
        read_choice(asked, tools, flat=True),
        asked.boolean("parallel_tool_calls", True),
    )
    length = read_length(asked, "max_output_tokens", generator)
    return ResponseCall(
        model=asked.text("model"),
        chat=chat,
        ask=read_ask(asked, generator, length, _format(asked, chat), _logprobs(asked)),
        stream=asked.boolean("stream"),
        asked=asked.document,
    )


def _conversation(asked: Members) -> list[dict[str, Any]]:
    """The messages that `instructions` and `input` are."""
    instructions = asked.text("instructions", "")
    messages = [{"role": "system", "content": instructions}] if instructions else []
    given = asked.get("input")
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise asked.wrong("input", "a text or a list of at least one item")
    for at, one in enumerate(given):
        _add(messages, members_of(one, f"input[{at}]"))
    return messages


def _add(messages: list[dict[str, Any]], item: Members) -> None:
    """Append an item; calls that follow each other are of one message."""
    kinds = ("message", "function_call", "function_call_output")
    kind = item.one_of("type", kinds, "message")
    if kind == "function_call_output":
        text = read_content(item, "output", _TEXTS)
        told = {"role": "tool", "content": text, "tool_call_id": item.text("call_id")}
        messages.append(told)
    elif kind == "function_call":
        function = {"name": read_name(item), "arguments": read_arguments(item)}
        call = {"id": item.text("call_id"), "type": "function", "function": function}
        if not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": ""})
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        role = item.one_of("role", _ROLES)
        content = read_content(item, "content", _TEXTS)
        messages.append({"role": "system" if role == "developer" else role, "content": content})


def _tools(asked: Members) -> list[dict[str, Any]]:
    tools = []
    for at, one in enumerate(asked.items("tools")):
        tool = members_of(one, f"tools[{at}]")
        tool.one_of("type", ("function",))
        tools.append(read_function(tool))
    check_tools(tools)
    return tools


def _logprobs(asked: Members) -> int | None:
    likeliest = asked.integer("top_logprobs", 0, MOST_LIKELIEST) or 0
    return likeliest if likeliest or LOGPROBS in asked.items("include") else None


def _format(asked: Members, chat: Chat) -> Format | None:
    text = asked.part("text")
    part = None if text is None else text.part("format")
    theirs = read_format(part, part)
    found = read_one_format(asked, theirs, "text.format")
    check_format(found, chat, "text.format" if theirs is not None else "")
    return found
