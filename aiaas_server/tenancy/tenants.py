"""Tenants: made, changed, suspended, looked at. For the operator."""

from __future__ import annotations

import re

from sqlalchemy import Connection, select, update

from aiaas_client.protocol.tenants import (
    OPERATOR_TENANT,
    TENANT_NAME,
    Tenant,
    TenantPatch,
    TenantRequest,
)
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.state.changes import tell
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import TENANTS
from aiaas_server.tenancy.rows import (
    KIND,
    OPERATOR,
    add_tenant,
    check_etag,
    find_plan,
    find_tenant,
    tagged,
    tenant_of,
)

_name = re.compile(TENANT_NAME).fullmatch


class Tenants:
    """The tenants of a server."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, author: Author, asked: TenantRequest) -> Tenant:
        """Make one.

        Raises:
            Conflict: There is, or was, one of that name.
            InvalidInput: There is no such plan.
        """
        return await self._database.write(
            lambda c: add_tenant(c, author, asked.name, asked.plan, asked.description)
        )

    async def page(self, after: str, limit: int) -> list[Tenant]:
        """Some of them by name, from behind `after` on."""
        return await self._database.read(lambda c: _page(c, after, limit))

    async def get(self, name: str) -> Tenant:
        """One of them.

        Raises:
            NotFound: There is none of that name.
        """
        return await self._database.read(lambda c: get_tenant(c, name))

    async def update(
        self, author: Author, name: str, patch: TenantPatch, expected: int | None
    ) -> Tenant:
        """Change what is set in `patch`.

        Args:
            expected: The ETag of what the caller has read; None where any is right.
        Raises:
            NotFound: There is none of that name.
            Conflict: It is the operator's, or erased.
            InvalidInput: There is no such plan.
            StaleRevision: It was changed since.
        """
        return await self._database.write(lambda c: _update(c, author, name, patch, expected))

    async def suspend(self, author: Author, name: str) -> Tenant:
        """Have all its keys refused, until it is resumed.

        Raises:
            NotFound: There is none of that name.
            Conflict: It is the operator's, or erased.
        """
        return await self._database.write(lambda c: _turn(c, author, name, "suspended"))

    async def resume(self, author: Author, name: str) -> Tenant:
        """Let its keys in again.

        Raises:
            NotFound: There is none of that name.
            Conflict: It is the operator's, or erased.
        """
        return await self._database.write(lambda c: _turn(c, author, name, "active"))


def get_tenant(connection: Connection, name: str) -> Tenant:
    """One tenant.

    Raises:
        NotFound: There is none of that name.
    """
    found = find_tenant(connection, name) if _name(name) else None
    if found is None:
        raise NotFound(f"there is no tenant '{name[:64]}'")
    return found


def _page(connection: Connection, after: str, limit: int) -> list[Tenant]:
    asked = select(TENANTS).where(TENANTS.c.name > after).order_by(TENANTS.c.name).limit(limit)
    found = {row.name: tenant_of(row) for row in connection.execute(asked)}
    if after < OPERATOR_TENANT and find_tenant(connection, OPERATOR_TENANT) == tagged(OPERATOR):
        found[OPERATOR_TENANT] = tagged(OPERATOR)
    return [found[name] for name in sorted(found)][:limit]


def _changeable(connection: Connection, name: str) -> Tenant:
    if name == OPERATOR_TENANT:
        raise Conflict(f"tenant '{name}' is the operator's, and stays as it is")
    found = get_tenant(connection, name)
    if found.state == "erased":
        raise Conflict(f"tenant '{name}' is erased; a name is never used twice")
    return found


def _update(
    connection: Connection, author: Author, name: str, patch: TenantPatch, expected: int | None
) -> Tenant:
    found = _changeable(connection, name)
    check_etag(f"tenant '{name}'", found, expected)
    values = {key: value for key, value in patch.model_dump().items() if value is not None}
    if "plan" in values and find_plan(connection, values["plan"]) is None:
        raise InvalidInput(
            f"plan: there is no plan {values['plan']!r}; `aiaas plans list` lists them"
        )
    return _set(connection, author, name, values) if values else found


def _turn(connection: Connection, author: Author, name: str, state: str) -> Tenant:
    found = _changeable(connection, name)
    return found if found.state == state else _set(connection, author, name, {"state": state})


def _set(connection: Connection, author: Author, name: str, values: dict[str, str]) -> Tenant:
    connection.execute(update(TENANTS).where(TENANTS.c.name == name).values(values))
    tell(connection, author.tenant, KIND, f"tenant/{name}", {})
    return get_tenant(connection, name)
