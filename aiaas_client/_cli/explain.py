"""`aiaas explain MODEL INPUT`: what a prediction stands on, as a table, a picture or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client._cli.predict import PULLED, payloads_of
from aiaas_client._cli.records import Given
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import AsJson, ModelName, Version, client_of, ended, print_json, tell
from aiaas_client._errors import NotSupportedError

_ROWS = 30


def explain(
    model: ModelName,
    input_: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="A file, - for standard input, or the payload itself: a text, a record as JSON, "
            "a row of numbers as JSON.",
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="The payload is this text.")] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="The label or index to explain; the predicted one."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Most rows that the model is asked.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is drawn.")] = 0,
    background: Annotated[
        Path | None,
        typer.Option("--background", help="Records to compare with: a .csv or .json file."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw it to this file; of a picture its cells over it."),
    ] = None,
    version: Version = None,
    models: Annotated[
        Path | None,
        typer.Option("--models", help="Run this repository's models in this process, no server."),
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Explain a prediction: what each column, word or part of the picture adds to it."""
    if (input_ is None) == (text is None):
        raise ended("expected INPUT, or --text and no INPUT", 2)
    if models is None and server.url is None and (PULLED / model).is_dir():
        models = PULLED
    with client_of(server, local=models) as client:
        handle = client.model(model, version)
        card = handle.card()
        given = payloads_of([input_], card) if input_ is not None else [Given(text)]
        if len(given) != 1:
            raise UseError(f"expected one payload to explain, got {len(given)}")
        rows = None if background is None else payloads_of([str(background)], card)
        try:
            found = handle.explain(
                given[0].payload,
                output=_index_or_label(output),
                samples=samples,
                seed=seed,
                background=None if rows is None else [one.payload for one in rows],
            )
        except NotSupportedError as error:
            raise UseError(f"this server has no explanations: {error}") from None
        if plot is not None:
            _plot(found, given[0], plot)
    if as_json:
        print_json(found.model_dump(mode="json", exclude_none=True))
        return
    Console().print(table_of(found))
    if not found.complete:
        tell("the deadline ended it early: --timeout gives it more time")


def _index_or_label(output: str | None) -> str | int | None:
    return int(output) if output is not None and output.isdecimal() else output


def _plot(found: Any, given: Given, path: Path) -> None:
    try:
        if found.size is not None:
            found.draw(given.payload).save(path)
        else:
            found.plot().savefig(path, bbox_inches="tight")
    except ImportError as error:
        raise UseError(str(error)) from None
    except ValueError as error:  # the suffix is not known
        raise UseError(f"--plot: {error}") from None


def table_of(found: Any) -> Table:
    """What weighs most, and what it is added to."""
    title = f"{found.output}: {found.prediction:.4g}, base {found.base:.4g} ({found.method})"
    table = Table("feature", "value", "adds", "error", title=title, box=None)
    shown = found.top(_ROWS)
    for one in shown:
        value = "" if one.value is None else str(one.value)[:40]
        table.add_row(
            escape(one.feature), escape(value), f"{one.contribution:+.4g}", f"{one.error:.2g}"
        )
    others = len(found.contributions) - len(shown)
    if others:
        rest = sum(one.contribution for one in found.contributions) - sum(
            one.contribution for one in shown
        )
        table.add_row(f"{others} others", "", f"{rest:+.4g}", "")
    return table
