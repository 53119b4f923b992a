"""Plans: limits under a name, which tenants have. For the operator."""

from __future__ import annotations

import re
import time
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from aiaas_client.protocol.tenants import (
    PLAN_NAME,
    UNLIMITED_PLAN,
    Plan,
    PlanPatch,
    PlanRequest,
)
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.state.changes import tell
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import PLANS, TENANTS
from aiaas_server.tenancy.rows import BUILT_IN, KIND, check_etag, find_plan, plan_of, tagged

_name = re.compile(PLAN_NAME).fullmatch
_SHOWN = 5  # tenants that a refusal names


class Plans:
    """The plans of a server."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, author: Author, asked: PlanRequest) -> Plan:
        """Make one.

        Raises:
            Conflict: There is one of that name.
        """
        return await self._database.write(lambda c: _create(c, author, asked))

    async def page(self, after: str, limit: int) -> list[Plan]:
        """Some of them by name, from behind `after` on, those that are built in among them."""
        return await self._database.read(lambda c: _page(c, after, limit))

    async def get(self, name: str) -> Plan:
        """One of them.

        Raises:
            NotFound: There is none of that name.
        """
        return await self._database.read(lambda c: _get(c, name))

    async def update(
        self, author: Author, name: str, patch: PlanPatch, expected: int | None
    ) -> Plan:
        """Change what is set in `patch`, of the limits those that are set there.

        Args:
            expected: The ETag of what the caller has read; None where any is right.
        Raises:
            NotFound: There is none of that name.
            Conflict: It is `unlimited`.
            StaleRevision: It was changed since.
        """
        return await self._database.write(lambda c: _update(c, author, name, patch, expected))

    async def delete(self, author: Author, name: str) -> None:
        """Remove one; a built-in one that was changed is as it was built in.

        Raises:
            NotFound: There is none of that name.
            Conflict: Tenants have it, or it is built in.
        """
        await self._database.write(lambda c: _delete(c, author, name), spares_room=True)


def _get(connection: Connection, name: str) -> Plan:
    found = find_plan(connection, name) if _name(name) else None
    if found is None:
        raise NotFound(f"there is no plan '{name[:64]}'")
    return found


def _page(connection: Connection, after: str, limit: int) -> list[Plan]:
    asked = select(PLANS).where(PLANS.c.name > after).order_by(PLANS.c.name).limit(limit)
    rows = {row.name: plan_of(row) for row in connection.execute(asked)}
    built_in = {name: tagged(plan) for name, plan in BUILT_IN.items() if name > after}
    found = {**built_in, **rows}
    return [found[name] for name in sorted(found)][:limit]


def _create(connection: Connection, author: Author, asked: PlanRequest) -> Plan:
    if find_plan(connection, asked.name) is not None:
        raise Conflict(f"plan '{asked.name}' exists already; it can be changed")
    return _insert(connection, author, asked.name, asked.limits, asked.description)


def _insert(
    connection: Connection, author: Author, name: str, limits: Any, description: str
) -> Plan:
    values = {
        "name": name,
        "limits": limits.model_dump(mode="json"),
        "description": description,
        "created": time.time(),
        "created_by": author.by,
    }
    connection.execute(insert(PLANS).values(values))
    tell(connection, author.tenant, KIND, f"plan/{name}", {})
    return _get(connection, name)


def _update(
    connection: Connection, author: Author, name: str, patch: PlanPatch, expected: int | None
) -> Plan:
    found = _get(connection, name)
    if name == UNLIMITED_PLAN:
        raise Conflict(f"plan '{name}' is the operator's, and stays as it is")
    check_etag(f"plan '{name}'", found, expected)
    limits, description = found.limits, found.description
    if patch.limits is not None:
        named = patch.limits.model_fields_set
        limits = limits.model_copy(update={one: getattr(patch.limits, one) for one in named})
    if patch.description is not None:
        description = patch.description
    if found.built_in:
        return _insert(connection, author, name, limits, description)
    values = {"limits": limits.model_dump(mode="json"), "description": description}
    connection.execute(update(PLANS).where(PLANS.c.name == name).values(values))
    tell(connection, author.tenant, KIND, f"plan/{name}", {})
    return _get(connection, name)


def _delete(connection: Connection, author: Author, name: str) -> None:
    found = _get(connection, name)
    if found.built_in:
        raise Conflict(f"plan '{name}' is built in")
    if name not in BUILT_IN:
        _check_unused(connection, name)
    connection.execute(delete(PLANS).where(PLANS.c.name == name))
    tell(connection, author.tenant, KIND, f"plan/{name}", {})


def _check_unused(connection: Connection, name: str) -> None:
    asked = select(TENANTS.c.name).where(TENANTS.c.plan == name, TENANTS.c.state != "erased")
    users = connection.execute(asked.order_by(TENANTS.c.name).limit(_SHOWN + 1)).scalars().all()
    if users:
        more = " and others" if len(users) > _SHOWN else ""
        named = ", ".join(users[:_SHOWN])
        raise Conflict(f"plan '{name}' is in use by {named}{more}: give them another one first")
