"""Answers to requests that carried an `Idempotency-Key`, so that a repeated one changes nothing."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import IntegrityError

from aiaas_server.state.tables import IDEMPOTENCY

KEPT_SECONDS: Final = 24 * 3600.0


class Answered(NamedTuple):
    """What was answered, and to which request.

    Attributes:
        request: SHA-256 of method, path and body.
    """

    request: str
    status: int
    answer: bytes


def recall(connection: Connection, tenant: str, key: str) -> Answered | None:
    """What was answered under a key, if anything."""
    asked = select(IDEMPOTENCY.c.request, IDEMPOTENCY.c.status, IDEMPOTENCY.c.answer).where(
        IDEMPOTENCY.c.tenant == tenant, IDEMPOTENCY.c.key == key
    )
    row = connection.execute(asked).one_or_none()
    return None if row is None else Answered(*row)


def remember(connection: Connection, tenant: str, key: str, answered: Answered) -> None:
    """Keep an answer for a day; the first one under a key counts."""
    now = time.time()
    connection.execute(delete(IDEMPOTENCY).where(IDEMPOTENCY.c.at < now - KEPT_SECONDS))
    try:
        with connection.begin_nested():
            connection.execute(
                IDEMPOTENCY.insert().values(tenant=tenant, key=key, at=now, **answered._asdict())
            )
    except IntegrityError:
        return  # the same request came twice at once
