"""What one tenant's month costs: use is added in the order of time, and becomes lines.

Whole metered units are kept for each line, and priced once at its end. So it does not matter in how
many pieces the use of an hour comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final, NamedTuple, get_args

from aiaas_client.protocol.prices import Price, PriceUnit, StatementLine
from aiaas_server.tenancy.money import (
    METERED,
    UNIT_OF,
    ZERO,
    added,
    cost_of,
    quantity_of,
    rounded,
)
from aiaas_server.tenancy.prices import Book, Pool, pool_of

_ORDER: Final = {unit: place for place, unit in enumerate(get_args(PriceUnit))}
_WORDS: Final[dict[str, str]] = {
    "requests": "requests",
    "cache_hits": "answers from the cache",
    "rows": "rows",
    "compute_seconds": "compute seconds",
    "gib_in": "GiB received",
    "gib_out": "GiB sent",
    "tokens_in": "tokens read",
    "tokens_out": "tokens written",
    "gib_months": "GiB-months stored",
    "job_hours": "hours of jobs",
    "month": "base fee",
}


class Used(NamedTuple):
    """Use of one hour, as table `usage` counts it.

    Attributes:
        hour: Its beginning.
        amount: In metered units.
    """

    hour: int
    model: str
    unit: str
    key_id: str
    amount: int


class _Key(NamedTuple):
    model: str
    price: int


class Tally:
    """Adds up one tenant's month.

    Attributes:
        cost: Of all that was added, not rounded.
        by_key: The same by the key that was used, for those of `watched`.
    """

    def __init__(self, book: Book, tenant: str, watched: Iterable[str] = ()) -> None:
        self.book = book
        self.cost = ZERO
        self.by_key = dict.fromkeys(watched, ZERO)
        self._tenant = tenant
        self._taken: dict[Pool, int] = {}
        self._lines: dict[_Key, tuple[Price, int, int]] = {}

    def copy(self) -> Tally:
        """One that goes on from here."""
        other = Tally(self.book, self._tenant)
        other.cost, other.by_key = self.cost, dict(self.by_key)
        other._taken, other._lines = dict(self._taken), dict(self._lines)
        return other

    def add_all(self, used: Iterable[Used]) -> None:
        """Add much, in the order of time."""
        for one in sorted(used):
            self.add(*one)

    def add(self, hour: int, model: str, unit: str, key_id: str, amount: int) -> Decimal:
        """Add use of an hour that is no earlier than what was added before; gives its cost."""
        priced = UNIT_OF.get(unit)
        price = None if priced is None else self.book.find(self._tenant, model, priced, hour)
        if priced is None or price is None:
            return ZERO
        factor = METERED[priced].factor
        free = self._take_free(price, amount, factor) if price.free else 0
        key = _Key(model, price.id)
        _, raw, gratis = self._lines.get(key, (price, 0, 0))
        self._lines[key] = price, raw + amount, gratis + free
        cost = cost_of(amount - free, factor, price.amount, price.per)
        self.cost = added(self.cost, cost)
        if key_id in self.by_key:
            self.by_key[key_id] = added(self.by_key[key_id], cost)
        return cost

    def _take_free(self, price: Price, amount: int, factor: int) -> int:
        """How many of `amount` metered units are free; they are used up from now on."""
        pool = pool_of(price)
        taken = self._taken.get(pool, 0)
        free = min(max(price.free * factor - taken, 0), amount)
        self._taken[pool] = taken + free
        return free

    def lines(self, month: str) -> list[StatementLine]:
        """A line for each model, unit and price, rounded."""
        found = sorted(self._lines.items(), key=lambda one: _place(one[0].model, one[1][0]))
        return [_line(month, key.model, *counted) for key, counted in found]


def _place(model: str, price: Price) -> tuple[str, int, float, int]:
    return model, _ORDER[price.unit], price.valid_from, price.id


def _line(month: str, model: str, price: Price, raw: int, free: int) -> StatementLine:
    factor = METERED[price.unit].factor
    cost = cost_of(raw - free, factor, price.amount, price.per)
    return StatementLine(
        month=month,
        description=described(model, price.unit),
        model=model,
        unit=price.unit,
        quantity=quantity_of(raw, factor),
        free=quantity_of(free, factor),
        price=price.amount,
        per=price.per,
        amount=rounded(cost, price.currency),
        price_id=price.id,
    )


def described(model: str, unit: str) -> str:
    """What a line is for, in words."""
    return f"{model}: {_WORDS[unit]}" if model else _WORDS[unit]
