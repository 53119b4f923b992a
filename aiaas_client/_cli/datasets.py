"""Data sets from the command line: `aiaas datasets`, `aiaas upload`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from aiaas_client._cli.pairs import pairs
from aiaas_client._cli.plain import escape
from aiaas_client._cli.registry import Limit, moment, size_text
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import (
    FAILED,
    AsJson,
    client_of,
    did_you_mean,
    ended,
    print_json,
    tell,
)
from aiaas_client._client import Client
from aiaas_client._errors import AiaasError, NotFoundError
from aiaas_client._resources.dataset import DatasetHandle, column_cells
from aiaas_client._resources.deploying import COMMIT_TIMEOUT
from aiaas_client.protocol.datasets import Dataset

Name = Annotated[str, typer.Argument(help="The data set's name.")]


def datasets(
    name: Annotated[
        str | None, typer.Argument(help="One of them, or one version: reviews, reviews@2.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the rows here, as Parquet.")
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Erase a version; of a bare name all of them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    limit: Limit = 100,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """List the data sets of a server; of one what its columns hold, fetch its rows, erase it."""
    if name is None and (output is not None or delete):
        raise ended("--output and --delete take the name of a data set", 2)
    with client_of(server) as client:
        if name is None:
            _print_list(client.datasets.list(limit=limit), as_json)
            return
        try:
            if delete:
                _delete(client, name, yes=yes, as_json=as_json)
            else:
                _show(client, name, output, limit, as_json)
        except NotFoundError as error:
            raise ended(f"{error}{nearest_dataset(client, name)}", FAILED) from None


def upload(
    name: Name,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A CSV, Parquet, NPZ or IDX file, plain or gzipped; IDX images and labels; or a "
            "directory of images, one folder a class."
        ),
    ],
    format: Annotated[
        str | None,
        typer.Option("--format", help="csv, parquet, npz, idx or images; by the name by default."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="zip=category: what a column holds; repeat for more."),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="One line for later.")] = "",
    description: Annotated[
        str | None, typer.Option("--description", help="Of the data set.")
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Bring a file, or a directory of images, as a new version of a data set.

    The same rows again are the same version; what broke off goes on where it was.
    """
    with client_of(server) as client:
        found = client.datasets.upload(
            name,
            paths[0] if len(paths) == 1 else list(paths),
            format=cast("Any", format),
            kinds=pairs("--kind", kind or []),
            note=note,
            description=description,
            progress=not as_json,
            timeout=max(server.timeout, COMMIT_TIMEOUT),
        )
    if as_json:
        document = found.document.model_dump(mode="json")
        print_json({**document, "created_now": found.created_now})
        return
    Console().print(column_table(found))
    new = "" if found.created_now else ", as before: these rows were it already"
    tell(f"{found.ref}: {found.rows} rows, {size_text(found.size)}{new}")


def nearest_dataset(client: Client, ref: str) -> str:
    """What may have been meant by a data set that is not there."""
    name, at, number = ref.partition("@")
    try:
        known = {one.name for one in client.datasets.list()}
        if name in known and at:
            numbers = [one.number for one in client.datasets.versions(name)]
            return f"; it has {', '.join(map(str, sorted(numbers)))}" if number else ""
    except AiaasError:  # the error that is told stays the first one
        return ""
    return did_you_mean(name, known)


def column_table(dataset: DatasetHandle) -> Table:
    """What each column holds."""
    names = ("column", "kind", "missing", "distinct", "range", "most frequent")
    table = Table(*names, box=None)
    for column in dataset.columns:
        table.add_row(*map(escape, column_cells(column)))
    return table


def _show(client: Client, name: str, output: Path | None, limit: int, as_json: bool) -> None:
    found = client.datasets.get(name)
    if output is not None:
        found.download(output)
        tell(f"{found.ref}: {found.rows} rows are in '{output}'")
        return
    others = [] if "@" in name else client.datasets.versions(name, limit=limit)
    if as_json:
        document = found.document.model_dump(mode="json")
        versions = [one.model_dump(mode="json", exclude={"columns"}) for one in others]
        print_json({**document, **({} if "@" in name else {"versions": versions})})
        return
    console = Console()
    if others:
        console.print(_table(others))
        console.print()
    console.print(column_table(found))


def _delete(client: Client, name: str, *, yes: bool, as_json: bool) -> None:
    whole = "@" not in name
    what = f"data set '{name}' with all its versions" if whole else f"data set '{name}'"
    client.datasets.get(name)  # whoever is asked is asked of what there is
    if not yes and not typer.confirm(f"Erase {what} for good?", err=True):
        raise ended("nothing was erased", FAILED)
    proofs = client.datasets.delete(name, all=whole)
    if as_json:
        print_json([one.model_dump(mode="json") for one in proofs])
        return
    numbers = ", ".join(str(one.number) for one in proofs) or "none"
    kept = sum(len(one.kept) for one in proofs)
    others = f"; {kept} files are kept for other data sets" if kept else ""
    tell(f"erased versions: {numbers}{others}")


def _print_list(found: Sequence[Dataset], as_json: bool) -> None:
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    elif not found:
        tell("no data sets yet: aiaas upload NAME PATH brings one")
    else:
        Console().print(_table(found))


def _table(found: Sequence[Dataset]) -> Table:
    names = ("data set", "version", "rows", "columns", "size", "state", "created", "by", "note")
    table = Table(*names, box=None)
    for one in found:
        row = (
            one.name,
            str(one.number),
            str(one.rows),
            str(len(one.columns)),
            size_text(one.size),
            one.state,
            moment(one.created),
            one.created_by,
            one.note,
        )
        table.add_row(*map(escape, row))
    return table


def dataset_name(ref: str) -> str:
    """`reviews` of `reviews@2`."""
    name = ref.partition("@")[0]
    if not name:
        raise UseError(f"--dataset: expected NAME or NAME@NUMBER, got {ref!r}")
    return name
