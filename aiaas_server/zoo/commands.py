"""`aiaas zoo` and `aiaas pull`: the packaged models, listed and put into a repository."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from aiaas_server.zoo.entries import ENTRIES
from aiaas_server.zoo.packages import FetchError
from aiaas_server.zoo.pull import UnknownModel, find
from aiaas_server.zoo.pull import pull as pull_model


def register(app: typer.Typer) -> None:
    """Add both commands to a typer application."""
    app.command("zoo")(zoo)
    app.command("pull")(pull)


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
    models: Annotated[Path, Option("--models", help="Repository to put the bundles into.")] = Path(
        "models"
    ),
) -> None:
    """Make ready bundles of packaged models, in the repository that `aiaas serve` serves."""
    try:
        entries = [find(name) for name in names]
        for entry in entries:
            for done in pull_model(entry.name, models, report=_tell):
                state = "ready" if done.is_new else "was there"
                typer.echo(f"{done.name} version {done.version} {state}: {done.path}")
            if entry.lacks:
                _tell(f"{entry.name} needs: {entry.needs}")
    except (UnknownModel, FetchError, OSError) as error:
        _tell(f"aiaas: {error}")
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        _tell(f'aiaas: {error.name} is not installed; run: pip install "aiaas-client[zoo]"')
        raise typer.Exit(1) from None


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
