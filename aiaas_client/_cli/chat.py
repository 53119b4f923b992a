"""`aiaas chat MODEL`: a conversation in the terminal, whose answers appear as they are written."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from aiaas_client._cli.predict import PULLED
from aiaas_client._cli.server import Server
from aiaas_client._cli.session import ModelName, client_of, tell
from aiaas_client._client import Client
from aiaas_client._errors import (
    AiaasError,
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    InputError,
    InternalServerError,
    ModelNotFoundError,
    RateLimitError,
    ServiceUnavailableError,
    escaped,
)

_is_command = re.compile(r"/[a-z]+").fullmatch

HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it; Ctrl-C stops an answer"
LOADING = 3600.0  # seconds; Ctrl-C ends it earlier
# After these another message may fare better; a model that is not there will not come.
_PASSING = (
    BadRequestError,
    InputError,
    APITimeoutError,
    RateLimitError,
    ServiceUnavailableError,
    InternalServerError,
)

MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.")
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0.0, help="How freely tokens are drawn; 0: the likeliest."),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", min=0.0, max=1.0, help="Draw of the tokens that make up this share."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Equal seeds give equal texts.")]
Stop = Annotated[
    list[str] | None, typer.Option("--stop", help="Ends an answer before this text; repeatable.")
]
Models = Annotated[
    Path | None,
    typer.Option("--models", help="Run this repository's models in this process, no server."),
]


def chat(
    model: ModelName,
    system: Annotated[
        str | None, typer.Option("--system", help="What the model is told before all else.")
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
    models: Models = None,
    *,
    server: Server,
) -> None:
    """Talk with a model: a message a line; /reset forgets, /exit ends, Ctrl-C stops an answer.

    Without --url the model in the directory `models` is run here, if it is there; otherwise the
    server on this machine is called. Messages may come from a pipe, too.
    """
    options = given(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stop
    )
    local = local_of(model, models, server)
    with client_of(server, local=local) as client:
        if local is not None:
            # Now, not while the first answer is waited for, nor in the time that it has.
            client.with_options(deadline=LOADING).models.load(model)
        elif sys.stdin.isatty():
            _look_for(client, model)
        Conversation(client.model(model).chat, system, options).run()


def _look_for(client: Client, model: str) -> None:
    """Have a server or a model that is not there told of before somebody types.

    Raises:
        APIConnectionError, ModelNotFoundError: It is not there.
    """
    try:
        client.model(model).metadata()
    except (APIConnectionError, ModelNotFoundError):
        raise
    except AiaasError:
        pass  # whether it chats, its first answer tells: some servers have no route but that


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def local_of(model: str, models: Path | None, server: Server) -> Path | None:
    """The repository whose models are run here, if any is."""
    is_pulled = models is None and server.url is None and (PULLED / model).is_dir()
    return PULLED if is_pulled else models


class Conversation:
    """What was said so far, and how it goes on.

    Args:
        ask: Gives a stream of the answer to messages.
        system: The first message.
        options: Of each answer.
    """

    def __init__(self, ask: Any, system: str | None, options: dict[str, Any]) -> None:
        self._ask = ask
        self._first = [{"role": "system", "content": system}] if system else []
        self._messages: list[dict[str, Any]] = list(self._first)
        self._options = options
        self._by_hand = sys.stdin.isatty()

    def run(self) -> None:
        """Answer each line, to the end of the input.

        Raises:
            AiaasError: What no other message would change; by a pipe any error.
        """
        if self._by_hand:
            tell(HELP)
        for line in self._lines():
            match line.rstrip():
                case "":
                    continue
                case "/exit":
                    return
                case "/reset":
                    self._messages = list(self._first)
                case "/help":
                    tell(HELP)
                case word if self._by_hand and _is_command(word):
                    tell(f"{word} is no command: {HELP}; a space before the / sends it")
                case _:
                    self._say(line)

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                yield input("> " if self._by_hand else "")
            except EOFError:
                return
            except KeyboardInterrupt:
                typer.echo()
                tell(HELP)

    def _say(self, text: str) -> None:
        """Say something, show the answer as it comes, and remember both."""
        message = {"role": "user", "content": text}
        try:
            answer = self._answer([*self._messages, message])
        except _PASSING as error:
            if not self._by_hand:
                raise
            tell(str(error))
            return
        if answer["content"] or answer.get("tool_calls"):
            self._messages += [message, answer]

    def _answer(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer; Ctrl-C ends it where it is, and so does the deadline once it has begun."""
        stream = self._ask(messages, stream=True, **self._options)
        try:
            with stream:
                show(stream.text_stream)
        except KeyboardInterrupt:
            tell("stopped")
        except APITimeoutError as error:
            if not (self._by_hand and stream.generation.text):
                raise
            tell(f"{error}; --timeout SECONDS gives it longer")
        told: dict[str, Any] = stream.generation.message
        for call in told.get("tool_calls") or ():
            typer.echo(presentable(f"{call['function']['name']}({call['function']['arguments']})"))
        return told


def show(pieces: Iterator[str]) -> None:
    """Print a text as it comes, and end its line however it ends; a refusal has none."""
    has_begun = False
    try:
        for piece in pieces:
            typer.echo(presentable(piece), nl=False)
            has_begun = True
    except AiaasError:
        if has_begun:
            typer.echo()
        raise
    except BaseException:
        typer.echo()
        raise
    typer.echo()


def presentable(text: str) -> str:
    """A model's text, which is to steer no terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else escaped(one) for one in text)
