"""What use costs: the price book, and statements made of it.

Source: `docs/tenants.md`. Money is decimal text, such as `"0.25"`, and never a float. Times are
seconds since 1970; months and hours are those of UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from aiaas_client.protocol.documents import Asked, Told
from aiaas_client.protocol.tenants import TENANT_NAME

PriceUnit = Literal[
    "requests",
    "cache_hits",
    "rows",
    "compute_seconds",
    "gib_in",
    "gib_out",
    "tokens_in",
    "tokens_out",
    "gib_months",
    "job_hours",
    "month",
]
"""What a price is for. A `gib_months` is a GiB that is kept for 730 hours; a `month` is the base
fee of a whole calendar month."""
BASE_FEE: Final = "month"
MONTH: Final = r"[0-9]{4}-(0[1-9]|1[0-2])"
"""A month of UTC, `2026-11`."""


def _exact(value: object) -> object:
    """Refuse what has been through binary fractions."""
    if isinstance(value, float):
        raise ValueError('expected decimal text such as "0.25": a float is no exact amount')
    return value


Exact = Annotated[Decimal, BeforeValidator(_exact)]
Digits = Annotated[Exact, Field(allow_inf_nan=False, max_digits=24, decimal_places=12)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
ModelPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._*-]{1,255}$")]


class PriceRequest(Asked):
    """A price to be added to the book.

    Attributes:
        unit: What it is for.
        amount: For `per` units, at most 12 digits on either side of the point.
        currency: ISO 4217, such as `EUR`; one for the whole book.
        per: So many units; 1,000 rows, a million tokens.
        model: A name, or a pattern in which `*` stands for any text.
        tenant: For this one only; empty is all.
        free: Units that cost nothing, each month and tenant.
        valid_from: Rounded up to the full hour; by default the next one. May be in the past as far
            as the current month goes back: what was used since then is charged anew.
    """

    unit: PriceUnit
    amount: Annotated[Digits, Field(ge=0)]
    currency: Currency
    per: Annotated[int, Field(ge=1, le=10**12)] = 1
    model: ModelPattern = "*"
    tenant: Annotated[str, StringConstraints(pattern=rf"^({TENANT_NAME})?$")] = ""
    free: Annotated[int, Field(ge=0, le=10**15)] = 0
    valid_from: Annotated[float, Field(ge=0, le=253402300799, allow_inf_nan=False)] | None = None


class Price(Told):
    """One price of the book. It is never edited: a later one takes its place.

    Attributes:
        valid_from: The full hour from which it counts.
        valid_until: The full hour from which it counts no more; null where nobody has ended it.
        created_by: Whose key has added it.
    """

    shown: ClassVar[tuple[str, ...]] = (
        *("id", "unit", "amount", "per", "currency", "model", "tenant", "free"),
    )

    id: int
    unit: PriceUnit
    amount: Decimal
    currency: str
    per: int = 1
    model: str = "*"
    tenant: str = ""
    free: int = 0
    valid_from: float = 0.0
    valid_until: float | None = None
    created: float = 0.0
    created_by: str = ""


class CorrectionRequest(Asked):
    """A credit or a charge by hand.

    Attributes:
        amount: Less than zero is a credit. Of no more decimals than the currency has.
        reason: Told on the statement.
        tenant: Whose statement.
    """

    amount: Digits
    reason: Annotated[str, StringConstraints(min_length=1, max_length=255, strip_whitespace=True)]
    tenant: Annotated[str, StringConstraints(pattern=rf"^{TENANT_NAME}$")]


LineKind = Literal["usage", "base", "late", "correction"]


class StatementLine(Told):
    """One line of a statement.

    Attributes:
        kind: `late` is use that came in after its month was closed, `correction` was made by hand.
        month: The month that it is about.
        description: What it is for, in words.
        quantity: In `unit`, free ones included; told with 9 decimals, priced exactly.
        free: Of these, the ones that cost nothing.
        price: For `per` units.
        amount: Rounded once, here, half to even, to the smallest coin of the currency.
        price_id: Which price of the book; null of what was made by hand.
    """

    kind: LineKind = "usage"
    month: str
    description: str = ""
    model: str = ""
    unit: str = ""
    quantity: Decimal = Decimal(0)
    free: Decimal = Decimal(0)
    price: Decimal | None = None
    per: int = 1
    amount: Decimal
    price_id: int | None = None


class Statement(Told):
    """What a tenant's month costs.

    Attributes:
        state: An open one is worked out anew whenever it is asked for; a closed one never changes.
        lines: What it is made of.
        total: Their sum.
        rounding: How amounts were rounded, in words.
        closed: When it was.
    """

    shown: ClassVar[tuple[str, ...]] = ("tenant", "month", "state", "total", "currency")

    tenant: str
    month: str
    currency: str = ""
    state: Literal["open", "closed"] = "open"
    lines: tuple[StatementLine, ...] = ()
    total: Decimal = Decimal(0)
    rounding: str = ""
    closed: float | None = None

    def to_frame(self) -> Any:
        """The lines as a pandas frame; money stays `Decimal`.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        from importlib import import_module

        pandas: Any = import_module("pandas")
        names = list(StatementLine.model_fields)
        return pandas.DataFrame(
            [[getattr(one, name) for name in names] for one in self.lines], columns=names
        )

    def __str__(self) -> str:
        """A table of plain text."""
        rows = [_HEADS, *(self._cells(line) for line in self.lines)]
        rows.append(("total", "", "", "", "", plain(self.total)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
        head = (
            f"Statement of '{self.tenant}' for {self.month}, {self.state}, {self.currency or '-'}"
        )
        return "\n".join([head, *(_line(row, widths) for row in rows), self.rounding]).rstrip()

    def _repr_html_(self) -> str:
        """The same, for notebooks."""
        heads = "".join(f"<th>{escape(head)}</th>" for head in _HEADS)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in self._cells(line)) + "</tr>"
            for line in self.lines
        )
        caption = escape(f"{self.tenant}, {self.month}, {self.state}")
        total = escape(f"{plain(self.total)} {self.currency}")
        return (
            f"<table><caption>{caption}</caption><tr>{heads}</tr>{rows}"
            f"<tr><th colspan=5>total</th><th>{total}</th></tr></table>"
        )

    def _cells(self, line: StatementLine) -> tuple[str, ...]:
        price = "" if line.price is None else plain(line.price)
        each = f"{price} / {line.per:,}" if price and line.per != 1 else price
        by_hand = line.kind == "correction"
        quantity = "" if by_hand else plain(line.quantity)
        free = plain(line.free) if line.free else ""
        return line.description, line.unit, quantity, free, each, plain(line.amount)


_HEADS: Final = ("description", "unit", "quantity", "free", "price", "amount")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join([*words, *numbers])


def plain(value: Decimal) -> str:
    """A decimal as people write it: no exponent."""
    return f"{value:f}"
