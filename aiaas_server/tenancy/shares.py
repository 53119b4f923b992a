"""Shares of limits among the processes that serve one database: rows of `quota_leases`.

Every process has a row under the subject "": that it is there, and its part of every limit of which
nobody asks. Limits of which somebody asks have rows of their own, in which parts go by demand.
Each process writes its own rows only, and takes no more than the others leave in that transaction.
Writers come one after the other (`state.database`), so that the parts of a limit are never more
than the whole: who is to have less lets go first, who is to have more takes it in its next round.

All rows of a process end together, by the database's clock, unless it renews them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, delete, insert, select, text

from aiaas_server.state.tenant_tables import QUOTA_LEASES

LEASE: Final = 10.0
"""Seconds that a process has its parts without renewing them."""
EVERYTHING: Final = ""
"""The subject of limits that have no rows of their own."""
_EVEN: Final = 0.1  # of a limit is split evenly, so that whoever has new demand can begin

IsGone = Callable[[str], bool]


class Part(NamedTuple):
    """What one process has of one limit.

    Attributes:
        demand: Requests a second that it has seen of late.
        share: Of the limit, 0 to 1.
    """

    node: str
    demand: float
    share: float


class Shares(NamedTuple):
    """What one process may use.

    Attributes:
        known: Processes that are there, this one included.
        others: Its part of limits that are not among `named`.
        named: By the name of a tenant or key.
    """

    known: int
    others: float
    named: Mapping[str, float]

    def of(self, name: str) -> float:
        """Its part of one limit."""
        return self.named.get(name, self.others)


def renew(
    connection: Connection,
    node: str,
    demand: Mapping[str, float],
    is_gone: IsGone = lambda node: False,
    lease: float = LEASE,
) -> Shares:
    """Tell that a process is there and what it is asked for; gives what it may use until its lease
    ends. Each call is a transaction of its own.

    Args:
        node: The process.
        demand: Requests a second, by name; without those that nobody asked for.
        is_gone: Whether another process is known to have ended, whatever its lease.
    """
    now = database_time(connection)
    rows = _living(connection, node, now, is_gone, lease)
    before = {row.subject: row.share for row in rows if row.node == node}
    others = {row.node: row.share for row in rows if row.node != node and row.subject == EVERYTHING}
    known = len(others) + 1
    base = max(0.0, min(1 / known, 1.0 - sum(others.values())))
    named = {}
    if others:
        parts = _parts(rows, node)
        for name in sorted({*parts, *before, *demand} - {EVERYTHING}):
            theirs = _theirs(parts.get(name, ()), others)
            asked = demand.get(name, 0.0)
            is_asked = asked > 0 or any(one.demand for one in theirs)
            if not is_asked and (name not in before or _left(theirs) >= base):
                continue  # nobody asks for it any more: it is as all others
            named[name] = min(fair(asked, theirs), _left(theirs))
    mine = {EVERYTHING: base, **named}
    connection.execute(delete(QUOTA_LEASES).where(QUOTA_LEASES.c.node == node))
    connection.execute(
        insert(QUOTA_LEASES),
        [
            {
                "subject": name,
                "node": node,
                "demand": demand.get(name, 0.0),
                "share": share,
                "until": now + lease,
            }
            for name, share in mine.items()
        ],
    )
    return Shares(known, base, named)


def leave(connection: Connection, node: str) -> None:
    """Leave what a process has to the others."""
    connection.execute(delete(QUOTA_LEASES).where(QUOTA_LEASES.c.node == node))


def fair(asked: float, theirs: Sequence[Part]) -> float:
    """The part of a limit that a process is to have, by what it and the others are asked for.

    The parts of all are 1 together.
    """
    even = 1 / (len(theirs) + 1)
    total = asked + sum(one.demand for one in theirs)
    if total <= 0:
        return even
    return _EVEN * even + (1 - _EVEN) * asked / total


def database_time(connection: Connection) -> float:
    """Seconds since 1970, by the clock of the database: of PostgreSQL its machine's."""
    if connection.dialect.name == "postgresql":
        asked = text("SELECT extract(epoch FROM clock_timestamp())")
        return float(connection.execute(asked).scalar_one())
    return time.time()


def _living(
    connection: Connection, node: str, now: float, is_gone: IsGone, lease: float
) -> list[Row[Any]]:
    """The rows that count; those of processes that are gone go."""
    rows = connection.execute(select(QUOTA_LEASES)).all()
    ended = {
        row.node
        for row in rows
        # An end far ahead is of a clock that was set back.
        if row.node != node and (not now < row.until <= now + 2 * lease or is_gone(row.node))
    }
    for gone in sorted(ended):
        leave(connection, gone)
    return [row for row in rows if row.node not in ended]


def _parts(rows: Sequence[Row[Any]], node: str) -> dict[str, list[Part]]:
    """By name what other processes have of limits that have rows of their own."""
    found: dict[str, list[Part]] = {}
    for row in rows:
        if row.subject != EVERYTHING and row.node != node:
            found.setdefault(row.subject, []).append(Part(row.node, row.demand, row.share))
    return found


def _theirs(parts: Sequence[Part], others: Mapping[str, float]) -> list[Part]:
    """What each other process has of a limit, with a row of its own for it or without."""
    named = {one.node for one in parts}
    return [
        *parts,
        *(Part(node, 0.0, share) for node, share in others.items() if node not in named),
    ]


def _left(theirs: Sequence[Part]) -> float:
    """What the others leave of a limit."""
    return max(0.0, 1.0 - sum(one.share for one in theirs))
