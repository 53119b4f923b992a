"""`GET /api/v1/usage`: what was used, as pages of JSON, or all of it as CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import re
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_client.protocol.usage import BY, TIMES, UNITS, By, UsagePage, UsageRow
from aiaas_server.core.errors import NotFound
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.incoming import context_of
from aiaas_server.http.manage.requests import Manage, author_of, page_of, told_page
from aiaas_server.state.database import Database
from aiaas_server.tenancy.rows import find_tenant
from aiaas_server.tenancy.usage import UsageQuery, find_usage

SCOPE: Final = "usage:read"
EVERY_TENANT: Final = "*"
_EACH: Final[tuple[By, ...]] = ("tenant", "key", "model", "version", "hour")
_KNOWN: Final = frozenset(
    ("by", "start", "end", "tenant", "key", "model", "version", "unit", "format", "after", "limit")
)
_CURSOR: Final = 2048
_LATEST: Final = 2**40  # seconds since 1970
_whole = re.compile(r"[0-9]{1,12}").fullmatch


class UsageRoutes:
    """What is asked and told of usage; a caller sees that of its own tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """The routes."""
        return [manage.route("/usage", self.usage, "GET", SCOPE, tells=UsagePage)]

    async def usage(self, request: Request) -> Response:
        """Sums by `?by=model,day`, of `?start=` to `?end=`; `?format=csv` or `jsonl` for all."""
        form = request.query_params.get("format", "json")
        if form not in ("json", "csv", "jsonl"):
            raise bad_request(f"format: expected json, csv or jsonl, got {form[:64]!r}")
        query = read_query(request, time.time())
        await self._check_tenant(query.tenant)
        if form != "json":
            return self._export(query, form)
        found = await self._database.read(lambda connection: find_usage(connection, query))
        return told_page(*found)

    async def _check_tenant(self, name: str | None) -> None:
        """A name that is misspelt has used nothing, which would be believed."""
        if name is not None and not await self._database.read(lambda c: find_tenant(c, name)):
            raise NotFound(f"there is no tenant '{name[:64]}'")

    def _export(self, query: UsageQuery, form: str) -> Response:
        kind = "text/csv; charset=utf-8" if form == "csv" else "application/x-ndjson"
        headers = {"Content-Disposition": f'attachment; filename="usage.{form}"'}
        return StreamingResponse(self._all(query, form), 200, headers, kind)

    async def _all(self, query: UsageQuery, form: str) -> AsyncIterator[bytes]:
        """Every row, a page at a time."""
        write = _csv_rows if form == "csv" else _json_lines
        if form == "csv":
            yield (",".join(UsageRow.model_fields) + "\r\n").encode()
        following: str | None = query.after
        while following is not None:
            page = query._replace(after=following)
            rows, following = await self._database.read(partial(_page, query=page))
            yield write(rows)


def _page(connection: Any, query: UsageQuery) -> tuple[list[UsageRow], str | None]:
    return find_usage(connection, query)


def read_query(request: Request, now: float) -> UsageQuery:
    """What a request asks for.

    Raises:
        HttpError: 400 for what cannot be asked; 403 for another tenant's.
    """
    given = request.query_params
    for name in given:
        if name not in _KNOWN:
            raise bad_request(f"{name[:64]!r}: usage is not asked for by that")
    by = _read_by(given.get("by"), exported=given.get("format", "json") != "json")
    tenant = _read_tenant(request, by)
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0)
    start = _read_time("start", given, int(month.timestamp()))
    end = _read_time("end", given, int(now) + 1)
    if end <= start:
        raise bad_request(
            f"end: expected a time behind start, got {given.get('end', 'now')[:64]!r}"
        )
    unit = _read_text("unit", given)
    if unit is not None and unit not in UNITS:
        raise bad_request(f"unit: expected one of {', '.join(UNITS)}, got {unit[:64]!r}")
    version = given.get("version")
    if version is not None and not (_whole(version) and int(version) < 2**31):
        raise bad_request(f"version: expected a number, got {version[:64]!r}")
    return UsageQuery(
        by,
        start,
        end,
        tenant,
        key=_read_text("key", given),
        model=_read_text("model", given),
        version=None if version is None else int(version),
        unit=unit,
        after=given.get("after", "")[:_CURSOR],
        limit=page_of(request)[1] if given.get("format", "json") == "json" else 1000,
    )


def _read_by(text: str | None, *, exported: bool) -> tuple[By, ...]:
    if text is None:
        return _EACH if exported else ()
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in BY:
            raise bad_request(f"by: expected some of {', '.join(BY)}, got {name[:64]!r}")
    if len([name for name in names if name in TIMES]) > 1:
        raise bad_request(f"by: expected one of {', '.join(TIMES)}, got {text[:64]!r}")
    return tuple(cast("By", name) for name in names)


def _read_tenant(request: Request, by: tuple[By, ...]) -> str | None:
    """Whose usage is asked for; None is everybody's."""
    own = author_of(request).tenant
    asked = request.query_params.get("tenant")
    scopes = context_of(request).caller.identity.scopes
    if OPERATOR_SCOPE in scopes or "*" in scopes:
        if asked == EVERY_TENANT or (asked is None and "tenant" in by):
            return None
        return own if asked is None else asked[:255]
    if asked not in (None, own):
        text = f"this needs a key with the scope '{OPERATOR_SCOPE}': tenant {asked[:64]!r}"
        raise HttpError(403, ErrorCode.FORBIDDEN, text)
    return own


def _read_time(name: str, given: Mapping[str, str], default: int) -> int:
    """Seconds since 1970, of a number or an ISO date; the beginning of that hour counts."""
    text = given.get(name)
    if text is None:
        return default
    if _whole(text):
        return int(text)
    try:
        found = datetime.fromisoformat(text.replace(" ", "+", 1) if "T" in text else text)
    except ValueError:
        raise bad_request(
            f"{name}: expected seconds since 1970, or a date such as 2026-11-01 or "
            f"2026-11-01T12:00:00Z, got {text[:64]!r}"
        ) from None
    aware = found.replace(tzinfo=UTC) if found.tzinfo is None else found
    seconds = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return min(max(0, seconds), _LATEST)


def _read_text(name: str, given: Mapping[str, str]) -> str | None:
    text = given.get(name)
    if text is not None and (len(text) > 255 or "\0" in text):
        raise bad_request(f"{name}: expected at most 255 characters without NUL, got {text[:64]!r}")
    return text


def _csv_rows(rows: list[UsageRow]) -> bytes:
    """Times as ISO 8601, of UTC; what was not asked for is empty."""
    page = io.StringIO()
    writer = csv.writer(page)
    for row in rows:
        values = row.model_dump()
        if row.time is not None:
            values["time"] = datetime.fromtimestamp(row.time, UTC).isoformat()
        writer.writerow([_cell(value) for value in values.values()])
    return page.getvalue().encode()


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return "" if value is None else value


def _json_lines(rows: list[UsageRow]) -> bytes:
    return b"".join(row.model_dump_json(exclude_none=True).encode() + b"\n" for row in rows)
