"""Rows of tenants, plans and keys: typed, in and out, a query each."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Row, insert, select

from aiaas_client.protocol.tenants import (
    BASIC,
    BASIC_PLAN,
    OPERATOR_TENANT,
    UNLIMITED,
    UNLIMITED_PLAN,
    Key,
    Limits,
    Plan,
    Tenant,
)
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.state.changes import tell
from aiaas_server.state.tenant_tables import KEYS, PLANS, TENANTS

KIND = "tenancy"
"""Of the changes that keys, tenants and plans make."""
BUILT_IN: Mapping[str, Plan] = {
    BASIC_PLAN: Plan(name=BASIC_PLAN, limits=BASIC, built_in=True),
    UNLIMITED_PLAN: Plan(name=UNLIMITED_PLAN, limits=UNLIMITED, built_in=True),
}
OPERATOR = Tenant(name=OPERATOR_TENANT, plan=UNLIMITED_PLAN, description="the operator")


def find_tenant(connection: Connection, name: str) -> Tenant | None:
    """One tenant; the operator's is there without a row."""
    row = connection.execute(select(TENANTS).where(TENANTS.c.name == name)).first()
    if row is None:
        return OPERATOR if name == OPERATOR_TENANT else None
    return tenant_of(row)


def add_tenant(
    connection: Connection, author: Author, name: str, plan: str, description: str = ""
) -> Tenant:
    """Make a tenant.

    Raises:
        Conflict: There is, or was, one of that name.
        InvalidInput: There is no such plan.
    """
    if find_tenant(connection, name) is not None:
        raise Conflict(f"tenant '{name}' exists already; a name is never used twice")
    if find_plan(connection, plan) is None:
        raise InvalidInput(f"plan: expected the name of a plan, got {plan[:64]!r}")
    made = Tenant(
        name=name, plan=plan, description=description, created=time.time(), created_by=author.by
    )
    connection.execute(insert(TENANTS).values(made.model_dump()))
    tell(connection, author.tenant, KIND, f"tenant/{name}", {})
    return made


def find_plan(connection: Connection, name: str) -> Plan | None:
    """One plan, made or built in."""
    row = connection.execute(select(PLANS).where(PLANS.c.name == name)).first()
    return BUILT_IN.get(name) if row is None else plan_of(row)


def add_key(
    connection: Connection,
    author: Author,
    *,
    key: str,
    tenant: str,
    digest: bytes,
    name: str,
    scopes: Sequence[str],
    limits: Limits | None = None,
    expires: float | None = None,
) -> Key:
    """Keep a key that was drawn.

    Args:
        key: Its id.
        digest: What is kept of it.
    Raises:
        NotFound: There is no such tenant.
    """
    if find_tenant(connection, tenant) is None:
        raise NotFound(f"there is no tenant '{tenant[:64]}'")
    values = {
        "id": key,
        "tenant": tenant,
        "name": name,
        "hash": digest.hex(),
        "scopes": sorted(scopes),
        "limits": None if limits is None else limits.model_dump(mode="json"),
        "created": time.time(),
        "created_by": author.by,
        "expires": expires,
        "replaced_by": "",
    }
    connection.execute(insert(KEYS).values(values))
    tell(connection, tenant, KIND, f"key/{key}", {})
    return key_of(connection.execute(select(KEYS).where(KEYS.c.id == key)).one())


def tenant_of(row: Row[tuple[object, ...]]) -> Tenant:
    """A row as what is told."""
    return Tenant(**row._mapping)


def plan_of(row: Row[tuple[object, ...]]) -> Plan:
    """A row as what is told."""
    found = row._mapping
    return Plan(
        name=found["name"], limits=Limits(**found["limits"]), description=found["description"]
    )


def key_of(row: Row[tuple[object, ...]]) -> Key:
    """A row as what is told."""
    found = dict(row._mapping)
    revoked, expires = found.pop("revoked"), found["expires"]
    del found["hash"]
    if revoked is not None:
        return Key(**found, state="revoked")
    ended = expires is not None and expires <= time.time()
    return Key(**found, state="expired" if ended else "active")
