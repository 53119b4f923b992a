"""What was used: sums over the hours of the table `usage`, a page at a time."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, String, cast, func, select, tuple_

from aiaas_client.protocol.usage import By, UsageRow
from aiaas_server.core.errors import InvalidInput
from aiaas_server.state.tenant_tables import USAGE

DAY: Final = 86_400
Columns = dict[str, ColumnElement[Any]]
_ORDER: Final = ("time", "tenant", "key", "model", "version", "unit")


class UsageQuery(NamedTuple):
    """Which amounts, and what they are summed by.

    Attributes:
        by: What rows tell apart, beside the unit.
        start, end: Hours that begin from one on and before the other, seconds since 1970.
        tenant: Of this one; None is all of them.
        key, model, version, unit: Only of this one.
        after: Where a page begins, as the page before told.
    """

    by: tuple[By, ...]
    start: int
    end: int
    tenant: str | None
    key: str | None = None
    model: str | None = None
    version: int | None = None
    unit: str | None = None
    after: str = ""
    limit: int = 1000


def find_usage(connection: Connection, query: UsageQuery) -> tuple[list[UsageRow], str | None]:
    """The rows of a page, in order of time, tenant, key, model, version and unit.

    Returns:
        The rows, and where the next page begins; None at the end.
    Raises:
        InvalidInput: `after` is nothing that was told.
    """
    columns = _columns(query.by, connection.dialect.name)
    cursor = _cursor(query.after, list(columns), query.by) if query.after else None
    if "hour" not in query.by:
        found = _summed(connection, query, columns, cursor)
    else:
        found = _hours(connection, query, columns, cursor)
    page, more = found[: query.limit], len(found) > query.limit
    following = _told_cursor(page[-1][:-1]) if more else None
    return [_row(tuple(columns), row) for row in page], following


def _hours(
    connection: Connection, query: UsageQuery, columns: Columns, cursor: list[Any] | None
) -> list[tuple[Any, ...]]:
    """The same by hours, where there may be a million: no page sums up what is behind it."""
    query = query._replace(start=max(query.start, cursor[0] if cursor else 0))
    count = query.limit + 1
    while True:
        near = select(USAGE.c.hour).where(*_conditions(query)).order_by(USAGE.c.hour)
        last = connection.execute(near.limit(1).offset(count)).scalar()
        part = query if last is None else query._replace(end=min(query.end, last + 1))
        found = _summed(connection, part, columns, cursor)
        if last is None or len(found) > query.limit:
            return found
        count *= 4  # rows are fewer than amounts


def _summed(
    connection: Connection, query: UsageQuery, columns: Columns, cursor: list[Any] | None
) -> list[tuple[Any, ...]]:
    """Sums in their order behind the cursor: those of a page, and one more."""
    amount = cast(func.sum(USAGE.c.amount), String)  # PostgreSQL's sum is a decimal
    summed = (
        select(*(column.label(name) for name, column in columns.items()), amount.label("amount"))
        .where(*_conditions(query))
        .group_by(*columns.values())
    )
    inner = summed.subquery()
    names = [inner.c[name] for name in columns]
    asked = select(inner).order_by(*names).limit(query.limit + 1)
    if cursor is not None:
        asked = asked.where(tuple_(*names) > tuple_(*cursor))
    return [tuple(row) for row in connection.execute(asked)]


def _conditions(query: UsageQuery) -> list[ColumnElement[bool]]:
    found = [USAGE.c.hour >= query.start, USAGE.c.hour < query.end]
    for name in ("tenant", "key", "model", "version", "unit"):
        wanted = getattr(query, name)
        if wanted is not None:
            found.append(USAGE.c["key_id" if name == "key" else name] == wanted)
    return found


def _columns(by: Sequence[By], dialect: str) -> Columns:
    hour = USAGE.c.hour
    known: dict[str, ColumnElement[Any]] = {
        "tenant": USAGE.c.tenant,
        "key": USAGE.c.key_id,
        "model": USAGE.c.model,
        "version": USAGE.c.version,
        "unit": USAGE.c.unit,
    }
    if "hour" in by:
        known["time"] = hour
    elif "day" in by:
        known["time"] = hour - hour % DAY
    elif "month" in by and dialect == "postgresql":
        known["time"] = func.to_char(func.timezone("UTC", func.to_timestamp(hour)), "YYYY-MM")
    elif "month" in by:
        known["time"] = func.strftime("%Y-%m", hour, "unixepoch")
    wanted = {*by, "time", "unit"}
    return {name: known[name] for name in _ORDER if name in known and name in wanted}


def _row(names: Sequence[str], row: Sequence[Any]) -> UsageRow:
    values = dict(zip(names, row, strict=False))
    time = values.get("time")
    if isinstance(time, str):
        values["time"] = int(datetime.strptime(time, "%Y-%m").replace(tzinfo=UTC).timestamp())
    return UsageRow(**values, amount=int(row[-1]))


def _told_cursor(values: Sequence[Any]) -> str:
    text = json.dumps(list(values), separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _cursor(text: str, names: Sequence[str], by: Sequence[By]) -> list[Any]:
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        found = json.loads(base64.b64decode(padded, b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        found = None
    kinds = [_kind(name, by) for name in names]
    if not isinstance(found, list) or len(found) != len(kinds) or not all(map(_fits, found, kinds)):
        raise InvalidInput(f"after: expected what `next` told for these rows, got {text[:64]!r}")
    return found


def _kind(name: str, by: Sequence[By]) -> type:
    return int if name == "version" or (name == "time" and "month" not in by) else str


def _fits(value: Any, kind: type) -> bool:
    """Whether a column may hold a value."""
    if kind is int:
        return type(value) is int and 0 <= value < 2**31
    return isinstance(value, str) and value.isascii() and "\0" not in value
