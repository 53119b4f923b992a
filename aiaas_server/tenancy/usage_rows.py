"""Rows of usage: how amounts get into the database once, whenever somebody is killed.

Each function is a step of a transaction. What was added is noted in the same transaction that adds
it: of a journal the number of its last line, of what is measured over time until when it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from aiaas_server.state.tenant_tables import USAGE, USAGE_ATTEMPTS, USAGE_BATCHES
from aiaas_server.tenancy.journal import Line, added_up
from aiaas_server.tenancy.meter import HOUR, MOST_ATTEMPTS, Left, Used

GRACE: Final = 30.0
"""Seconds after which an attempt that its caller left is paid for, if none of the same request has
been answered."""
MOST_READ: Final = 1000


class Attempt(NamedTuple):
    """An attempt that waits for one of the same request to be answered, under its number."""

    id: int
    left: Left


def add(connection: Connection, amounts: Iterable[tuple[Used, int]]) -> None:
    """Add amounts to what there is."""
    rows = [{**used._asdict(), "amount": amount} for used, amount in amounts if amount]
    if not rows:
        return
    dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    added = dialect.insert(USAGE)
    keys = [column.name for column in USAGE.primary_key]
    total = {"amount": USAGE.c.amount + added.excluded.amount}
    connection.execute(added.on_conflict_do_update(index_elements=keys, set_=total), rows)


def apply(connection: Connection, node: str, lines: Sequence[Line], at: float) -> int:
    """Add the lines of a journal that were not added before.

    Returns:
        The number of the last line that is added now.
    """
    done = until(connection, node) or 0
    new = added_up(line.taken for line in lines if line.seq > done)
    last = max([done, *(line.seq for line in lines)])
    if last == done:
        return done
    add(connection, new.amounts.items())
    if new.left:
        connection.execute(USAGE_ATTEMPTS.insert(), [_attempt(left) for left in new.left])
    mark(connection, node, last, at)
    return last


def until(connection: Connection, node: str) -> int | None:
    """How far `node` has been added; None if nothing was."""
    asked = select(func.max(USAGE_BATCHES.c.seq)).where(USAGE_BATCHES.c.node == node)
    found: int | None = connection.execute(asked).scalar_one()
    return found


def mark(connection: Connection, node: str, seq: int, at: float) -> None:
    """Note how far `node` has been added."""
    forget(connection, node)
    connection.execute(USAGE_BATCHES.insert().values(node=node, seq=seq, at=at))


def forget(connection: Connection, node: str) -> None:
    """A journal is gone, and what was noted of it is needed no more."""
    connection.execute(delete(USAGE_BATCHES).where(USAGE_BATCHES.c.node == node))


# Attempts


def attempts(connection: Connection) -> list[Attempt]:
    """Those that wait, the oldest first."""
    asked = select(USAGE_ATTEMPTS).order_by(USAGE_ATTEMPTS.c.id).limit(MOST_READ)
    return [Attempt(row.id, _left(row)) for row in connection.execute(asked)]


def absorb(connection: Connection, ids: Sequence[int]) -> None:
    """Attempts are paid with the one that was answered."""
    for at in range(0, len(ids), 500):
        part = ids[at : at + 500]
        connection.execute(delete(USAGE_ATTEMPTS).where(USAGE_ATTEMPTS.c.id.in_(part)))


def settle(connection: Connection, now: float, grace: float = GRACE) -> int:
    """Have attempts paid for which nothing was answered in time; gives how many there were.

    Of several of one request the dearest is paid, for a few; who makes more pays for them.
    """
    asked = (
        select(USAGE_ATTEMPTS)
        .where(USAGE_ATTEMPTS.c.at <= now - grace)
        .order_by(USAGE_ATTEMPTS.c.at, USAGE_ATTEMPTS.c.id)
        .limit(MOST_READ)
    )
    rows = list(connection.execute(asked))
    groups: dict[tuple[str, str, str, int], list[Left]] = {}
    counted: dict[tuple[str, str, str], int] = {}
    for row in rows:
        left = _left(row)
        whose = left[:3]
        counted[whose] = counted.get(whose, 0) + 1
        groups.setdefault((*whose, counted[whose] // (MOST_ATTEMPTS + 1)), []).append(left)
    for group in groups.values():
        paid = max(group, key=lambda left: left.amounts.get("compute_us", 0))
        hour = int(paid.at) // HOUR * HOUR
        add(
            connection,
            (
                (Used(paid.tenant, hour, paid.key_id, paid.model, paid.version, unit), amount)
                for unit, amount in paid.amounts.items()
            ),
        )
    absorb(connection, [row.id for row in rows])
    return len(rows)


def _attempt(left: Left) -> dict[str, Any]:
    told = {"model": left.model, "version": left.version, "units": left.amounts}
    return {
        "tenant": left.tenant,
        "key_id": left.key_id,
        "request_id": left.request_id,
        "began": left.began,
        "at": left.at,
        "amounts": told,
    }


def _left(row: Any) -> Left:
    told = row.amounts
    return Left(
        row.tenant,
        row.key_id,
        row.request_id,
        row.began,
        row.at,
        told["model"],
        told["version"],
        dict(told["units"]),
    )


# What is measured over time


def measure(
    connection: Connection,
    name: str,
    now: int,
    amounts: Callable[[Connection, int, int], Iterable[tuple[Used, int]]],
) -> None:
    """Add what was used since it was measured last, by whichever process, until `now`.

    Args:
        name: Of what is measured.
        now: Seconds since 1970. At the first time nothing is added: it begins now.
        amounts: Gives what was used between two times.
    """
    since = until(connection, name)
    if since is not None and since >= now:
        return  # another was first, or the clock was set back
    if since is not None:
        add(connection, amounts(connection, since, now))
    mark(connection, name, now, float(now))
