"""Keys from the command line: `aiaas keys create`, `list`, `rotate`, `revoke`; `aiaas whoami`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from aiaas_client._cli.plain import escape
from aiaas_client._cli.registry import Limit, moment
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import FAILED, AsJson, client_of, ended, print_json, tell
from aiaas_client._cli.tables import print_rows
from aiaas_client._cli.tenants import LimitPairs, limit_pairs, limits_table
from aiaas_client.protocol.scopes import SCOPES
from aiaas_client.protocol.tenants import Key, MadeKey

KeyId = Annotated[str, typer.Argument(help="The key's id, twelve characters.")]
OfTenant = Annotated[
    str | None, typer.Option("--tenant", help="Another tenant than one's own, for the operator.")
]
Expires = Annotated[
    str | None,
    typer.Option("--expires", help="When it ends: 90d, 12h, 30m, or 2027-01-31, or a time of UTC."),
]
_length = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)").fullmatch
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def create_key(
    name: Annotated[str, typer.Argument(help="For later readers.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help=f"What it may do; repeat for more: {', '.join(SCOPES)}."),
    ] = None,
    expires: Expires = None,
    limit: LimitPairs = None,
    tenant: OfTenant = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Make a key and print it, this once; it may do nothing that the key that asks may not."""
    with client_of(server) as client:
        made = client.keys.create(
            name,
            scopes=scope or ["infer"],
            expires=end_of("--expires", expires),
            limits=limit_pairs(limit),
            tenant=tenant,
        )
    _print_made(made, as_json)


def list_keys(
    tenant: OfTenant = None, limit: Limit = 100, as_json: AsJson = False, *, server: Server
) -> None:
    """List keys, the newest first: what they may do, when they end, when they were last used."""
    with client_of(server) as client:
        found = client.keys.list(tenant=tenant, limit=limit)
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    else:
        _print_keys(found)


def rotate_key(
    key: KeyId,
    grace: Annotated[
        str | None,
        typer.Option(
            "--grace",
            help="How long the old one stays good: 1h; 0: not. Default: 1d.",
        ),
    ] = None,
    expires: Expires = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Make a key in place of another one, and print it, this once."""
    with client_of(server) as client:
        old = None if grace is None else length_of("--grace", grace)
        made = client.keys.rotate(key, grace=old, expires=end_of("--expires", expires))
    _print_made(made, as_json)


def revoke_key(
    key: KeyId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """End a key for good; within 5 s it is refused everywhere."""
    if not yes and not typer.confirm(f"Revoke key '{key}' for good?", err=True):
        raise ended("nothing was revoked", FAILED)
    with client_of(server) as client:
        found = client.keys.revoke(key)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        tell(f"key '{found.id}' is revoked")


def whoami(as_json: AsJson = False, *, server: Server) -> None:
    """Tell whose the key is that is sent: tenant, scopes, limits, end."""
    with client_of(server) as client:
        found = client.whoami()
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    table = Table(box=None, show_header=False)
    table.add_row("tenant", escape(found.tenant))
    table.add_row("key", escape(found.key_id or "none is asked for"))
    table.add_row("scopes", escape(", ".join(found.scopes)))
    table.add_row("plan", escape(found.plan or "none"))
    table.add_row("ends", moment(found.expires or 0.0) or "never")
    Console().print(table)
    for limits in filter(None, (found.limits, found.key_limits)):
        Console().print()
        Console().print(limits_table(limits))


KEYS: dict[str, Callable[..., None]] = {
    "create": create_key,
    "list": list_keys,
    "rotate": rotate_key,
    "revoke": revoke_key,
}


def length_of(option: str, text: str) -> timedelta:
    """`90d`, `12h`, `30m`, `45s` or seconds.

    Raises:
        UseError: It is none of these.
    """
    found = _length(text.strip())
    if found is None:
        raise UseError(f"{option}: expected a length of time such as 90d or 12h, got {text!r}")
    return timedelta(seconds=float(found[1]) * _UNITS[found[2]])


def end_of(option: str, text: str | None) -> datetime | timedelta | None:
    """A length of time, or a date or time, of UTC where it names no zone.

    Raises:
        UseError: It is none of these.
    """
    if text is None:
        return None
    if _length(text.strip()) is not None:
        return length_of(option, text)
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UseError(f"{option}: expected 90d, 12h or 2027-01-31, got {text!r}") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _print_made(made: MadeKey, as_json: bool) -> None:
    """The key alone on standard output, so that a shell can take it."""
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    typer.echo(made.secret)
    ends = f", ends {moment(made.expires)}" if made.expires else ""
    tell(
        f"key '{made.id}' of tenant '{made.tenant}', scopes {', '.join(made.scopes)}{ends}; "
        "it is shown this once"
    )


def _print_keys(found: Sequence[Key]) -> None:
    names = ("key", "name", "tenant", "scopes", "state", "created", "ends", "last used")
    rows = [
        (
            one.id,
            one.name,
            one.tenant,
            ", ".join(one.scopes),
            one.state,
            moment(one.created),
            moment(one.expires or 0.0) or "never",
            moment(one.last_used or 0.0) or "never",
            one.replaced_by,
        )
        for one in found
    ]
    print_rows((*names, "replaced by"), rows, "no keys")
