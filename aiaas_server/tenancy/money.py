"""Money: exact decimals, rounded once, half to even, to the smallest coin of a currency."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final, NamedTuple

from aiaas_client.protocol.prices import PriceUnit

EXACT: Final = Context(prec=80, rounding=ROUND_HALF_EVEN)
"""Of all arithmetic. A product of an amount of 24 digits and a quantity of 19 fits into it whole; a
quotient is cut so far out that what looks like the middle between two coins is it."""
ZERO: Final = Decimal(0)
_READABLE: Final = Decimal("1e-9")  # of quantities, as they are told
_TOLD_COST: Final = Decimal("1e-12")  # of what one answer costs
GIB: Final = 1 << 30
MONTH_SECONDS: Final = 730 * 3600
"""Of a month of storage, whichever month it is: a year's hours in twelve."""

_NO_DECIMALS: Final = frozenset(
    (
        *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW"),
        *("PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"),
    )
)
_THREE_DECIMALS: Final = frozenset(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"])


class Metered(NamedTuple):
    """What is counted for a unit that has a price.

    Attributes:
        unit: Of table `usage`.
        factor: So many of these are one unit of the price.
    """

    unit: str
    factor: int


METERED: Final[dict[PriceUnit, Metered]] = {
    "requests": Metered("requests", 1),
    "cache_hits": Metered("cache_hits", 1),
    "rows": Metered("rows", 1),
    "compute_seconds": Metered("compute_us", 1_000_000),
    "gib_in": Metered("bytes_in", GIB),
    "gib_out": Metered("bytes_out", GIB),
    "tokens_in": Metered("tokens_in", 1),
    "tokens_out": Metered("tokens_out", 1),
    "gib_months": Metered("stored_byte_seconds", GIB * MONTH_SECONDS),
    "job_hours": Metered("job_us", 3_600_000_000),
}
UNIT_OF: Final[dict[str, PriceUnit]] = {one.unit: unit for unit, one in METERED.items()}


def decimals_of(currency: str) -> int:
    """How many decimals a currency has; two where ISO 4217 says nothing else."""
    if currency in _NO_DECIMALS:
        return 0
    return 3 if currency in _THREE_DECIMALS else 2


def rounded(amount: Decimal, currency: str) -> Decimal:
    """To the smallest coin, half to even."""
    return amount.quantize(Decimal(1).scaleb(-decimals_of(currency)), context=EXACT)


def rounding_of(currency: str) -> str:
    """How amounts are rounded, in words for a statement."""
    if not currency:
        return ""
    return (
        f"Each line is rounded once, half to even, to {decimals_of(currency)} decimals of "
        f"{currency}; the total is the sum of the lines."
    )


def cost_of(raw: int, factor: int, amount: Decimal, per: int) -> Decimal:
    """What `raw` metered units cost, not rounded."""
    return EXACT.divide(EXACT.multiply(Decimal(raw), amount), Decimal(factor * per))


def added(one: Decimal, other: Decimal) -> Decimal:
    """The sum, exact."""
    return EXACT.add(one, other)


def less(one: Decimal, other: Decimal) -> Decimal:
    """The difference, exact."""
    return EXACT.subtract(one, other)


def quantity_of(raw: int, factor: int) -> Decimal:
    """Metered units as a statement tells them: in units of the price, at most 9 decimals."""
    return trimmed(EXACT.divide(Decimal(raw), Decimal(factor)).quantize(_READABLE, context=EXACT))


def told_cost(cost: Decimal) -> str:
    """What one answer costs, at most 12 decimals."""
    return f"{cost.quantize(_TOLD_COST, context=EXACT):f}".rstrip("0").rstrip(".")


def trimmed(value: Decimal) -> Decimal:
    """Without zeros at the end, and without an exponent."""
    whole = value.to_integral_value(context=EXACT)
    return whole.quantize(Decimal(1), context=EXACT) if whole == value else value.normalize(EXACT)


def read_amount(text: str) -> Decimal:
    """An amount as the database keeps it.

    Raises:
        ValueError: It is none.
    """
    try:
        found = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"an amount of money: expected a decimal, got {text[:64]!r}") from None
    if not found.is_finite():
        raise ValueError(f"an amount of money: expected a decimal, got {text[:64]!r}")
    return found
