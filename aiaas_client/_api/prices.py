"""What to send to `/api/v1/prices` and `/api/v1/statements`, and how to read the answers."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call
from aiaas_client._api.documents import document_call, made, page_call
from aiaas_client._api.management import PAGE_ITEMS, ROOT, Part

if TYPE_CHECKING:
    from decimal import Decimal

    from aiaas_client.protocol.prices import Price, Statement

    Amount = Decimal | str | int
    """Money: a `Decimal`, its text, or a whole number; a float is no exact amount."""

PRICES = f"{ROOT}/prices"
_PRICE, _STATEMENT = "prices.Price", "prices.Statement"


def prices(
    tenant: str | None, ended: bool, after: str | None = None, limit: int = PAGE_ITEMS
) -> Call[Part]:
    """`GET /api/v1/prices`: by their numbers."""
    query = {"tenant": tenant, "ended": "true" if ended else None}
    return page_call(_PRICE, PRICES, after, limit, query)


def add_price(
    unit: str, amount: Amount, valid_from: datetime | float | None, **members: Any
) -> Call[Price]:
    """`POST /api/v1/prices`.

    Raises:
        InputError: one that it cannot have.
    """
    given = {name: value for name, value in members.items() if value is not None}
    if valid_from is not None:
        given["valid_from"] = seconds_of(valid_from)
    body = made("prices.PriceRequest", {"unit": unit, "amount": amount, **given})
    return document_call("POST", _PRICE, PRICES, body=body)


def end_price(price: int | Price) -> Call[Price]:
    """`DELETE /api/v1/prices/{id}`."""
    number = price if isinstance(price, int) else price.id
    return document_call("DELETE", _PRICE, f"{PRICES}/{number:d}")


def statement(month: str | date | None, tenant: str | None) -> Call[Statement]:
    """`GET /api/v1/statements/{month}`.

    Raises:
        InputError: it is no month.
    """
    return document_call("GET", _STATEMENT, _month_path(month), query={"tenant": tenant})


def close_statement(month: str | date, tenant: str | None) -> Call[Statement]:
    """`POST /api/v1/statements/{month}/close`.

    Raises:
        InputError: it is no month.
    """
    path = _month_path(month, "/close")
    return document_call("POST", _STATEMENT, path, query={"tenant": tenant})


def correct_statement(
    month: str | date, amount: Amount, reason: str, tenant: str
) -> Call[Statement]:
    """`POST /api/v1/statements/{month}/corrections`.

    Raises:
        InputError: it is no month, or no correction.
    """
    members = {"amount": amount, "reason": reason, "tenant": tenant}
    body = made("prices.CorrectionRequest", members)
    return document_call("POST", _STATEMENT, _month_path(month, "/corrections"), body=body)


def month_text(month: str | date | None) -> str:
    """A month as a path has it; None is the one that it is now, in UTC.

    Raises:
        InputError: it is none.
    """
    from aiaas_client.protocol.prices import MONTH

    if month is None:
        month = datetime.now(UTC)
    text = month.strftime("%Y-%m") if isinstance(month, date) else str(month)
    if re.fullmatch(MONTH, text) is None:
        raise errors.InputError(f"month: expected one such as '2026-11', got {text[:64]!r}")
    return text


def seconds_of(moment: datetime | float) -> float:
    """Seconds since 1970.

    Raises:
        InputError: it is a time without a zone.
    """
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        raise errors.InputError(
            f"valid_from: expected a time with its zone, such as datetime(…, tzinfo=UTC), "
            f"got {moment.isoformat()}"
        )
    return moment.timestamp()


def _month_path(month: str | date | None, suffix: str = "") -> str:
    return f"{ROOT}/statements/{month_text(month)}{suffix}"
