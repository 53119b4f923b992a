"""Tenants and plans from the command line: `aiaas tenants create`, `aiaas plans set` and so on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aiaas_client._cli.pairs import pairs
from aiaas_client._cli.plain import escape
from aiaas_client._cli.registry import Limit, moment, size_text
from aiaas_client._cli.server import Server, UseError
from aiaas_client._cli.session import (
    WRONG_USE,
    AsJson,
    client_of,
    did_you_mean,
    ended,
    print_json,
    tell,
)
from aiaas_client.protocol.tenants import Limits, Plan, Tenant

_size = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]i?b|b)", re.IGNORECASE).fullmatch
_SIZES = {"b": 1}
for _power, _letter in enumerate("kmgt", 1):
    _SIZES |= {f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}

TenantName = Annotated[str, typer.Argument(help="The tenant's name.")]
PlanName = Annotated[str, typer.Argument(help="The plan's name.")]
Description = Annotated[str | None, typer.Option("--description", help="For later readers.")]
LimitPairs = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help="requests_per_second=200, stored_bytes=5GB: a limit, null for none; repeat for more. "
        f"Known: {', '.join(Limits.model_fields)}.",
    ),
]


def create_tenant(
    name: TenantName,
    plan: Annotated[
        str | None, typer.Option("--plan", help="What it may use. Default: basic.")
    ] = None,
    description: Description = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Make a tenant; then `aiaas keys create --tenant NAME --scope admin` makes its first key."""
    with client_of(server) as client:
        found = client.tenants.create(name, plan=plan, description=description)
    _print_tenants([found], as_json, one=True)
    if not as_json:
        tell(f"its first key: aiaas keys create --tenant {found.name} --scope admin")


def list_tenants(limit: Limit = 100, as_json: AsJson = False, *, server: Server) -> None:
    """List the tenants of a server."""
    with client_of(server) as client:
        found = client.tenants.list(limit=limit)
    _print_tenants(found, as_json)


def show_tenant(name: TenantName, as_json: AsJson = False, *, server: Server) -> None:
    """Show a tenant, and what its plan lets it use."""
    with client_of(server) as client:
        found = client.tenants.get(name)
        plan = client.plans.get(found.plan)
    if as_json:
        limits = plan.limits.model_dump(mode="json")
        print_json({**found.model_dump(mode="json"), "limits": limits})
        return
    _print_tenants([found], as_json=False)
    Console().print()
    Console().print(limits_table(plan.limits))


def set_tenant(
    name: TenantName,
    plan: Annotated[str | None, typer.Option("--plan", help="What it may use.")] = None,
    description: Description = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Give a tenant another plan or description."""
    if plan is None and description is None:
        raise ended("expected --plan or --description", WRONG_USE)
    with client_of(server) as client:
        found = client.tenants.update(name, plan=plan, description=description)
    _print_tenants([found], as_json, one=True)


def suspend_tenant(name: TenantName, as_json: AsJson = False, *, server: Server) -> None:
    """Refuse all keys of a tenant, until it is resumed."""
    with client_of(server) as client:
        found = client.tenants.suspend(name)
    _print_tenants([found], as_json, one=True)


def resume_tenant(name: TenantName, as_json: AsJson = False, *, server: Server) -> None:
    """Let the keys of a tenant in again."""
    with client_of(server) as client:
        found = client.tenants.resume(name)
    _print_tenants([found], as_json, one=True)


def create_plan(
    name: PlanName,
    limit: LimitPairs = None,
    description: Description = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Make a plan; limits that are not named are those of the plan basic."""
    with client_of(server) as client:
        found = client.plans.create(name, limits=limit_pairs(limit), description=description)
    _print_plans([found], as_json, one=True)


def list_plans(limit: Limit = 100, as_json: AsJson = False, *, server: Server) -> None:
    """List the plans of a server, those that are built in too."""
    with client_of(server) as client:
        found = client.plans.list(limit=limit)
    _print_plans(found, as_json)


def show_plan(name: PlanName, as_json: AsJson = False, *, server: Server) -> None:
    """Show what tenants of a plan may use."""
    with client_of(server) as client:
        found = client.plans.get(name)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        Console().print(limits_table(found.limits))


def set_plan(
    name: PlanName,
    limit: LimitPairs = None,
    description: Description = None,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Change a plan, for all tenants that have it; limits that are not named stay."""
    if not limit and description is None:
        raise ended("expected --limit or --description", WRONG_USE)
    with client_of(server) as client:
        found = client.plans.update(name, limits=limit_pairs(limit), description=description)
    _print_plans([found], as_json, one=True)


def delete_plan(name: PlanName, *, server: Server) -> None:
    """Remove a plan that no tenant has."""
    with client_of(server) as client:
        client.plans.delete(name)
    tell(f"plan '{name}' is removed")


TENANTS: dict[str, Callable[..., None]] = {
    "create": create_tenant,
    "list": list_tenants,
    "show": show_tenant,
    "set": set_tenant,
    "suspend": suspend_tenant,
    "resume": resume_tenant,
}
PLANS: dict[str, Callable[..., None]] = {
    "create": create_plan,
    "list": list_plans,
    "show": show_plan,
    "set": set_plan,
    "delete": delete_plan,
}


def limit_pairs(arguments: Sequence[str] | None) -> dict[str, Any] | None:
    """The limits of `--limit name=value`, sizes in bytes; None where there are none.

    Raises:
        UseError: One has no name or no value, or is no limit.
    """
    found = pairs("--limit", arguments or [])
    known = set(Limits.model_fields)
    for name, value in found.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(Limits.model_fields)}"
            raise UseError(f"--limit: there is no limit {name[:64]!r}{hint}")
        if name == "stored_bytes" and isinstance(value, str):
            found[name] = _bytes_of(value)
    return found or None


def _bytes_of(text: str) -> int:
    size = _size(text.strip())
    if size is None:
        raise UseError(f"--limit: stored_bytes: expected bytes, 500MB or 20GiB, got {text[:64]!r}")
    return round(float(size[1]) * _SIZES[size[2].lower()])


def limits_table(limits: Limits) -> Table:
    """A line a limit."""
    table = Table("limit", "at most", box=None)
    for name, value in limits.model_dump().items():
        table.add_row(name, _limit_text(name, value))
    return table


def limits_text(limits: Limits) -> str:
    """Those that are limits, in one line."""
    told = limits.model_dump(exclude={"weight"} if limits.weight == 1 else None)
    known = {name: value for name, value in told.items() if value is not None}
    return ", ".join(f"{name}={_limit_text(name, value)}" for name, value in known.items())


def _limit_text(name: str, value: Any) -> str:
    if value is None:
        return "no limit"
    return size_text(value) if name == "stored_bytes" else f"{value:g}"


def _print_tenants(found: Sequence[Tenant], as_json: bool, *, one: bool = False) -> None:
    if as_json:
        documents = [tenant.model_dump(mode="json") for tenant in found]
        print_json(documents[0] if one else documents)
        return
    table = Table("tenant", "state", "plan", "created", "by", "description", box=None)
    for tenant in found:
        made = moment(tenant.created)
        row = (tenant.name, tenant.state, tenant.plan, made, tenant.created_by, tenant.description)
        table.add_row(*map(escape, row))
    Console().print(table)


def _print_plans(found: Sequence[Plan], as_json: bool, *, one: bool = False) -> None:
    if as_json:
        documents = [plan.model_dump(mode="json") for plan in found]
        print_json(documents[0] if one else documents)
        return
    table = Table("plan", "built in", "limits", "description", box=None)
    for plan in found:
        built_in = "yes" if plan.built_in else ""
        row = (plan.name, built_in, limits_text(plan.limits) or "none", plan.description)
        table.add_row(*map(escape, row))
    Console().print(table)
