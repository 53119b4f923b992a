"""Limits of spending that are near or reached: told once a month and tenant, by one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy import Connection, insert, select

from aiaas_server.state.changes import tell
from aiaas_server.state.tenant_tables import BUDGET_NOTICES

KIND: Final = "budget"
"""Of the changes that tell of limits."""


class Notice(NamedTuple):
    """A tenant has spent so much of what it may, for the first time in a month.

    Attributes:
        percent: 80 or 100.
        spent, limit: Of the month, in `currency`.
    """

    tenant: str
    month: str
    percent: int
    spent: Decimal
    limit: Decimal
    currency: str


def note(connection: Connection, notice: Notice, percents: Sequence[int]) -> bool:
    """Write down that so much is spent; whether the notice's own is new, which the feed tells."""
    mine = (BUDGET_NOTICES.c.tenant == notice.tenant) & (BUDGET_NOTICES.c.month == notice.month)
    known = set(connection.execute(select(BUDGET_NOTICES.c.percent).where(mine)).scalars())
    for percent in percents:
        if percent not in known:
            values = {"tenant": notice.tenant, "month": notice.month, "percent": percent}
            connection.execute(insert(BUDGET_NOTICES).values(values | {"at": time.time()}))
    if notice.percent in known:
        return False
    told = {
        "percent": notice.percent,
        "spent": f"{notice.spent:f}",
        "limit": f"{notice.limit:f}",
        "currency": notice.currency,
    }
    tell(connection, notice.tenant, KIND, f"budget/{notice.month}", told)
    return True
