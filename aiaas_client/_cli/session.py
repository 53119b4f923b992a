"""What the commands share: their options, the client of one command, and how they end.

Exit codes: 0 when the call worked, 1 when the server refused or failed, 2 when the command or its
inputs are wrong, 3 when no server could be reached in time.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from aiaas_client._cli.server import Server, UseError
from aiaas_client._client import Client
from aiaas_client._errors import (
    AiaasError,
    APIConnectionError,
    APITimeoutError,
    CircuitOpenError,
    ConfigurationError,
    InputError,
    NotFoundError,
)

FAILED, WRONG_USE, UNREACHABLE = 1, 2, 3
NO_LIMIT = 1 << 60  # bytes
_NAMED = 12  # models, where one that is not there was asked for

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
ModelName = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[str | None, typer.Option("--version", help="Model version.")]


@contextmanager
def client_of(server: Server, *, local: Path | None = None) -> Iterator[Client]:
    """A client for one command; errors become one line on stderr and an exit code.

    Args:
        local: Run the models of this repository in this process instead of calling a server.
    """
    with telling(), _open(server, local) as client:
        try:
            yield client
        except NotFoundError as error:
            raise ended(str(error) + _nearest(client, error), FAILED) from None


@contextmanager
def telling() -> Iterator[None]:
    """Errors become one line on stderr and an exit code."""
    try:
        yield
    except BrokenPipeError:  # who reads the output has enough of it, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(FAILED) from None
    except (UseError, AiaasError, OSError) as error:
        raise ended(str(error), exit_code_of(error)) from None


def exit_code_of(error: UseError | AiaasError | OSError) -> int:
    """How a command ends that fails of it."""
    if isinstance(error, APIConnectionError | APITimeoutError | CircuitOpenError):
        return UNREACHABLE
    wrong = isinstance(error, UseError | InputError | ConfigurationError)
    return WRONG_USE if wrong or not isinstance(error, AiaasError) else FAILED


def ended(text: str, code: int) -> typer.Exit:
    """Tell why a command ends, and give the exception that ends it."""
    tell(text)
    return typer.Exit(code)


def tell(text: str) -> None:
    """Say what is no output of the command."""
    typer.echo(f"aiaas: {text}", err=True)


def did_you_mean(name: str, known: set[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no known name is near."""
    by_case = {one.casefold(): one for one in known}
    close = get_close_matches(name.casefold(), by_case, n=1)
    return f"; did you mean '{by_case[close[0]]}'?" if close and name not in known else ""


def print_json(value: Any) -> None:
    """Print a document for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _open(server: Server, local: Path | None) -> AbstractContextManager[Client]:
    if local is None:
        return server.client()
    # With a budget, models are loaded when they are called: the one that is asked for and
    # those that its task runs, no others.
    options = {"load_models": (), "memory_budget_bytes": NO_LIMIT}
    return Client.local(local, **options).with_options(deadline=server.timeout)


def _nearest(client: Client, error: NotFoundError) -> str:
    if "did you mean" in str(error) or not error.model:
        return ""
    try:
        known = {entry.name for entry in client.models.list()}
    except AiaasError:  # the error that is told stays the first one
        return ""
    near = did_you_mean(error.model, known)
    if near or not 0 < len(known) <= _NAMED or error.model in known:
        return near
    return f"; {'there is' if len(known) == 1 else 'there are'} {', '.join(sorted(known))}"
