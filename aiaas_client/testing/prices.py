"""The price book and the statements of a fake server, in memory.

It keeps prices as a server does, but meters nothing: the lines of its statements are those that a
test gives it. Whoever calls is the operator.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from aiaas_client.protocol.prices import (
    MONTH,
    CorrectionRequest,
    Price,
    PriceRequest,
    Statement,
    StatementLine,
)
from aiaas_client.protocol.tenants import OPERATOR_TENANT
from aiaas_client.testing.answers import asked, page, told, wrong_method
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.rows import BY
from aiaas_client.testing.state import Answer, RecordedRequest

_HOUR = 3600
_month = re.compile(MONTH).fullmatch


class FakePrices:
    """What use of a fake server costs; `server.prices`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._prices: dict[int, Price] = {}
        self._lines: dict[tuple[str, str], list[StatementLine]] = {}
        self._closed: dict[tuple[str, str], Statement] = {}

    # For tests

    def bill(self, month: str, line: StatementLine, tenant: str = OPERATOR_TENANT) -> None:
        """Put a line on the statement of a month; on a closed one it changes nothing."""
        with self._lock:
            self._lines.setdefault((tenant, month), []).append(line)

    # Routes

    def answer(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        """Answer one request; `rest` is its path behind `/api/v1`."""
        with self._lock:
            match request.method, rest:
                case "GET", ["prices"]:
                    return page(request, self._counting(request), "id")
                case "POST", ["prices"]:
                    return told(self._add(asked(request, PriceRequest)), 201)
                case "DELETE", ["prices", number]:
                    return told(self._end(number))
                case "GET", ["statements", month]:
                    return told(self._statement(_tenant(request), month))
                case "POST", ["statements", month, "close"]:
                    return told(self._close(_tenant(request), month))
                case "POST", ["statements", month, "corrections"]:
                    return told(self._correct(month, asked(request, CorrectionRequest)), 201)
        raise wrong_method()

    def _counting(self, request: RecordedRequest) -> list[Price]:
        tenant, ended = request.query.get("tenant"), request.query.get("ended") == "true"
        return [
            one
            for one in self._prices.values()
            if (tenant is None or one.tenant in ("", tenant))
            and (ended or one.valid_until is None or one.valid_until > time.time())
        ]

    def _add(self, request: PriceRequest) -> Price:
        for one in self._prices.values():
            if one.currency != request.currency:
                text = f"currency: the price book is in {one.currency}, got {request.currency}"
                raise FakeError(409, text, code="conflict")
        now = time.time()
        given = request.valid_from
        begin = _next_hour(now) if given is None else -(-given // _HOUR) * _HOUR
        members: dict[str, Any] = {**request.model_dump(), "valid_from": begin}
        made = Price(id=len(self._prices) + 1, **members, created=now, created_by=BY)
        self._prices[made.id] = made
        return made

    def _end(self, number: str) -> Price:
        found = self._prices.get(int(number)) if number.isdigit() else None
        if found is None:
            raise FakeError(404, f"there is no price '{number}'")
        if found.valid_until is not None:
            raise FakeError(409, f"price {number} has been ended before", code="conflict")
        until = max(_next_hour(time.time()), found.valid_from)
        self._prices[found.id] = ended = found.model_copy(update={"valid_until": until})
        return ended

    def _statement(self, tenant: str, month: str) -> Statement:
        if not _month(month):
            raise FakeError(400, f"month: expected one such as 2026-11, got {month!r}")
        if month > _now():
            raise FakeError(400, f"month: {month} has not begun")
        closed = self._closed.get((tenant, month))
        if closed is not None:
            return closed
        lines = tuple(self._lines.get((tenant, month), ()))
        total = sum((line.amount for line in lines), Decimal(0))
        currency = next((one.currency for one in self._prices.values()), "")
        return Statement(tenant=tenant, month=month, currency=currency, lines=lines, total=total)

    def _close(self, tenant: str, month: str) -> Statement:
        found = self._statement(tenant, month)
        if found.state == "open":
            if month == _now():
                text = f"{month} is not over: a month is closed when it has ended"
                raise FakeError(409, text, code="conflict")
            found = found.model_copy(update={"state": "closed", "closed": time.time()})
            self._closed[tenant, month] = found
        return found

    def _correct(self, month: str, request: CorrectionRequest) -> Statement:
        self._statement(request.tenant, month)
        line = StatementLine(
            kind="correction",
            month=month,
            description=f"correction of {month}: {request.reason}",
            amount=request.amount,
        )
        open_month = month if (request.tenant, month) not in self._closed else _now()
        self.bill(open_month, line, request.tenant)
        return self._statement(request.tenant, open_month)


def _tenant(request: RecordedRequest) -> str:
    return request.query.get("tenant", OPERATOR_TENANT)


def _now() -> str:
    return time.strftime("%Y-%m", time.gmtime())


def _next_hour(now: float) -> float:
    return (now // _HOUR + 1) * _HOUR
