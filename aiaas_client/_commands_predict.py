"""`aiaas predict MODEL photo.jpg`: any payload from the command line, a table or JSON out."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client._commands import (
    DEFAULT_URL,
    AsJson,
    KeyVariable,
    Timeout,
    UseError,
    client_of,
    print_json,
)
from aiaas_client.protocol.predictions import Prediction, Speech

FILES = ("image", "audio", "bytes")
PULLED = Path("models")  # where `aiaas pull` puts bundles when it is not told
LONG = 60  # numbers of a vector and the like are cut in tables


def predict(
    model: Annotated[str, typer.Argument(help="The model's name.")],
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
    version: Annotated[str | None, typer.Option("--version", help="Model version.")] = None,
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
    url: Annotated[
        str | None, typer.Option("--url", envvar="AIAAS_BASE_URL", help="Where the server is.")
    ] = None,
    api_key_env: KeyVariable = "AIAAS_API_KEY",
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Predict: pictures, texts, sound, files or records to what the model's task answers.

    Without --url the model in the directory `models` is run here, if `aiaas pull` or you have put
    it there; otherwise the server on this machine is called.
    """
    if models is None and url is None and (PULLED / model).is_dir():
        models = PULLED
    with client_of(url or DEFAULT_URL, api_key_env, timeout, local=models) as client:
        handle = client.model(model, version)
        kind = str(handle.card().get("input") or "any")
        payloads = [text] if text is not None else _payloads(inputs or [], kind)
        params = _params(param or [])
        found: list[Any] = [handle.predict(payload, **params) for payload in payloads]
        if draw is not None:
            _draw(payloads, found, draw)
        if output is not None:
            _save(found, output)
    documents = [prediction.model_dump(mode="json") for prediction in found]
    if as_json:
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    for prediction in found:
        Console().print(table_of(prediction))


def _payloads(inputs: Sequence[str], kind: str) -> list[Any]:
    if not inputs:
        raise UseError("expected a file, -, or --text; see `aiaas predict --help`")
    return [payload for name in inputs for payload in _read(name, kind)]


def _read(name: str, kind: str) -> list[Any]:
    """The payloads that one argument stands for, as a task of that kind takes them."""
    if name == "-":
        return _of_bytes(sys.stdin.buffer.read(), "", kind)
    path = Path(name)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # far too long, or with characters no file name has
        is_file = False
    if is_file:
        return _of_bytes(path.read_bytes(), path.suffix.lower(), kind)
    if kind in FILES:
        raise UseError(f"no file {name!r}")
    return _of_bytes(name.encode(), "", kind)


def _of_bytes(content: bytes, suffix: str, kind: str) -> list[Any]:
    if kind in FILES:
        return [content]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if kind == "any":
            return [content]
        raise UseError("the input is not UTF-8 text") from None
    if suffix == ".csv":
        return _records(text)
    if kind == "text" and suffix != ".json":
        return [text.removesuffix("\n")]
    try:
        value = json.loads(text)
    except ValueError as error:
        if kind == "any":
            return [text]
        raise UseError(f"expected JSON, a record or a list of values: {error}") from None
    many = isinstance(value, list) and value and all(isinstance(v, list | dict) for v in value)
    return list(value) if many else [value]


def _records(text: str) -> list[dict[str, Any]]:
    rows = csv.DictReader(io.StringIO(text))
    return [{name: _cell(value) for name, value in row.items() if name} for row in rows]


def _cell(text: Any) -> Any:
    """A cell of a CSV file: empty is missing, a number where it reads as one, else text."""
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


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


def _draw(payloads: Sequence[Any], found: Sequence[Any], path: Path) -> None:
    if len(found) != 1 or not hasattr(found[0], "draw") or not isinstance(payloads[0], bytes):
        raise UseError("--draw: expected one picture and a task that finds something in it")
    try:
        found[0].draw(payloads[0]).save(path)
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
        table = Table(*type(rows[0]).model_fields, box=None)
        for row in rows:
            table.add_row(*(escape(_shown(value)) for _, value in row))
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
