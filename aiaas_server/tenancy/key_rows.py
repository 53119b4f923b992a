"""Rows of keys: found, listed, ended; and the rule that a tenant keeps a key that sees to it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, or_, select, update

from aiaas_server.core.errors import (
    Conflict,
    InvalidInput,
    NotAllowed,
    NotFound,
    QuotaExceeded,
)
from aiaas_server.state.changes import tell
from aiaas_server.state.tenant_tables import KEYS
from aiaas_server.tenancy.rights import Maker
from aiaas_server.tenancy.rows import KIND, find_tenant

MOST_KEYS = 1000
"""Good keys that a tenant may have: all processes hold all of them in memory."""
_SHOWN = 64
KeyRow = Row[Any]


def find_key(connection: Connection, maker: Maker, key: str) -> KeyRow:
    """One key that is there for `maker`.

    Raises:
        NotFound: There is none, or it is another tenant's; which of them is not to be told apart.
    """
    asked = select(KEYS).where(KEYS.c.id == key)
    if not maker.is_operator:
        asked = asked.where(KEYS.c.tenant == maker.tenant)
    row = connection.execute(asked).first()
    if row is None:
        raise NotFound(f"there is no key '{key[:_SHOWN]}'")
    return row


def page_of_keys(connection: Connection, tenant: str, after: str, limit: int) -> list[KeyRow]:
    """Some keys of a tenant, the newest first, from behind the key `after` on.

    Raises:
        InvalidInput: The tenant has no key `after`.
    """
    asked = select(KEYS).where(KEYS.c.tenant == tenant)
    if after:
        own = select(KEYS.c.created).where(KEYS.c.tenant == tenant, KEYS.c.id == after)
        created = connection.execute(own).scalar()
        if created is None:
            raise InvalidInput(f"after: expected what `next` told, got {after[:_SHOWN]!r}")
        same = and_(KEYS.c.created == created, KEYS.c.id < after)
        asked = asked.where(or_(KEYS.c.created < created, same))
    asked = asked.order_by(KEYS.c.created.desc(), KEYS.c.id.desc()).limit(limit)
    return list(connection.execute(asked).all())


def end_key(connection: Connection, row: KeyRow, **values: Any) -> None:
    """Write how a key ends."""
    connection.execute(update(KEYS).where(KEYS.c.id == row.id).values(values))
    tell(connection, row.tenant, KIND, f"key/{row.id}", {})


def check_maker(connection: Connection, maker: Maker, now: float) -> None:
    """See that the key that asks is good by the database, which this process may not know yet.

    Otherwise a key that was just revoked elsewhere could make another one that outlives it.

    Raises:
        NotAllowed: It has ended.
    """
    if not maker.key_id:
        return
    asked = select(KEYS.c.tenant).where(KEYS.c.id == maker.key_id, _good(now))
    tenant = connection.execute(asked).scalar()
    found = None if tenant is None else find_tenant(connection, tenant)
    if found is None or found.state != "active":
        raise NotAllowed("the key that asks has ended")


def check_room(connection: Connection, tenant: str, now: float) -> None:
    """See that a tenant may have one more.

    Raises:
        QuotaExceeded: It has as many as it may.
    """
    asked = select(func.count()).where(KEYS.c.tenant == tenant, _good(now))
    count = connection.execute(asked).scalar_one()
    if count >= MOST_KEYS:
        raise QuotaExceeded(
            f"tenant '{tenant}' has {count} keys, of {MOST_KEYS} that it may have: revoke some"
        )


def check_admin_stays(connection: Connection, maker: Maker, row: KeyRow, now: float) -> None:
    """See that a tenant is not left without a key that sees to it when `row` ends.

    One that ends some day does not stand for one that never does. The operator may end the last
    admin key of another tenant, since it can make a new one.

    Raises:
        Conflict: It is the last one.
    """
    if "admin" not in row.scopes or (maker.is_operator and row.tenant != maker.tenant):
        return
    asked = select(KEYS.c.scopes, KEYS.c.expires).where(
        KEYS.c.tenant == row.tenant, KEYS.c.id != row.id, _good(now)
    )
    others = [one.expires for one in connection.execute(asked) if "admin" in one.scopes]
    if not others:
        raise Conflict(
            f"key '{row.id}' is the last admin key of its tenant: make another one first"
        )
    if row.expires is None and None not in others:
        raise Conflict(
            f"key '{row.id}' is the last admin key of its tenant that does not expire: "
            f"make another one first"
        )


def _good(now: float) -> ColumnElement[bool]:
    unended = or_(KEYS.c.expires.is_(None), KEYS.c.expires > now)
    return and_(KEYS.c.revoked.is_(None), unended)
