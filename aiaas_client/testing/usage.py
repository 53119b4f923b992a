"""Usage of a fake server: what a test says was used, summed up as a server does."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.protocol.usage import BY, TIMES, UNITS, UsageRow
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.state import Answer, RecordedRequest

_ORDER = ("time", "tenant", "key", "model", "version", "unit")


class FakeUsage:
    """What was used; nothing until a test adds something.

    Attributes:
        rows: By hours.
    """

    def __init__(self) -> None:
        self.rows: list[UsageRow] = []

    def add(
        self,
        model: str = "",
        *,
        at: float | None = None,
        tenant: str = "default",
        key: str = "",
        version: int = 1,
        **amounts: int,
    ) -> None:
        """Have something used: `add("m", requests=3, rows=12)`.

        Args:
            at: When, seconds since 1970; by default now.
            amounts: By unit.
        Raises:
            ValueError: There is no such unit.
        """
        hour = int(time.time() if at is None else at) // 3600 * 3600
        for unit, amount in amounts.items():
            if unit not in UNITS:
                raise ValueError(f"unit: expected one of {', '.join(UNITS)}, got {unit!r}")
            self.rows.append(
                UsageRow(
                    tenant=tenant,
                    key=key,
                    model=model,
                    version=version,
                    time=hour,
                    unit=unit,
                    amount=amount,
                )
            )

    def answer(self, request: RecordedRequest) -> Answer:
        """Answer `GET /api/v1/usage`."""
        form = request.query.get("format", "json")
        rows = self._summed(request, exported=form != "json")
        if form == "csv":
            return Answer(200, _csv(rows), [("Content-Type", "text/csv; charset=utf-8")])
        if form == "jsonl":
            lines = "".join(row.model_dump_json(exclude_none=True) + "\n" for row in rows)
            return Answer(200, lines.encode(), [("Content-Type", "application/x-ndjson")])
        begin = int(request.query.get("after", "0"))
        end = begin + int(request.query.get("limit", "100"))
        part = [row.model_dump(mode="json") for row in rows[begin:end]]
        document = {"items": part, "next": str(end) if end < len(rows) else None}
        headers = [("Content-Type", "application/json")]
        return Answer(200, PYDANTIC_JSON.dumps(document), headers)

    def _summed(self, request: RecordedRequest, *, exported: bool) -> list[UsageRow]:
        query = request.query
        default = "tenant,key,model,version,hour" if exported else ""
        by = [name for name in query.get("by", default).split(",") if name]
        if unknown := [name for name in by if name not in BY]:
            raise FakeError(400, f"by: expected some of {', '.join(BY)}, got {unknown[0]!r}")
        start, end = int(query.get("start", "0")), int(query.get("end", "99999999999"))
        sums: dict[UsageRow, int] = {}
        for row in self.rows:
            wanted = all(str(getattr(row, n)) == query[n] for n in _ORDER[1:] if n in query)
            if wanted and start <= (row.time or 0) < end:
                group = _group(row, by)
                sums[group] = sums.get(group, 0) + row.amount
        found = [group.model_copy(update={"amount": amount}) for group, amount in sums.items()]
        return sorted(found, key=lambda row: [str(getattr(row, name)) for name in _ORDER])


def _group(row: UsageRow, by: Sequence[str]) -> UsageRow:
    """What a row is added to: what is not asked by is left out."""
    kept = {name: getattr(row, name) for name in ("tenant", "key", "model", "version")}
    times = [name for name in by if name in TIMES]
    begin = datetime.fromtimestamp(row.time or 0, UTC)
    if times and times[0] != "hour":
        begin = begin.replace(hour=0)
    if times and times[0] == "month":
        begin = begin.replace(day=1)
    left: dict[str, Any] = {name: value if name in by else None for name, value in kept.items()}
    return UsageRow(**left, time=int(begin.timestamp()) if times else None, unit=row.unit)


def _csv(rows: Sequence[UsageRow]) -> bytes:
    page = io.StringIO()
    writer = csv.writer(page)
    writer.writerow(UsageRow.model_fields)
    for row in rows:
        values = row.model_dump()
        if row.time is not None:
            values["time"] = datetime.fromtimestamp(row.time, UTC).isoformat()
        writer.writerow(["" if value is None else value for value in values.values()])
    return page.getvalue().encode()
