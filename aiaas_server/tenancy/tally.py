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
    EXACT,
    METERED,
    UNIT_OF,
    ZERO,
    cost_of,
    quantity_of,
    rounded,
)
from aiaas_server.tenancy.prices import Book, Pool, pool_of

# Of the cost as it comes, which limits are held against; lines are exact.
_multiply: Final = EXACT.multiply
_add: Final = EXACT.add
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


class _Pool:
    """How many metered units of a pool are used up."""

    __slots__ = ("taken",)

    def __init__(self, taken: int = 0) -> None:
        self.taken = taken


class _Line:
    """What is added up for one model at one price.

    Attributes:
        raw: Metered units; `free` of them cost nothing.
        limit: Metered units that are free in a month, of the whole pool.
        rate: What one metered unit costs, for the cost as it comes; lines divide once, at the end.
    """

    __slots__ = ("free", "limit", "pool", "price", "rate", "raw")

    def __init__(self, price: Price, pool: _Pool) -> None:
        factor = METERED[price.unit].factor
        self.price, self.pool = price, pool
        self.raw = self.free = 0
        self.limit = price.free * factor
        self.rate = cost_of(1, factor, price.amount, price.per)

    def copy(self, pool: _Pool) -> _Line:
        """One that goes on from here."""
        other = _Line.__new__(_Line)
        other.price, other.pool, other.rate, other.limit = self.price, pool, self.rate, self.limit
        other.raw, other.free = self.raw, self.free
        return other

    def take_free(self, amount: int) -> int:
        """How many of `amount` metered units are free; they are used up from now on."""
        free = min(max(self.limit - self.pool.taken, 0), amount)
        self.pool.taken += free
        self.free += free
        return free


class Tally:
    """Adds up one tenant's month.

    Attributes:
        cost: Of all that was added, not rounded.
        by_key: The same by the key that was used, for those that are watched.
    """

    def __init__(self, book: Book, tenant: str, watched: Iterable[str] = ()) -> None:
        self.book = book
        self.cost = ZERO
        self.by_key = dict.fromkeys(watched, ZERO)
        self._tenant = tenant
        self._pools: dict[Pool, _Pool] = {}
        self._lines: dict[tuple[str, int], _Line] = {}  # by model and price
        self._hour = -1
        self._in_hour: dict[tuple[str, str], _Line | None] = {}  # by model and metered unit

    def copy(self) -> Tally:
        """One that goes on from here."""
        other = Tally(self.book, self._tenant)
        other.cost, other.by_key = self.cost, dict(self.by_key)
        pools = other._pools = {key: _Pool(pool.taken) for key, pool in self._pools.items()}
        other._lines = {
            key: line.copy(pools[pool_of(line.price)]) for key, line in self._lines.items()
        }
        return other

    def add_all(self, used: Iterable[Used]) -> None:
        """Add much, in the order of time."""
        for one in sorted(used):
            self.add(*one)

    def add(self, hour: int, model: str, unit: str, key_id: str, amount: int) -> Decimal:
        """Add use of an hour that is no earlier than what was added before; gives its cost."""
        if hour != self._hour:
            self._hour, self._in_hour = hour, {}
        try:
            line = self._in_hour[model, unit]
        except KeyError:
            line = self._in_hour[model, unit] = self._find(hour, model, unit)
        if line is None:
            return ZERO
        line.raw += amount
        if line.limit:
            amount -= line.take_free(amount)
        cost = _multiply(line.rate, Decimal(amount))
        self.cost = _add(self.cost, cost)
        if key_id in self.by_key:
            self.by_key[key_id] = _add(self.by_key[key_id], cost)
        return cost

    def _find(self, hour: int, model: str, unit: str) -> _Line | None:
        """The line on which use of an hour belongs; None where it has no price."""
        priced = UNIT_OF.get(unit)
        price = None if priced is None else self.book.find(self._tenant, model, priced, hour)
        if price is None:
            return None
        key = model, price.id
        line = self._lines.get(key)
        if line is None:
            pool = self._pools.setdefault(pool_of(price), _Pool())
            line = self._lines[key] = _Line(price, pool)
        return line

    def lines(self, month: str) -> list[StatementLine]:
        """A line for each model, unit and price, rounded."""
        found = sorted(self._lines.items(), key=lambda one: _place(one[0][0], one[1].price))
        return [_line(month, model, line.price, line.raw, line.free) for (model, _), line in found]


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
