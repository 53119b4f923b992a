"""`aiaas audit`: what was done to a server, whether the record is whole, the report of a month."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape as escape_html
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aiaas_client._api.audit import seconds_of
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import FAILED, AsJson, client_of, ended, print_json, telling
from aiaas_client._cli.tables import print_rows, table_of
from aiaas_client.protocol.audit import AuditEntry, AuditReport, Verification

_WHEN = "2026-11-30, 2026-11-30T12:00 (UTC), or how long ago: 24h, 7d."
_COLUMNS = ("entry", "when", "tenant", "actor, from", "act", "object", "result")
_OFFLINE = "aiaas_server.tenancy.audit_offline"

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Read a server's data directory instead of calling it."),
]
Tenant = Annotated[str, typer.Option("--tenant", help="Of one tenant; for the operator.")]


def list_(
    since: Annotated[str | None, typer.Option("--since", help=_WHEN)] = None,
    until: Annotated[str | None, typer.Option("--until", help=_WHEN)] = None,
    actor: Annotated[str, typer.Option("--actor", help="A key's id, operator or server.")] = "",
    act: Annotated[str, typer.Option("--act", help="models.deploy; keys.* is all of them.")] = "",
    object_: Annotated[str, typer.Option("--object", help="m/3, or a key's id.")] = "",
    result: Annotated[
        str, typer.Option("--result", help="begun, done, failed, abandoned or refused.")
    ] = "",
    tenant: Tenant = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    lines: Annotated[
        bool, typer.Option("--lines", help="A JSON object a line, all of them: an export.")
    ] = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """List what was done, the newest first: who, what, when, from where, with what result."""
    with client_of(server) as client:
        found = client.audit.list(
            since=since,
            until=until,
            actor=actor,
            act=act,
            object=object_,
            result=result,
            tenant=tenant,
            limit=None if lines else limit,
        )
    if lines:
        for entry in found:
            typer.echo(entry.model_dump_json())
    elif as_json:
        print_json([entry.model_dump(mode="json") for entry in found])
    else:
        print_rows(_COLUMNS, list(map(_entry, found)), "no such entries")


def verify(
    data: Data = None,
    archive: Annotated[
        Path | None, typer.Option("--archive", help="Check this archive, with --data, instead.")
    ] = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Check that no entry was edited, removed, moved, added or cut off; ends with 1 if one was.

    Only a check with --data, by whoever the server's machine trusts, does not trust the server.
    """
    if archive is not None:
        if data is None:
            raise ended("--archive: expected --data with it, whose secret has signed it", 2)
        done = _offline("check_file", data, archive)
        typer.echo(f"{archive}: entries {done.first} to {done.last} are as they were written")
        return
    if data is not None:
        found: Verification = _offline("verify_directory", data)
    else:
        with client_of(server) as client:
            found = client.audit.verify()
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        _show_verification(found)
    if not found.intact:
        raise typer.Exit(FAILED)


def archive(
    file: Annotated[Path, typer.Argument(help="A new file, JSON lines.")],
    before: Annotated[str, typer.Option("--before", help=_WHEN)],
    data: Annotated[Path, typer.Option("--data", help="The server's data directory.")],
) -> None:
    """Write old entries to a file, then take them out; a signed head stands in their place.

    Nothing is taken out of an audit that is not intact.
    """
    with telling():
        done = _offline("archive_directory", data, seconds_of("--before", before), file)
    typer.echo(f"{file}: entries {done.first} to {done.last}, SHA-256 {done.digest}")


def report(
    month: Annotated[
        str, typer.Option("--month", help="Such as 2026-11; by default the current one, UTC.")
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page to this file instead.")
    ] = None,
    tenant: Tenant = "",
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """The audit of a month: acts by who did them, refusals, and keys and scopes nobody uses."""
    with client_of(server) as client:
        found = client.audit.report(month or f"{datetime.now(UTC):%Y-%m}", tenant=tenant)
    if html is not None:
        with telling():
            html.write_text(report_page(found), encoding="utf-8")
    elif as_json:
        print_json(found.model_dump(mode="json"))
    else:
        console = Console()
        console.print(f"{found.month}: {found.entries} entries")
        for title, names, rows in _sections(found):
            console.print(f"\n{title}" if rows else f"\n{title}: none", style="bold")
            if rows:
                console.print(table_of(names, rows, console.width))


MEMBERS: dict[str, Any] = {"list": list_, "verify": verify, "report": report, "archive": archive}
"""The second words of `aiaas audit`."""


def report_page(found: AuditReport) -> str:
    """The report as a page of HTML that needs nothing else."""
    parts = []
    for title, names, rows in _sections(found):
        head = "".join(f"<th>{escape_html(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape_html(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        table = f"<table><tr>{head}</tr>{body}</table>" if rows else "<p>none</p>"
        parts.append(f"<h2>{escape_html(title)}</h2>{table}")
    title = escape_html(f"Audit of {found.month}")
    style = "body{font-family:sans-serif}td,th{text-align:left;padding:.2em 1em .2em 0}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style><h1>{title}</h1>"
        f"<p>{found.entries} entries; made {_time(found.made)}</p>{''.join(parts)}</html>\n"
    )


def _sections(found: AuditReport) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, columns and rows of each part of a report."""
    acts = [
        [one.act, one.tenant, one.actor, str(one.done), str(one.failed), str(one.abandoned)]
        for one in found.acts
    ]
    refusals = [[one.code, one.address, str(one.count)] for one in found.refusals]
    keys = [
        [
            one.id,
            one.tenant,
            one.name,
            "never" if one.last_used is None else _time(one.last_used),
            "unused for 90 days" if one.unused else "",
            ", ".join(one.never_used),
        ]
        for one in found.keys
    ]
    return [
        ("Acts", ("act", "tenant", "actor", "done", "failed", "abandoned"), acts),
        ("Refusals", ("reason", "address", "count"), refusals),
        ("Keys", ("key", "tenant", "name", "last used", "", "scopes never used"), keys),
        ("Tenants without activity", ("tenant",), [[name] for name in found.idle_tenants]),
    ]


def _entry(one: AuditEntry) -> tuple[str, ...]:
    """A row of the list."""
    result = " ".join(part for part in (one.result, one.code) if part)
    if one.count is not None and one.count > 1:
        result += f" × {one.count}"
    actor = " ".join(filter(None, (one.actor, one.address)))  # under each other where it is narrow
    who = (one.tenant, actor, one.act, one.object, result)
    return (str(one.seq), _time(one.at), *who)


def _show_verification(found: Verification) -> None:
    for one in found.findings:
        typer.echo(one.text)
    for seq in found.unfinished:
        typer.echo(f"entry {seq} has no result: it goes on, or the server ended meanwhile")
    gone = f"; those up to {found.archived} were archived" if found.archived else ""
    state = "intact" if found.intact else f"NOT intact: {len(found.findings)} findings"
    typer.echo(f"{found.entries} entries, {found.heads} heads: {state}{gone}")


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _offline(name: str, *given: Any) -> Any:
    """Call what works on a data directory, where the server's part is installed."""
    with telling():
        try:
            home = import_module(_OFFLINE)
        except ModuleNotFoundError as error:
            text = f"--data needs {error.name}: pip install 'aiaas-client[server,platform]'"
            raise UseError(text) from None
        try:
            return getattr(home, name)(*given)
        except home.OfflineRefused as error:
            raise ended(str(error), FAILED) from None
