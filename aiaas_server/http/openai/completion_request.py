"""What a call of `POST /v1/completions` asks for; see `chat_request` for what is refused."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Ask, Format, Generator
from aiaas_server.http.members import Members, wrong
from aiaas_server.http.sampling import (
    MOST_ANSWERS,
    MOST_LIKELIEST,
    read_ask,
    read_format,
    read_length,
    read_one_format,
)
from aiaas_server.http.slices import check_count

USUAL_TOKENS: Final = 16
"""Of an answer whose length is not asked for, as OpenAI has it."""


class CompletionCall(NamedTuple):
    """One call.

    Attributes:
        prompts: Texts, or tokens.
        ask: What is asked of the model for each of them.
        choices: Answers of each prompt.
        echo: Whether the prompt stands before its answers.
        usage: As `ChatCall` has it.
    """

    model: str
    prompts: list[str | tuple[int, ...]]
    ask: Ask
    choices: int
    echo: bool
    stream: bool
    usage: bool


def read_completion_call(asked: Members, generator: Generator, most: int) -> CompletionCall:
    """A call from its JSON object.

    Args:
        most: Prompts of one call.
    Raises:
        InvalidInput: A member is missing, unusable, or asks for what cannot be done.
    """
    asked.refuse("suffix", "text is not written between two others here", but=("",))
    asked.refuse("best_of", "only one answer is written for each one that is given", but=(1,))
    logprobs = asked.integer("logprobs", 0, MOST_LIKELIEST)
    echo = asked.boolean("echo")
    if echo and logprobs is not None:
        raise InvalidInput("'echo': the log-probabilities of a prompt are not told here")
    length = read_length(asked, "max_tokens", generator) or USUAL_TOKENS
    streaming = asked.part("stream_options")
    return CompletionCall(
        model=asked.text("model"),
        prompts=_prompts(asked, generator, most),
        ask=read_ask(asked, generator, length, _format(asked), logprobs),
        choices=asked.integer("n", 1, MOST_ANSWERS) or 1,
        echo=echo,
        stream=asked.boolean("stream"),
        usage=streaming is not None and streaming.boolean("include_usage"),
    )


def _prompts(asked: Members, generator: Generator, most: int) -> list[str | tuple[int, ...]]:
    prompt = asked.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(type(item) is int for item in prompt):
            return [_tokens(prompt, generator)]
        check_count("prompt", len(prompt), most)
        if all(isinstance(item, str) for item in prompt):
            return list(prompt)
        if all(isinstance(item, list) and item for item in prompt):
            return [_tokens(item, generator) for item in prompt]
    raise asked.wrong("prompt", "a text, a list of texts, or (lists of) token ids")


def _tokens(given: list[Any], generator: Generator) -> tuple[int, ...]:
    last = generator.vocabulary - 1
    for token in given:
        if type(token) is not int or not 0 <= token <= last:
            raise wrong("prompt", f"token ids from 0 to {last}", token)
    return tuple(given)


def _format(asked: Members) -> Format | None:
    part = asked.part("response_format")
    theirs = read_format(part, None if part is None else part.part("json_schema"))
    return read_one_format(asked, theirs, "response_format")
