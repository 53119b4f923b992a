"""`aiaas jobs` and `aiaas recipes`: what there is, how it goes, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from aiaas_client._cli.job_tables import jobs_table, print_job, print_recipe, recipes_table
from aiaas_client._cli.jobs import Watch, find_recipe, follow_job
from aiaas_client._cli.registry import Limit, moment
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import FAILED, AsJson, client_of, ended, print_json, tell
from aiaas_client._client import Client
from aiaas_client._errors import NotFoundError
from aiaas_client._resources.job import JobHandle
from aiaas_client.protocol.jobs import JobEvent

_STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def jobs(
    job: Annotated[str | None, typer.Argument(help="One of them, by the id or its begin.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End it.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Forget it, with its files.")] = False,
    log: Annotated[bool, typer.Option("--log", help="Print its last lines.")] = False,
    events: Annotated[
        bool, typer.Option("--events", help="Print all it tells, to its end or Ctrl-C.")
    ] = False,
    watch: Watch = False,
    state: Annotated[
        str | None, typer.Option("--state", help=f"Only those: {', '.join(_STATES)}.")
    ] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="train, evaluate, ...")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only about this model.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """List jobs, the newest first; of one tell how it is, follow it or end it.

    The exit code of a job that failed is 1, of --watch and of a look at it.
    """
    chosen = [name for name, one in _choices(cancel, delete, log, events, watch) if one]
    if len(chosen) > 1 or (chosen and job is None):
        what = " and ".join(chosen)
        raise ended(f"{what}: expected one of them" if job else f"{what}: expected a job", 2)
    if state not in (None, *_STATES):
        raise ended(f"--state: expected one of {', '.join(_STATES)}, got {state!r}", 2)
    with client_of(server) as client:
        if job is None:
            every = client.jobs.list(state=cast("Any", state), kind=kind, model=model, limit=limit)
            _print_jobs(every, as_json)
            return
        _one(_named(client, job), chosen[0] if chosen else "", as_json)


def recipes(
    name: Annotated[str | None, typer.Argument(help="One of them, with its parameters.")] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """List what models can be trained by; of one recipe its parameters with their defaults."""
    with client_of(server) as client:
        if name is not None:
            print_recipe(find_recipe(client, name), as_json)
            return
        found = client.jobs.recipes()
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        Console().print(recipes_table(found))


def _choices(
    cancel: bool, delete: bool, log: bool, events: bool, watch: bool
) -> Iterator[tuple[str, bool]]:
    yield "--cancel", cancel
    yield "--delete", delete
    yield "--log", log
    yield "--events", events
    yield "--watch", watch


def _one(job: JobHandle, choice: str, as_json: bool) -> None:
    match choice:
        case "--cancel":
            print_job(job.cancel(), as_json)
        case "--delete":
            job.delete()
            tell(f"job {job.id} is forgotten; what it made stays")
        case "--log":
            for line in job.document.log:
                typer.echo(line)
        case "--events":
            _print_events(job, as_json)
        case "--watch":
            follow_job(job, watch=True, as_json=as_json)
        case _:
            print_job(job, as_json)
            if job.state == "failed":
                raise typer.Exit(FAILED)


def _print_events(job: JobHandle, as_json: bool) -> None:
    with job.events() as events:
        try:
            for event in events:
                if as_json:
                    typer.echo(json.dumps(event.model_dump(mode="json"), ensure_ascii=False))
                else:
                    typer.echo(_line(event))
        except KeyboardInterrupt:
            return


def _line(event: JobEvent) -> str:
    if event.kind == "log":
        told = str(event.data.get("line", ""))
    else:
        pairs = {**event.data, **(event.data.get("metrics") or {})}
        pairs.pop("metrics", None)
        shown = (
            f"{key}={_value(value)}" for key, value in pairs.items() if value not in ("", None)
        )
        told = " ".join(shown)
    return f"{moment(event.at)} {event.seq} {event.kind} {told}".rstrip()


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_jobs(found: list[JobHandle], as_json: bool) -> None:
    if as_json:
        print_json([one.document.model_dump(mode="json") for one in found])
    elif not found:
        tell("no jobs: aiaas train RECIPE --dataset NAME begins one")
    else:
        Console().print(jobs_table(found))


def _named(client: Client, job: str) -> JobHandle:
    """A job by its id, or by the first characters of it that only it has."""
    try:
        return client.jobs.get(job)
    except NotFoundError:
        near = [one for one in client.jobs.list(limit=1000) if one.id.startswith(job)]
        if len(near) > 1:
            raise UseError(f"{len(near)} jobs begin with {job!r}; write more of the id") from None
        if not near:
            raise
        return near[0]
