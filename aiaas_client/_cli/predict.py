"""`aiaas predict MODEL photo.jpg`: any payload from the command line, a table or JSON out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client._cli.each import OnError, predict_each, tell_skipped
from aiaas_client._cli.records import Given, payloads_from
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import (
    AsJson,
    ModelName,
    Version,
    client_of,
    print_json,
)
from aiaas_client.protocol.predictions import Prediction, Speech

PULLED = Path("models")  # where `aiaas pull` puts bundles when it is not told
LONG = 60  # numbers of a vector and the like are cut in tables


def predict(
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, - for standard input, or the payload itself: a text, or a record as JSON. "
            "A .csv file gives a record a line, a .json file a record or a list of them."
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="The payload is this text.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="top_k=3; repeat for more.")
    ] = None,
    version: Version = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error", help="Of a payload that cannot be predicted: stop, or skip it and go on."
        ),
    ] = OnError.STOP,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Draw what was found on the picture, to here.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write speech to this .wav file.")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option("--models", help="Run this repository's models in this process, no server."),
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Predict: pictures, texts, sound, files or records to what the model's task answers.

    Without --url the model in the directory `models` is run here, if `aiaas pull` or you have put
    it there; otherwise the server on this machine is called.
    """
    if models is None and server.url is None and (PULLED / model).is_dir():
        models = PULLED
    with client_of(server, local=models) as client:
        if text is not None and inputs:
            raise UseError(f"expected a payload or --text, got both: {inputs[0]!r} and {text!r}")
        handle = client.model(model, version)
        given = [Given(text)] if text is not None else payloads_of(inputs or [], handle.card())
        found = predict_each(handle, given, _params(param or []), on_error)
        if draw is not None:
            _draw(given, found, draw)
        if output is not None:
            _save(found, output)
    documents = [one.model_dump(mode="json") for one in found]
    if as_json:
        print_json(documents[0] if len(documents) == 1 else documents)
    else:
        for one in found:
            if isinstance(one, Prediction):
                Console().print(table_of(one))
    tell_skipped(found)


def payloads_of(inputs: Sequence[str], card: Mapping[str, Any]) -> list[Given]:
    """The payloads of the command line, as the model of that card takes them."""
    columns = card.get("columns") or []
    kinds = {column["name"]: column["kind"] for column in columns}
    return payloads_from(inputs, str(card.get("input") or "any"), kinds)


def _params(arguments: Sequence[str]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise UseError(f"--param: expected name=value, got {argument!r}")
        try:
            params[name] = json.loads(text)
        except ValueError:
            params[name] = text
    return params


def _draw(given: Sequence[Given], found: Sequence[Any], path: Path) -> None:
    payload = given[0].payload if len(given) == 1 else None
    if not isinstance(payload, bytes) or not hasattr(found[0], "draw"):
        raise UseError("--draw: expected one picture and a task that finds something in it")
    try:
        found[0].draw(payload).save(path)
    except ImportError as error:
        raise UseError(str(error)) from None
    except ValueError as error:  # pillow does not know the suffix
        raise UseError(f"--draw: {error}") from None


def _save(found: Sequence[Any], path: Path) -> None:
    if len(found) != 1 or not isinstance(found[0], Speech):
        raise UseError("--output: expected one text and a task that speaks")
    found[0].save(path)


def table_of(prediction: Prediction) -> Table:
    """A prediction as a table: its list of findings if it has one, else its fields."""
    fields = {name: value for name, value in prediction if value not in ("", (), {}, None)}
    rows = next((v for v in fields.values() if _is_findings(v)), None)
    if rows is not None:
        shown = [name for name, field in type(rows[0]).model_fields.items() if field.repr]
        table = Table(*shown, box=None)
        for row in rows:
            table.add_row(*(escape(_shown(getattr(row, name))) for name in shown))
        return table
    scores = fields.pop("scores", None)
    if isinstance(scores, Mapping) and scores:
        table = Table("label", "score", box=None)
        for label, score in scores.items():
            table.add_row(escape(str(label)), _shown(score))
        return table
    table = Table("field", "value", box=None)
    for name, value in fields.items():
        table.add_row(name, escape(_shown(value)))
    return table


def _is_findings(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Prediction)


def _shown(value: Any) -> str:
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, tuple):
        text = (
            "[" + ", ".join(map(_shown, value[:16])) + ("" if len(value) <= 16 else ", ...") + "]"
        )
        return text if len(text) <= LONG else f"{text[:LONG]}... ({len(value)})"
    return str(value)
