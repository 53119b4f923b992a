"""`aiaas check PATH`: load a model or a repository in this process and tell what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client._cli.server import UseError
from aiaas_client._cli.session import FAILED, AsJson, ended, print_json, telling
from aiaas_client._client import Client
from aiaas_client._errors import ConfigurationError
from aiaas_client.protocol.messages import RepositoryEntry

MODEL_FILE = "model.onnx"
LAYOUT = "expected NAME.onnx, or NAME/1/model.onnx"


def check(
    path: Annotated[
        Path, typer.Argument(help="A repository, the directory of one model, or an .onnx file.")
    ],
    as_json: AsJson = False,
) -> None:
    """Load models in this process and tell what is wrong with them; exit code 1 if anything is."""
    with telling():
        entries = _loaded(path)
    if as_json:
        print_json([entry.model_dump() for entry in entries])
    else:
        Console().print(models_table(entries))
    faults = faulty(entries)
    if faults:
        raise ended(f"not served: {', '.join(faults)}", FAILED)


def faulty(entries: Sequence[RepositoryEntry]) -> list[str]:
    """Models that have a version with a fault, or none that serves; versions left out on purpose
    are no fault."""
    serving = {entry.name for entry in entries if entry.is_ready}
    wrong = [e.name for e in entries if (e.reason and not e.is_ready) or e.name not in serving]
    return sorted(set(wrong))


def models_table(entries: Sequence[RepositoryEntry]) -> Table:
    """Models with their state, and the reason for it."""
    table = Table("model", "version", "state", "reason", box=None)
    for entry in entries:
        cells = (entry.name, entry.version, entry.state or "not loaded", entry.reason)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _loaded(path: Path) -> list[RepositoryEntry]:
    if not path.exists():
        raise UseError(f"no file or directory '{path}'")
    path = path.resolve()  # the directory of one model may be given as "."
    if path.name.isdecimal() and (path / MODEL_FILE).is_file():
        path = path.parent  # from a version to its model
    options: dict[str, Any] = {}
    name = path.name
    if path.is_dir() and _is_one_model(path):
        path, options = path.parent, {"load_models": (name,)}
    try:
        with Client.local(path, **options) as client:
            entries = client.models.list()
    except ConfigurationError as error:
        raise UseError(str(error)) from None
    if options:
        entries = [entry for entry in entries if entry.name == name]
    if not entries:
        raise UseError(f"nothing to serve in '{path}': {LAYOUT}")
    return entries


def _is_one_model(directory: Path) -> bool:
    described = any(
        (directory / name).is_file() for name in ("config.pbtxt", "config.json", "model.json")
    )
    return described or any(
        child.name.isdecimal() and (child / MODEL_FILE).is_file() for child in directory.iterdir()
    )
