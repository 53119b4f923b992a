"""What a call of `POST /v1/chat/completions` asks for.

What cannot be done and would change the answer is refused by name; what is harmless is ignored,
known or not: `user`, `metadata`, `service_tier`, and whatever comes next year.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Ask, Chat, Format, Generator, Prompt
from aiaas_server.http.members import Members
from aiaas_server.http.openai.messages import read_choice, read_messages, read_tools
from aiaas_server.http.sampling import (
    MOST_ANSWERS,
    MOST_LIKELIEST,
    read_ask,
    read_format,
    read_length,
    read_one_format,
)

_REFUSED: Final = {
    "audio": "there is no audio in answers here; see /v1/audio/speech",
    "prediction": "predicted outputs are not supported",
    "web_search_options": "there is no search of the web here",
    "functions": "superseded by 'tools'",
    "function_call": "superseded by 'tool_choice'",
}
_NEUTRAL: Final = {"store": (False,), "best_of": (1,)}
_WHY: Final = {
    "store": "answers are not stored here: expected false",
    "best_of": "only one answer is written for each one that is given: expected 1",
}


class ChatCall(NamedTuple):
    """One call.

    Attributes:
        ask: What is asked of the model, but for the prompt.
        choices: Answers of it.
        usage: Whether a stream tells at its end how many tokens it took.
    """

    model: str
    chat: Chat
    ask: Ask
    choices: int
    stream: bool
    usage: bool


def prompted(ask: Ask, prompt: Prompt) -> Ask:
    """What is asked of the model, with a conversation and what that demands of the answer."""
    return replace(
        ask,
        tokens=prompt.tokens,
        stop=(*ask.stop, *prompt.stop),
        format=prompt.format if ask.format is None else ask.format,
    )


def read_chat_call(asked: Members, generator: Generator) -> ChatCall:
    """A call from its JSON object.

    Raises:
        InvalidInput: A member is missing, unusable, or asks for what cannot be done.
    """
    _refuse(asked)
    tools = read_tools(asked)
    options = asked.part("chat_template_kwargs")
    chat = Chat(
        read_messages(asked),
        tools,
        read_choice(asked, tools),
        asked.boolean("parallel_tool_calls", True),
        {} if options is None else options.document,
    )
    streaming = asked.part("stream_options")
    return ChatCall(
        model=asked.text("model"),
        chat=chat,
        ask=read_ask(
            asked, generator, _length(asked, generator), _format(asked, chat), _logprobs(asked)
        ),
        choices=asked.integer("n", 1, MOST_ANSWERS) or 1,
        stream=asked.boolean("stream"),
        usage=streaming is not None and streaming.boolean("include_usage"),
    )


def _refuse(asked: Members) -> None:
    for name, reason in _REFUSED.items():
        asked.refuse(name, reason)
    for name, neutral in _NEUTRAL.items():
        asked.refuse(name, _WHY[name], but=neutral)
    if asked.items("modalities") not in ([], ["text"]):
        raise InvalidInput("'modalities': answers are texts: expected [\"text\"]")


def _length(asked: Members, generator: Generator) -> int | None:
    newer = read_length(asked, "max_completion_tokens", generator)
    older = read_length(asked, "max_tokens", generator)
    return older if newer is None else newer


def _logprobs(asked: Members) -> int | None:
    likeliest = asked.integer("top_logprobs", 0, MOST_LIKELIEST)
    if not asked.boolean("logprobs"):
        if likeliest:
            raise InvalidInput(f"'top_logprobs': {likeliest} needs 'logprobs' to be true")
        return None
    return likeliest or 0


def _format(asked: Members, chat: Chat) -> Format | None:
    part = asked.part("response_format")
    theirs = read_format(part, None if part is None else part.part("json_schema"))
    found = read_one_format(asked, theirs, "response_format")
    check_format(found, chat, "response_format" if theirs is not None else "")
    return found


def check_format(format: Format | None, chat: Chat, name: str) -> None:
    """An answer that has a format is no call.

    Args:
        name: Of the member that the format stands in; "" where that is its kind.
    Raises:
        InvalidInput: Both are asked for.
    """
    if format is not None and chat.tools and chat.tool_choice != "none":
        raise InvalidInput(
            f"'{name or format.kind}' holds for the whole answer, which then calls no tools: "
            f"expected 'tool_choice' to be none, got {chat.tool_choice!r}"
        )
