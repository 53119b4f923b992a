"""Statements: what a month costs. Open ones are worked out, closed ones are kept as they are.

A month is closed when it is over and all that was metered in it can have come in; from then on its
statement never changes. Use that comes in later, and what an operator corrects, are lines of the
first statement that is still open. The base fee is of a whole month: that which counts when the
month begins or, where none does, the first that comes into force in it; nothing is told by the day.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, insert, select

from aiaas_client.protocol.prices import (
    BASE_FEE,
    Price,
    Statement,
    StatementLine,
)
from aiaas_client.protocol.tenants import Tenant
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.state.changes import tell
from aiaas_server.state.tenant_tables import CORRECTIONS, STATEMENTS, USAGE
from aiaas_server.tenancy.money import (
    ZERO,
    added,
    decimals_of,
    less,
    read_amount,
    rounded,
    rounding_of,
)
from aiaas_server.tenancy.months import Month, month_at, read_month
from aiaas_server.tenancy.prices import Book, read_book
from aiaas_server.tenancy.rows import find_tenant
from aiaas_server.tenancy.tally import Tally, Used, described

KIND: Final = "statement"
"""Of the changes that statements make."""
CLOSING_LAG: Final = 3600.0
"""Seconds behind a month's end until it is closed by itself: journals come in meanwhile."""
_LOOKS_BACK: Final = 12  # months that are looked at for late use
_CATCHES_UP: Final = 24  # months that are closed at once, at most


def statement(
    connection: Connection, tenant: str, month: Month, now: float | None = None
) -> Statement:
    """A tenant's statement: as it was closed, or as it stands now.

    Raises:
        NotFound: There is no such tenant.
        InvalidInput: The month has not begun.
    """
    now = time.time() if now is None else now
    known = _known(connection, tenant)
    if month.begin > now:
        raise InvalidInput(f"month: {month} has not begun")
    return _closed(connection, tenant, month) or _worked_out(connection, known, month)


def close(
    connection: Connection,
    tenant: str,
    month: Month,
    now: float | None = None,
    *,
    lag: float = 0.0,
) -> Statement:
    """Close a month, and those before it that are open still. Whoever is second finds it closed.

    Args:
        lag: Seconds that must have passed since the month's end.
    Raises:
        NotFound: There is no such tenant.
        Conflict: The month is not over.
    """
    now = time.time() if now is None else now
    known = _known(connection, tenant)
    found = _closed(connection, tenant, month)
    if found is not None:
        return found
    if now < month.end + lag:
        raise Conflict(f"{month} is not over: a month is closed when it has ended")
    for one in _open_until(connection, known, month):
        found = _close(connection, known, one, now)
    assert found is not None, "the month itself is the last of them"
    return found


def correct(
    connection: Connection,
    author: Author,
    tenant: str,
    about: Month,
    amount: Decimal,
    reason: str,
    now: float | None = None,
) -> Statement:
    """Credit or charge by hand; gives the statement on which it is: the first that is open.

    Raises:
        NotFound: There is no such tenant.
        InvalidInput: The month has not begun, or the amount is none of the book's currency.
    """
    now = time.time() if now is None else now
    known = _known(connection, tenant)
    if about.begin > now:
        raise InvalidInput(f"month: {about} has not begun")
    currency = read_book(connection).currency
    if not currency:
        raise InvalidInput("amount: the price book is empty, so there is no currency for it")
    if rounded(amount, currency) != amount:
        most = decimals_of(currency)
        raise InvalidInput(f"amount: {currency} has {most} decimals, got {amount:f}")
    last = _last_closed(connection, tenant)
    month = about if last is None or about > last else last.next
    values = {
        "tenant": tenant,
        "about": str(about),
        "month": str(month),
        "amount": f"{rounded(amount, currency):f}",
        "reason": reason,
        "created": now,
        "created_by": author.by,
    }
    connection.execute(insert(CORRECTIONS).values(values))
    tell(connection, tenant, KIND, f"statement/{month}", {"corrects": str(about)})
    return _worked_out(connection, known, month)


def used_in(
    connection: Connection, tenants: Sequence[str], begin: int, end: int
) -> dict[str, list[Used]]:
    """Use by tenant, of the hours from `begin` up to `end`; versions are added up."""
    by = (USAGE.c.tenant, USAGE.c.hour, USAGE.c.model, USAGE.c.unit, USAGE.c.key_id)
    asked = select(*by, func.sum(USAGE.c.amount).label("amount")).group_by(*by)
    asked = asked.where(USAGE.c.hour >= begin, USAGE.c.hour < end, USAGE.c.tenant.in_(tenants))
    found: dict[str, list[Used]] = {}
    for tenant, hour, model, unit, key_id, amount in connection.execute(asked):
        found.setdefault(tenant, []).append(Used(hour, model, unit, key_id, int(amount)))
    return found


def base_fee(book: Book, tenant: str, month: Month) -> Price | None:
    """What a tenant pays for a month, whatever it uses."""
    begins = (int(one.valid_from) for one in book.prices if one.unit == BASE_FEE)
    within = (hour for hour in begins if month.begin < hour < month.end)
    for hour in (month.begin, *sorted(within)):
        found = book.find(tenant, "", BASE_FEE, hour)
        if found is not None:
            return found
    return None


# Working out


def _worked_out(connection: Connection, tenant: Tenant, month: Month) -> Statement:
    book, name = read_book(connection), tenant.name
    lines = _usage_lines(connection, book, name, month)
    fee = base_fee(book, name, month)
    if fee is not None and _pays_base(tenant, month, used=bool(lines)):
        lines.insert(0, _fee_line(fee, month))
    last = _last_closed(connection, name)
    if last is not None and month == last.next:
        lines += _late_lines(connection, book, name, last)
    lines += _corrections(connection, name, month)
    total = rounded(ZERO, book.currency)
    for line in lines:
        total = added(total, line.amount)
    return Statement(
        tenant=name,
        month=str(month),
        currency=book.currency,
        lines=tuple(lines),
        total=total,
        rounding=rounding_of(book.currency),
    )


def _usage_lines(
    connection: Connection, book: Book, tenant: str, month: Month
) -> list[StatementLine]:
    tally = Tally(book, tenant)
    tally.add_all(used_in(connection, [tenant], month.begin, month.end).get(tenant, ()))
    return tally.lines(str(month))


def _pays_base(tenant: Tenant, month: Month, *, used: bool) -> bool:
    """Whether a tenant was there in a month; of one that was erased, its use tells."""
    return used or (tenant.state != "erased" and tenant.created < month.end)


def _fee_line(fee: Price, month: Month) -> StatementLine:
    return StatementLine(
        kind="base",
        month=str(month),
        description=described("", BASE_FEE),
        unit=BASE_FEE,
        quantity=Decimal(1),
        price=fee.amount,
        amount=rounded(fee.amount, fee.currency),
        price_id=fee.id,
    )


class _Billed(NamedTuple):
    """What was told of one line so far, in however many statements."""

    quantity: Decimal = ZERO
    free: Decimal = ZERO
    amount: Decimal = ZERO

    def plus(self, line: StatementLine) -> _Billed:
        return _Billed(
            added(self.quantity, line.quantity),
            added(self.free, line.free),
            added(self.amount, line.amount),
        )

    def less(self, other: _Billed) -> _Billed:
        return _Billed(*(less(one, taken) for one, taken in zip(self, other, strict=True)))


def _late_lines(
    connection: Connection, book: Book, tenant: str, last: Month
) -> list[StatementLine]:
    """What closed months lack, since their use came in later."""
    closed = _all_closed(connection, tenant)
    late: list[StatementLine] = []
    for month in sorted(closed)[-_LOOKS_BACK:]:
        billed: dict[tuple[str, str, int | None], _Billed] = {}
        for line in _told_of(closed.values(), str(month)):
            key = line.model, line.unit, line.price_id
            billed[key] = billed.get(key, _Billed()).plus(line)
        for line in _usage_lines(connection, book, tenant, month):
            before = billed.get((line.model, line.unit, line.price_id), _Billed())
            lacks = _Billed().plus(line).less(before)
            if any(lacks):
                told = {"kind": "late", "description": f"{line.description}, late of {month}"}
                late.append(line.model_copy(update={**told, **lacks._asdict()}))
    return late


def _told_of(closed: Iterable[Statement], month: str) -> Iterable[StatementLine]:
    for one in closed:
        for line in one.lines:
            if line.month == month and line.kind in ("usage", "late"):
                yield line


def _corrections(connection: Connection, tenant: str, month: Month) -> list[StatementLine]:
    mine = (CORRECTIONS.c.tenant == tenant) & (CORRECTIONS.c.month == str(month))
    asked = select(CORRECTIONS).where(mine).order_by(CORRECTIONS.c.id)
    return [
        StatementLine(
            kind="correction",
            month=row.about,
            description=f"correction of {row.about}: {row.reason}",
            amount=read_amount(row.amount),
        )
        for row in connection.execute(asked)
    ]


# Rows


def _known(connection: Connection, tenant: str) -> Tenant:
    found = find_tenant(connection, tenant)
    if found is None:
        raise NotFound(f"there is no tenant '{tenant[:64]}'")
    return found


def _closed(connection: Connection, tenant: str, month: Month) -> Statement | None:
    mine = (STATEMENTS.c.tenant == tenant) & (STATEMENTS.c.month == str(month))
    document = connection.execute(select(STATEMENTS.c.document).where(mine)).scalar()
    return None if document is None else Statement.model_validate(document)


def _all_closed(connection: Connection, tenant: str) -> dict[Month, Statement]:
    asked = select(STATEMENTS.c.month, STATEMENTS.c.document).where(STATEMENTS.c.tenant == tenant)
    newest = asked.order_by(STATEMENTS.c.month.desc()).limit(2 * _LOOKS_BACK)
    return {
        read_month(month): Statement.model_validate(document)
        for month, document in connection.execute(newest)
    }


def _last_closed(connection: Connection, tenant: str) -> Month | None:
    asked = select(func.max(STATEMENTS.c.month)).where(STATEMENTS.c.tenant == tenant)
    found = connection.execute(asked).scalar()
    return None if found is None else read_month(found)


def _open_until(connection: Connection, tenant: Tenant, month: Month) -> list[Month]:
    """The months to be closed with one: all since the last that is, or since there is use."""
    last = _last_closed(connection, tenant.name)
    if last is not None and last >= month:  # it is older than all that was ever closed
        return [month]
    if last is None:
        asked = select(func.min(USAGE.c.hour)).where(USAGE.c.tenant == tenant.name)
        first = connection.execute(asked).scalar()
        begun = [at for at in (first, tenant.created) if at]
        begin = month_at(min(begun)) if begun else month
    else:
        begin = last.next
    earliest = Month(month.year - _CATCHES_UP // 12, month.number)
    one, found = max(min(begin, month), earliest), []
    while one <= month:
        found.append(one)
        one = one.next
    return found


def _close(connection: Connection, tenant: Tenant, month: Month, now: float) -> Statement:
    made = _worked_out(connection, tenant, month)
    made = made.model_copy(update={"state": "closed", "closed": now})
    values = {
        "tenant": tenant.name,
        "month": str(month),
        "document": made.model_dump(mode="json"),
        "closed": now,
    }
    connection.execute(insert(STATEMENTS).values(values))
    told = {"state": "closed", "total": f"{made.total:f}", "currency": made.currency}
    tell(connection, tenant.name, KIND, f"statement/{month}", told)
    return made
