"""The price book: rows that are added and ended, never edited, and which one counts when.

Use is kept by full hours, so a price counts from a full hour on. What is added in the middle of one
counts from the next; a price that is ended counts to the end of the hour that runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, Row, insert, or_, select, update

from aiaas_client.protocol.prices import BASE_FEE, Price, PriceRequest, PriceUnit
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.state.changes import tell
from aiaas_server.state.tenant_tables import PRICES
from aiaas_server.tenancy.money import read_amount, trimmed
from aiaas_server.tenancy.months import hour_after, hour_from, month_at
from aiaas_server.tenancy.rows import find_tenant

KIND: Final = "price"
"""Of the changes that the book makes."""


class Pool(NamedTuple):
    """Whose free units are used up together: prices that take one another's place share them."""

    tenant: str
    model: str
    unit: PriceUnit


class Book:
    """All prices at one moment; it does not change.

    Attributes:
        prices: By their numbers.
        currency: Of all of them; "" of an empty book.
    """

    def __init__(self, prices: Iterable[Price]) -> None:
        self.prices = tuple(sorted(prices, key=lambda one: one.id))
        self.currency = self.prices[0].currency if self.prices else ""
        self._ranked: dict[tuple[str, str, str], Sequence[Price]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Book) and self.prices == other.prices

    __hash__ = None  # type: ignore[assignment]  # nobody looks one up

    def find(self, tenant: str, model: str, unit: PriceUnit, hour: int) -> Price | None:
        """What counts in an hour: the tenant's own price before that of all, the nearer pattern
        before the wider one, the later before the earlier.

        Args:
            model: "" of what is no model's.
            hour: Its beginning.
        """
        asked = tenant, model, unit
        ranked = self._ranked.get(asked)
        if ranked is None:
            ranked = self._ranked[asked] = self._rank(*asked)
        for price in ranked:
            if price.valid_from <= hour and not has_ended(price, hour):
                return price
        return None

    def _rank(self, tenant: str, model: str, unit: str) -> Sequence[Price]:
        fitting = (
            one
            for one in self.prices
            if one.unit == unit and one.tenant in ("", tenant) and fits(one.model, model)
        )
        return sorted(fitting, key=_rank, reverse=True)


def has_ended(price: Price, at: float) -> bool:
    """Whether a price counts no more."""
    return price.valid_until is not None and price.valid_until <= at


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern, in which `*` is any text, is of a name.

    No expression: one of many stars could be busy for ever with a name that somebody chose for it.
    """
    first, *parts = pattern.split("*")
    if not parts:
        return pattern == name
    last, at = parts.pop(), len(first)
    end = len(name) - len(last)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for part in parts:
        at = name.find(part, at, end) + len(part)
        if at < len(part):
            return False
    return True


def pool_of(price: Price) -> Pool:
    """Where its free units are taken from."""
    return Pool(price.tenant, price.model, price.unit)


def _rank(price: Price) -> tuple[bool, bool, int, str, float, int]:
    letters = len(price.model.replace("*", ""))
    exact = "*" not in price.model
    return bool(price.tenant), exact, letters, price.model, price.valid_from, price.id


# Rows


def read_book(connection: Connection) -> Book:
    """The book as it is now."""
    return Book(price_of(row) for row in connection.execute(select(PRICES)))


def list_prices(
    connection: Connection, after: int, limit: int, *, tenant: str | None, ended: bool, now: float
) -> list[Price]:
    """Prices by their numbers.

    Args:
        after: The number behind which they begin.
        tenant: Only those that may count for it; None is all.
        ended: Those too that count no more.
    """
    asked = select(PRICES).where(PRICES.c.id > after).order_by(PRICES.c.id).limit(limit)
    if tenant is not None:
        asked = asked.where(PRICES.c.tenant.in_(("", tenant)))
    if not ended:
        until = PRICES.c.valid_until
        asked = asked.where(or_(until.is_(None), until > now))
    return [price_of(row) for row in connection.execute(asked)]


def add_price(
    connection: Connection, author: Author, asked: PriceRequest, now: float | None = None
) -> Price:
    """Add a price.

    Raises:
        InvalidInput: It can count for nothing: there is no such tenant, or its time is over.
        Conflict: The book has another currency, or such a price from the same hour on.
    """
    now = time.time() if now is None else now
    if asked.tenant and find_tenant(connection, asked.tenant) is None:
        raise InvalidInput(f"tenant: there is no tenant '{asked.tenant}'")
    if asked.unit == BASE_FEE and (asked.model != "*" or asked.per != 1 or asked.free):
        raise InvalidInput("unit 'month': a base fee has no model, no 'per' and nothing free")
    begin = hour_after(now) if asked.valid_from is None else hour_from(asked.valid_from)
    _check_time(begin, now)
    _check_fits_book(read_book(connection), asked, begin)
    values = {
        "unit": asked.unit,
        "tenant": asked.tenant,
        "model": asked.model,
        "amount": f"{trimmed(asked.amount):f}",
        "per": asked.per,
        "free": asked.free,
        "currency": asked.currency,
        "valid_from": float(begin),
        "valid_until": None,
        "created": now,
        "created_by": author.by,
    }
    key = connection.execute(insert(PRICES).values(values)).inserted_primary_key
    assert key is not None, "the database numbers them"
    tell(connection, author.tenant, KIND, f"price/{key[0]}", {"valid_from": begin})
    return _get(connection, key[0])


def end_price(
    connection: Connection, author: Author, number: int, now: float | None = None
) -> Price:
    """Have a price count no more from the next full hour on; one that has not begun, never.

    Raises:
        NotFound: There is none of this number.
        Conflict: It has been ended.
    """
    now = time.time() if now is None else now
    price = _get(connection, number)
    if price.valid_until is not None:
        raise Conflict(f"price {number} has been ended before")
    until = max(float(hour_after(now)), price.valid_from)
    connection.execute(update(PRICES).where(PRICES.c.id == number).values(valid_until=until))
    tell(connection, author.tenant, KIND, f"price/{number}", {"valid_until": until})
    return _get(connection, number)


def price_of(row: Row[tuple[object, ...]]) -> Price:
    """A row as what is told."""
    found = row._mapping
    return Price(**{**found, "amount": read_amount(found["amount"])})


def _get(connection: Connection, number: int) -> Price:
    row = connection.execute(select(PRICES).where(PRICES.c.id == number)).first()
    if row is None:
        raise NotFound(f"there is no price {number}")
    return price_of(row)


def _check_time(begin: int, now: float) -> None:
    """See that no month is touched that is over, since its statement may be out.

    Raises:
        InvalidInput: It would be.
    """
    month = month_at(now)
    if begin < month.begin:
        raise InvalidInput(
            f"valid_from: expected a time in {month} or later, got {begin}: months that are over "
            "are not charged anew"
        )


def _check_fits_book(book: Book, asked: PriceRequest, begin: int) -> None:
    if book.currency and asked.currency != book.currency:
        raise Conflict(
            f"currency: the price book is in {book.currency}, got {asked.currency}; "
            "a book has one currency"
        )
    wanted = Pool(asked.tenant, asked.model, asked.unit)
    for one in book.prices:
        if pool_of(one) == wanted and one.valid_from == begin and not has_ended(one, begin):
            raise Conflict(
                f"price {one.id} is for the same from the same hour on; end it, or let this one "
                "count from a later hour"
            )
