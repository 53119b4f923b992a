"""What tenants have spent in this month, read from the database little by little.

Hours that are long over are added up once and kept; each read adds the last few to a copy of that.
Every ten minutes all are read anew, since a journal may have come in late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection

from aiaas_server.tenancy.money import added
from aiaas_server.tenancy.months import HOUR, Month, month_at
from aiaas_server.tenancy.prices import Book, read_book
from aiaas_server.tenancy.statements import base_fee, used_in
from aiaas_server.tenancy.tally import Tally

_KEPT_FOR: Final = 600.0  # seconds
_RECENT_HOURS: Final = 2

Watched = Mapping[str, frozenset[str]]
"""The tenants whose spending is wanted, and which of their keys apart."""


@dataclass(slots=True)
class Settled:
    """What is kept of a month's earlier hours.

    Attributes:
        until: The hour up to which they are added up.
        at: When that was.
        tallies: By tenant.
    """

    book: Book
    month: Month
    until: int
    at: float
    tallies: dict[str, Tally] = field(default_factory=dict)


@dataclass(slots=True)
class Spending:
    """What was spent in a month, as one read finds it."""

    settled: Settled
    tallies: dict[str, Tally]


def read_spending(
    connection: Connection, watched: Watched, now: float, settled: Settled | None
) -> Spending:
    """Read what tenants have spent; blocking.

    Args:
        settled: What the read before kept.
    """
    book, month = read_book(connection), month_at(now)
    if settled is None or not _is_good(settled, book, month, now):
        until = max(month.begin, (int(now) // HOUR - _RECENT_HOURS) * HOUR)
        settled = Settled(book, month, until, now)
    lacking = [
        tenant
        for tenant, keys in watched.items()
        if tenant not in settled.tallies or settled.tallies[tenant].by_key.keys() != keys
    ]
    _settle(connection, settled, watched, lacking)
    recent = used_in(connection, list(watched), settled.until, month.end)
    tallies = {}
    for tenant in watched:
        tally = tallies[tenant] = settled.tallies[tenant].copy()
        tally.add_all(recent.get(tenant, ()))
    return Spending(settled, tallies)


def _is_good(settled: Settled, book: Book, month: Month, now: float) -> bool:
    return settled.book == book and settled.month == month and 0 <= now - settled.at < _KEPT_FOR


def _settle(
    connection: Connection, settled: Settled, watched: Watched, tenants: Sequence[str]
) -> None:
    """Add up the earlier hours of tenants, their base fee before."""
    if not tenants:
        return
    used = used_in(connection, tenants, settled.month.begin, settled.until)
    for tenant in tenants:
        tally = settled.tallies[tenant] = begun(settled.book, tenant, settled.month, watched)
        tally.add_all(used.get(tenant, ()))


def begun(book: Book, tenant: str, month: Month, watched: Watched) -> Tally:
    """A month in which nothing was used yet: its base fee is spent."""
    tally = Tally(book, tenant, watched.get(tenant, ()))
    fee = base_fee(book, tenant, month)
    if fee is not None:
        tally.cost = added(tally.cost, fee.amount)
    return tally
