"""`aiaas deploy`, `export`, `import`: versions go to a registry, and copies of them come back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aiaas_client._cli.about import tell_deployed
from aiaas_client._cli.pairs import pairs
from aiaas_client._cli.registry import version_table
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import AsJson, ModelName, client_of, print_json, tell
from aiaas_client._client import Client
from aiaas_client._errors import AiaasError
from aiaas_client._resources.deploying import COMMIT_TIMEOUT
from aiaas_client.protocol.management import MODEL_FILE, Version
from aiaas_client.protocol.names import NAME

Alias = Annotated[str | None, typer.Option("--alias", help="Point this alias at the version.")]
GOLDEN_HELP = (
    "What must come of which inputs, checked by the server, JSON: "
    '{"instances": ["a good film"], "labels": ["positive"], "metric": "accuracy", '
    '"floor": 1}, or tensors: {"inputs": {"x": T}, '
    '"outputs": {"y": T}} where T is {"datatype": "FP32", "shape": [1, 2], "data": [0, 1]}.'
)
Note = Annotated[str, typer.Option("--note", help="One line for the history.")]


def deploy(
    model: Annotated[
        Path, typer.Argument(help="An .onnx file, or a directory with model.onnx in it.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model; by default the file's.")
    ] = None,
    alias: Alias = None,
    card: Annotated[Path | None, typer.Option("--card", help="The card, model.json.")] = None,
    asset: Annotated[
        list[Path] | None, typer.Option("--asset", help="A file it needs; repeat for more.")
    ] = None,
    golden: Annotated[Path | None, typer.Option("--golden", help=GOLDEN_HELP)] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="accuracy=0.97; repeat for more.")
    ] = None,
    note: Note = "",
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Its number; the next by default.")
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Bring a version to the registry: verified, kept, and ready to be promoted.

    While no alias "production" is set (aiaas promote), plain calls get the newest version at once.
    The same files again are the same version; what broke off goes on where it was.
    """
    with client_of(server) as client:
        found = client.models.deploy(
            _name_of(model) if name is None else name,
            model,
            card=card,
            assets=_assets(asset or []),
            golden=golden,
            alias=alias,
            version=version,
            note=note,
            metrics=pairs("--metric", metric or []),
            progress=not as_json,
            timeout=max(server.timeout, COMMIT_TIMEOUT),
        )
        _tell(client, found, as_json)


def export(
    model: ModelName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The directory; MODEL.bundle by default.")
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="A number or an alias; the latest by default.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another bundle that is there.")
    ] = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Fetch the files of a version, byte for byte, with a bundle.json that says what they are."""
    target = Path(f"{model}.bundle") if output is None else output
    with client_of(server) as client:
        place = client.models.export(model, target, version, overwrite=overwrite)
        document = json.loads((place / "bundle.json").read_bytes())
    if as_json:
        print_json({"directory": str(place), **document})
    else:
        tell(f"{document['name']} version {document['version']} is in '{place}'")


def import_(
    directory: Annotated[Path, typer.Argument(help="What `aiaas export` has written.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the model; by default the exported one's.")
    ] = None,
    alias: Alias = None,
    note: Note = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Deploy an exported bundle; it becomes a version with the same digest."""
    with client_of(server) as client:
        found = client.models.import_(
            directory,
            name,
            alias=alias,
            note=note,
            progress=not as_json,
            timeout=max(server.timeout, COMMIT_TIMEOUT),
        )
        _tell(client, found, as_json)


def _tell(client: Client, version: Version, as_json: bool) -> None:
    if as_json:
        print_json({**version.model_dump(mode="json"), "created_now": version.created_now})
        return
    Console().print(version_table([version]))
    try:
        model = client.models.about(version.model)
    except AiaasError:  # a key may not read; the version is there
        model = None
    tell_deployed(version, model)


def _name_of(path: Path) -> str:
    """`digits` of `digits.onnx`, `digits/` and `digits/model.onnx`."""
    whole = path.resolve()
    place = whole.parent if whole.name == MODEL_FILE else whole
    name = place.name.removesuffix(".onnx").removesuffix(".bundle")
    if re.fullmatch(NAME, name) is None or name.isdecimal():
        raise UseError(f"--name: expected the name of the model; {name!r} is none")
    return name


def _assets(paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.name in found:
            raise UseError(f"--asset: {path.name!r} is given twice")
        found[path.name] = path
    return found
