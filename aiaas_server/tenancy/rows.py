"""Rows of tenants, plans and keys: typed, in and out, a query each."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

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
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound, StaleRevision
from aiaas_server.state.changes import tell
from aiaas_server.state.tenant_tables import KEYS, PLANS, TENANTS

KIND = "tenancy"
"""Of the changes that keys, tenants and plans make."""
BUILT_IN: Mapping[str, Plan] = {
    BASIC_PLAN: Plan(name=BASIC_PLAN, limits=BASIC, built_in=True),
    UNLIMITED_PLAN: Plan(name=UNLIMITED_PLAN, limits=UNLIMITED, built_in=True),
}
OPERATOR = Tenant(name=OPERATOR_TENANT, plan=UNLIMITED_PLAN, description="the operator")
"""The operator's tenant, which is there without a row."""
AnyTold = TypeVar("AnyTold", Tenant, Plan)


def tagged(document: AnyTold) -> AnyTold:
    """With an ETag: a number that is made of what it says, so that equal states have equal ones."""
    told = document.model_dump_json(exclude={"etag"}).encode()
    etag = str(int(hashlib.sha256(told).hexdigest()[:14], 16))
    return document.model_copy(update={"etag": etag})


def check_etag(what: str, document: Tenant | Plan, expected: int | None) -> None:
    """See that it is still what the caller has read.

    Raises:
        StaleRevision: It is not.
    """
    if expected is not None and str(expected) != document.etag:
        raise StaleRevision(f"{what} was changed since it was read: read it again")


def find_tenant(connection: Connection, name: str) -> Tenant | None:
    """One tenant; the operator's is there without a row."""
    row = connection.execute(select(TENANTS).where(TENANTS.c.name == name)).first()
    if row is None:
        return tagged(OPERATOR) if name == OPERATOR_TENANT else None
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
        raise InvalidInput(f"plan: there is no plan {plan[:64]!r}; `aiaas plans list` lists them")
    made = Tenant(
        name=name, plan=plan, description=description, created=time.time(), created_by=author.by
    )
    connection.execute(insert(TENANTS).values(made.model_dump(exclude={"etag"})))
    tell(connection, author.tenant, KIND, f"tenant/{name}", {})
    return tagged(made)


def find_plan(connection: Connection, name: str) -> Plan | None:
    """One plan, made or built in."""
    row = connection.execute(select(PLANS).where(PLANS.c.name == name)).first()
    if row is not None:
        return plan_of(row)
    built_in = BUILT_IN.get(name)
    return None if built_in is None else tagged(built_in)


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
        Conflict: It is erased.
    """
    owner = find_tenant(connection, tenant)
    if owner is None:
        raise NotFound(f"there is no tenant '{tenant[:64]}'")
    if owner.state == "erased":
        raise Conflict(f"tenant '{tenant}' is erased, and gets no keys any more")
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
    return tagged(Tenant(**row._mapping))


def plan_of(row: Row[tuple[object, ...]]) -> Plan:
    """A row as what is told."""
    found = row._mapping
    limits = Limits(**found["limits"])
    return tagged(Plan(name=found["name"], limits=limits, description=found["description"]))


def key_of(row: Row[tuple[object, ...]], now: float | None = None) -> Key:
    """A row as what is told; `now` is seconds since 1970."""
    now = time.time() if now is None else now
    found = dict(row._mapping)
    revoked, expires = found.pop("revoked"), found["expires"]
    del found["hash"]
    if revoked is not None:
        return Key(**found, state="revoked")
    ended = expires is not None and expires <= now
    return Key(**found, state="expired" if ended else "active")
