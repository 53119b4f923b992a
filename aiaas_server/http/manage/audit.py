"""The audit as it is asked for: entries, the check of the whole, the report of a month."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from aiaas_client.protocol.audit import AuditReport, Verification
from aiaas_client.protocol.management import Page
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_server.http.errors import bad_request
from aiaas_server.http.incoming import context_of
from aiaas_server.http.manage.requests import (
    Manage,
    author_of,
    number_after,
    page_of,
    told,
    told_page,
)
from aiaas_server.http.openapi import BYTES
from aiaas_server.tenancy.audit import Audit
from aiaas_server.tenancy.audit_head_file import read_head
from aiaas_server.tenancy.audit_read import Wanted, entries
from aiaas_server.tenancy.audit_report import bounds_of, report
from aiaas_server.tenancy.audit_verify import verify

SCOPE: Final = "audit:read"
_PART: Final = 1000  # entries that an export reads at once
_FILTERS: Final = ("actor", "act", "object", "result", "tenant", "since", "until")


class AuditRoutes:
    """`/api/v1/audit` and what is below it.

    A tenant is told of its own; the operator of all, or of one by `?tenant=`.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""
        route = manage.route
        return [
            route("/audit", self.page, "GET", SCOPE, tells=Page),
            route("/audit/export", self.export, "GET", SCOPE, tells=BYTES),
            route("/audit/report", self.report, "GET", SCOPE, tells=AuditReport),
            route("/audit/verify", self.verify, "GET", OPERATOR_SCOPE, tells=Verification),
        ]

    async def page(self, request: Request) -> Response:
        """The entries, the newest first: `?since=&until=&actor=&act=&object=&result=`.

        Times are seconds since 1970; `act=keys.*` is all that begin so.
        """
        after, limit = page_of(request)
        wanted = _wanted(request, {"after", "limit"})._replace(before=number_after(after))
        found = await self._audit.database.read(partial(entries, wanted=wanted, limit=limit))
        return told_page(found, found[-1].seq if len(found) == limit else None)

    async def export(self, request: Request) -> Response:
        """All of them as JSON lines, the newest first, with the filters of the list."""
        wanted = _wanted(request, set())
        first = await self._part(wanted)
        return StreamingResponse(self._lines(wanted, first), media_type="application/x-ndjson")

    async def verify(self, request: Request) -> Response:
        """Whether the audit is whole, and which entry was edited, removed, moved or added."""
        kept = read_head(self._audit.head_file)  # before the entries are read: they are further on
        work = partial(verify, key=self._audit.key, kept=kept)
        return told(await self._audit.database.read(work))

    async def report(self, request: Request) -> Response:
        """The periodic audit of a month: `?month=2026-11`."""
        tenant = _tenant(request)
        month = request.query_params.get("month", "")
        bounds_of(month)
        used = tuple(self._audit.used_scopes)
        work = partial(report, month=month, tenant=tenant, used=used)
        return told(await self._audit.database.read(work))

    async def _part(self, wanted: Wanted) -> list[str]:
        found = await self._audit.database.read(partial(entries, wanted=wanted, limit=_PART))
        return [one.model_dump_json() for one in found]

    async def _lines(self, wanted: Wanted, part: list[str]) -> AsyncIterator[bytes]:
        while part:
            yield ("\n".join(part) + "\n").encode()
            last = json.loads(part[-1])["seq"]
            part = [] if len(part) < _PART else await self._part(wanted._replace(before=last))


def _tenant(request: Request) -> str | None:
    """Whose entries are told; None is everyone's.

    Another tenant's name finds what no tenant's would: nothing.
    """
    asked = request.query_params.get("tenant")
    if OPERATOR_SCOPE in context_of(request).caller.identity.scopes:
        return None if asked is None else asked[:64]
    own = author_of(request).tenant
    return own if asked in (None, own) else ""


def _wanted(request: Request, more: set[str]) -> Wanted:
    given = request.query_params
    for name in given:
        if name not in _FILTERS and name not in more:
            raise bad_request(f"{name[:64]!r}: expected one of {', '.join(_FILTERS)}")
    return Wanted(
        _tenant(request),
        _time(request, "since"),
        _time(request, "until"),
        actor=given.get("actor", "")[:255],
        act=given.get("act", "")[:255],
        object=given.get("object", "")[:255],
        result=given.get("result", "")[:255],
    )


def _time(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise bad_request(f"{name}: expected seconds since 1970, got {text[:64]!r}")
    return found
