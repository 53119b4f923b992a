"""What a registry holds, from the command line: `aiaas versions`, `history`, `diff`, `delete`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aiaas_client._cli.changes import serving_changes, share_text
from aiaas_client._cli.check import models_table
from aiaas_client._cli.plain import escape
from aiaas_client._cli.server import Server
from aiaas_client._cli.session import FAILED, AsJson, ModelName, client_of, ended, print_json, tell
from aiaas_client._cli.tables import table_of
from aiaas_client._client import Client
from aiaas_client._errors import APIStatusError
from aiaas_client.protocol.management import Diff, HistoryEntry, Model, Rollout, Version
from aiaas_client.protocol.messages import RepositoryEntry

LONGEST = 60  # characters of a cell
SHORT = 12  # of a digest
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]
Old = Annotated[str, typer.Argument(help="A version: its number or an alias.")]
New = Annotated[str, typer.Argument(help="Another one.")]


def models(
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """List the models of a server and their state; with a registry, who serves, too."""
    with client_of(server) as client:
        entries = client.models.list()
        registered = _registered(client)
    if as_json:
        print_json([_entry_document(entry, registered) for entry in _every(entries, registered)])
    elif registered:
        Console().print(_registered_table(_every(entries, registered), registered))
    else:
        Console().print(models_table(entries))


def versions(
    model: ModelName,
    limit: Limit = 100,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """List the versions of a model, the newest first."""
    with client_of(server) as client:
        found = client.models.versions(model, limit=limit)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        Console().print(version_table(found))


def history(
    model: ModelName,
    limit: Limit = 100,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Tell what was done to a model, the newest first: when, by whom, what changed."""
    with client_of(server) as client:
        found = client.models.history(model, limit=limit)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        Console().print(_history_table(found))


def diff(
    model: ModelName,
    old: Old,
    new: New,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Tell how two versions differ: files, card, signature, report, metrics, lineage."""
    with client_of(server) as client:
        found = client.models.diff(model, old, new)
    if as_json:
        print_json(found.model_dump(mode="json"))
    elif not found.differences:
        tell(f"{model}: versions {found.old} and {found.new} are the same")
    else:
        Console().print(_diff_table(found))


def delete(
    model: ModelName,
    version: Annotated[
        str | None, typer.Option("--version", help="Only this one; all versions by default.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if it serves, is aliased or pinned.")
    ] = False,
    replacement: Annotated[
        str | None, typer.Option("--replacement", help="The version that takes its place then.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Erase a version, or a model with all its versions, for good; prints the proof."""
    what = f"model '{model}' with all its versions"
    if version is not None:
        what = f"version {version} of model '{model}'"
    if not yes and not typer.confirm(f"Erase {what} for good?", err=True):
        raise ended("nothing was erased", FAILED)
    with client_of(server) as client:
        proof = client.models.delete(model, version, force=force, replacement=replacement)
    if as_json:
        print_json(proof.model_dump(mode="json"))
        return
    numbers = ", ".join(map(str, proof.versions)) or "none"
    kept = f", {len(proof.kept)} kept for other versions" if proof.kept else ""
    sure = "nothing of it is left" if proof.verified else "NOT verified: something may be left"
    tell(f"erased versions: {numbers}; {len(proof.artefacts)} files removed{kept}; {sure}")


def follow(
    model: Annotated[str | None, typer.Argument(help="Only this model; all by default.")] = None,
    after: Annotated[
        int | None, typer.Option("--after", min=0, help="Begin behind the change of this number.")
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Print each change of the registry as it happens, until Ctrl-C."""
    with client_of(server) as client, client.models.changes(after=after) as feed:
        try:
            for change in feed:
                if model not in (None, change.object):
                    continue
                if as_json:
                    typer.echo(json.dumps(change.model_dump(mode="json"), ensure_ascii=False))
                else:
                    told = " ".join(f"{key}={value}" for key, value in change.data.items())
                    line = f"{moment(change.at)} {change.seq} {change.kind} {change.object} {told}"
                    typer.echo(line.rstrip())
        except KeyboardInterrupt:
            return


def version_table(versions: Sequence[Version]) -> Table:
    """Versions with what they are and who gets them."""
    names = ("model", "version", "state", "aliases", "traffic", "size", "created", "by", "note")
    rows = []
    for one in versions:
        state = f"{one.state}: {one.reason}" if one.reason else one.state
        row = (
            one.model,
            str(one.version),
            state,
            ", ".join(one.aliases),
            share_text(one.share),
            size_text(one.size),
            moment(one.created),
            one.created_by,
            one.note,
        )
        rows.append([_cut(cell) for cell in row])
    return table_of(names, rows, Console().width)


def serving_table(model: Model) -> Table:
    """Who gets which version of a model."""
    serving = model.serving
    table = Table("what", "version", "how", box=None)
    for version, share in sorted(model.shares.items()):
        table.add_row("serves", str(version), share_text(share))
    for alias, version in sorted(serving.aliases.items()):
        table.add_row("alias", str(version), escape(alias))
    if serving.rollout is not None:
        table.add_row("rollout", str(serving.rollout.version), step_text(serving.rollout))
    if serving.shadow is not None:
        table.add_row("shadow", str(serving.shadow.version), share_text(serving.shadow.share))
    for version in serving.pins:
        table.add_row("pinned", str(version), "")
    return table


def _registered(client: Client) -> dict[str, Model]:
    """The models of the registry by name; none where there is no registry, or none for this key."""
    try:
        return {model.name: model for model in client.models.registered()}
    except APIStatusError:
        return {}


def _every(
    entries: Sequence[RepositoryEntry], registered: Mapping[str, Model]
) -> list[RepositoryEntry]:
    """The index, and what of the registry is not in it."""
    known = {entry.name for entry in entries}
    others = [
        RepositoryEntry(name=name, version="" if one.latest is None else str(one.latest))
        for name, one in registered.items()
        if name not in known
    ]
    return [*entries, *others]


def _entry_document(entry: RepositoryEntry, registered: Mapping[str, Model]) -> dict[str, Any]:
    model = registered.get(entry.name)
    if model is None:
        return entry.model_dump()
    told = {"latest": model.latest, "production": model.production}
    return {**entry.model_dump(), **told, "share": _share_of(entry, model)}


def _registered_table(entries: Sequence[RepositoryEntry], registered: Mapping[str, Model]) -> Table:
    table = Table(
        "model", "version", "state", "latest", "production", "traffic", "reason", box=None
    )
    for entry in entries:
        model = registered.get(entry.name)
        latest = production = traffic = ""
        if model is not None:
            latest = "" if model.latest is None else str(model.latest)
            production = "" if model.production is None else str(model.production)
            traffic = _traffic(entry, model)
        state = entry.state or "not loaded"
        row = (entry.name, entry.version, state, latest, production, traffic, entry.reason)
        table.add_row(*(escape(cell) for cell in row))
    return table


def _traffic(entry: RepositoryEntry, model: Model) -> str:
    """Its share of the calls that name no version, and how far its rollout is."""
    number = int(entry.version) if entry.version.isdecimal() else 0
    told, rollout = share_text(_share_of(entry, model)), model.serving.rollout
    return f"{told}, {step_text(rollout)}" if rollout and rollout.version == number else told


def _share_of(entry: RepositoryEntry, model: Model) -> float:
    number = int(entry.version) if entry.version.isdecimal() else 0
    return model.shares.get(number, 0.0)


def step_text(rollout: Rollout) -> str:
    """`step 1 of 3`."""
    return f"step {rollout.step + 1} of {len(rollout.guard.steps)}"


def _history_table(entries: Sequence[HistoryEntry]) -> Table:
    table = Table("when", "what", "version", "who serves", "by", "why", box=None)
    for one in entries:
        row = (
            moment(one.at),
            one.kind,
            "" if one.version is None else str(one.version),
            "\n".join(serving_changes(one.before, one.after)),
            one.by,
            one.reason,
        )
        table.add_row(*(escape(cell) for cell in row))
    return table


def _diff_table(found: Diff) -> Table:
    table = Table("what", f"version {found.old}", f"version {found.new}", box=None)
    for one in found.differences:
        row = (one.path, _value_text(one.path, one.before), _value_text(one.path, one.after))
        table.add_row(*(escape(_cut(cell)) for cell in row))
    return table


def _value_text(path: str, value: Any) -> str:
    """A side of a difference: digests short, a file by its size and digest."""
    if value is None:
        return ""
    if path.endswith("sha256"):
        return str(value)[:SHORT]
    if isinstance(value, dict) and value.keys() == {"size", "sha256"}:
        return f"{value['sha256'][:SHORT]}, {size_text(value['size'])}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def moment(seconds: float) -> str:
    """`2026-01-31 12:00:00Z`; nothing of nothing."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if seconds else ""


def size_text(count: int) -> str:
    """`1.5 MiB`."""
    left, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while left >= 1024 and len(units) > 1:
        left /= 1024
        units.pop(0)
    return f"{left:.4g} {units[0]}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
