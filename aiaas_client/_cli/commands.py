"""The client's commands: list, load, unload, count, write stubs; the others stand beside this.

`session` says how all of them end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client._cli import audit
from aiaas_client._cli import stubs as _stubs
from aiaas_client._cli.about import about, set_
from aiaas_client._cli.chat import chat
from aiaas_client._cli.check import check, models_table
from aiaas_client._cli.datasets import datasets, upload
from aiaas_client._cli.deploy import deploy, export, import_
from aiaas_client._cli.erase import erase_tenant, verify
from aiaas_client._cli.explain import explain
from aiaas_client._cli.infer import infer
from aiaas_client._cli.job_list import jobs, recipes
from aiaas_client._cli.jobs import (
    compare,
    evaluate,
    explain_job,
    optimise,
    report,
    score,
    train,
)
from aiaas_client._cli.keys import KEYS, whoami
from aiaas_client._cli.monitor import feedback, monitor
from aiaas_client._cli.predict import predict
from aiaas_client._cli.prices import PRICES, statement
from aiaas_client._cli.registry import delete, diff, follow, history, models, versions
from aiaas_client._cli.server import Server, with_server
from aiaas_client._cli.session import (
    FAILED,
    AsJson,
    ModelName,
    Version,
    client_of,
    did_you_mean,
    ended,
    print_json,
)
from aiaas_client._cli.show import show
from aiaas_client._cli.tenants import PLANS, TENANTS
from aiaas_client._cli.traffic import pin, promote, rollback, shadow, split, unalias, unpin
from aiaas_client._cli.usage import usage
from aiaas_client._cli.write import generate, transcribe
from aiaas_client._client import Client
from aiaas_client._errors import NotSupportedError
from aiaas_client.protocol.messages import ModelStatistics, RepositoryEntry


def register(app: typer.Typer) -> None:
    """Add the client's commands to a typer application."""
    for panel, commands in PANELS.items():
        for command in commands:
            app.command(_name(command), rich_help_panel=panel)(with_server(command))
    for group, (about_it, members) in GROUPS.items():
        inside = typer.Typer(help=about_it, no_args_is_help=True)
        for name, command in members.items():
            inside.command(name)(with_server(command))
        app.add_typer(inside, name=group, rich_help_panel="Tenants")


def _name(command: Callable[..., None]) -> str:
    return command.__name__.removesuffix("_").replace("_", "-")  # import_, explain_job


def load(
    model: ModelName,
    force: Annotated[
        bool, typer.Option("--force", help="Load again even if nothing changed.")
    ] = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Load a model, or load it again after its files changed; ends when it serves."""
    with client_of(server) as client:
        client.models.load(model, force=force)
        entries = _entries(client, model)
    _print_entries(entries, as_json)


def unload(
    model: ModelName,
    dependents: Annotated[
        bool, typer.Option("--dependents", help="Also the models it is a part of.")
    ] = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Stop serving a model, after the requests it has accepted."""
    with client_of(server) as client:
        _entries(client, model)  # a server takes any name here
        client.models.unload(model, unload_dependents=dependents)
        entries = _entries(client, model)
    _print_entries(entries, as_json)


def stats(
    model: Annotated[str | None, typer.Argument(help="Of this model; of all by default.")] = None,
    version: Version = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """How much each model has done since it was loaded, and where the time went."""
    with client_of(server) as client:
        found = client.models.statistics(model, version)
    if as_json:
        print_json([one.model_dump() for one in found])
    else:
        Console().print(_statistics_table(found))


def stubs(
    model: ModelName,
    version: Version = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")
    ] = None,
    *,
    server: Server,
) -> None:
    """Write a typed Python wrapper of a model, made from its metadata."""
    with client_of(server) as client:
        metadata = client.model(model, version).metadata()
        source = _stubs.generate(metadata.model_copy(update={"name": model}))
        if output is None:
            typer.echo(source, nl=False)
        else:
            output.write_text(source, encoding="utf-8")


CALLS: tuple[Callable[..., None], ...] = (
    *(models, infer, predict, chat, generate, transcribe, explain),
    *(show, stats, load, unload, check, stubs, whoami),
)
REGISTRY: tuple[Callable[..., None], ...] = (
    *(deploy, versions, promote, unalias, split, shadow, pin, unpin, rollback),
    *(about, set_, history, diff, delete, export, import_, follow, monitor, feedback),
)
WORK: tuple[Callable[..., None], ...] = (
    *(datasets, upload, recipes, train, evaluate, compare, score, optimise, explain_job),
    *(jobs, report),
)
ACCOUNT: tuple[Callable[..., None], ...] = (usage, statement)
PANELS = {
    "Call models": CALLS,
    "Registry": REGISTRY,
    "Data sets and jobs": WORK,
    "Tenants": ACCOUNT,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "audit": ("What was done to a server, and whether the record is whole.", audit.MEMBERS),
    "tenants": ("Who shares a server: make, list, change, suspend. For the operator.", TENANTS),
    "plans": ("What tenants may use, under names. For the operator.", PLANS),
    "keys": ("Keys: make, list, rotate, revoke.", KEYS),
    "prices": ("What use costs: list; add and end, for the operator.", PRICES),
    "erase": (
        "Erase a tenant, and verify the certificate.",
        {"tenant": erase_tenant, "verify": verify},
    ),
}
"""Commands of two words, `aiaas keys create`: by the first, what it is about and the second."""


def _entries(client: Client, model: str) -> list[RepositoryEntry]:
    """What the server's index says of a model; nothing where the server has no index."""
    try:
        every = client.models.list()
    except NotSupportedError:
        return []
    found = [entry for entry in every if entry.name == model]
    if not found:
        hint = did_you_mean(model, {entry.name for entry in every})
        raise ended(f"the server has no model '{model}'{hint}", FAILED)
    return found


def _print_entries(entries: Sequence[RepositoryEntry], as_json: bool) -> None:
    if as_json:
        print_json([entry.model_dump() for entry in entries])
    elif entries:
        Console().print(models_table(entries))


def _statistics_table(statistics: Sequence[ModelStatistics]) -> Table:
    names = (
        "model",
        "version",
        "calls",
        "failed",
        "items",
        "runs",
        "items a run",
        "queue ms",
        "run ms",
    )
    table = Table(*names, box=None)
    for one in statistics:
        spent = one.inference_stats
        numbers: tuple[Any, ...] = (
            spent.success.count,
            spent.fail.count,
            one.inference_count,
            one.execution_count,
            f"{one.mean_batch_size:.1f}",
            f"{spent.queue.mean_seconds * 1000:.3f}",
            f"{spent.compute_infer.mean_seconds * 1000:.3f}",
        )
        table.add_row(escape(one.name), escape(one.version), *map(str, numbers))
    return table
