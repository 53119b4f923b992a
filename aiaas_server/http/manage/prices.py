"""Routes of what use costs: the price book, and statements."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.prices import CorrectionRequest, Price, PriceRequest, Statement
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_server.core.errors import NotFound
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.incoming import context_of
from aiaas_server.http.manage.requests import (
    Manage,
    author_of,
    number_after,
    page_of,
    read_asked,
    told,
    told_page,
)
from aiaas_server.settings import Settings
from aiaas_server.state.database import Connection, Database
from aiaas_server.tenancy.months import read_month
from aiaas_server.tenancy.prices import add_price, end_price, list_prices
from aiaas_server.tenancy.statements import close, correct, statement

USAGE = "usage:read"
_PRICE, _STATEMENT = "/prices/{price}", "/statements/{month}"


class PriceRoutes:
    """What is asked and told of prices and statements."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """The routes."""
        operator = OPERATOR_SCOPE
        return [
            manage.route("/prices", self.prices, "GET", USAGE, tells=Price),
            manage.route("/prices", self.add, "POST", operator, asks=PriceRequest, tells=Price),
            manage.route(_PRICE, self.end, "DELETE", operator, tells=Price),
            manage.route(_STATEMENT, self.statement, "GET", USAGE, tells=Statement),
            manage.route(_STATEMENT + "/close", self.close, "POST", operator, tells=Statement),
            manage.route(
                _STATEMENT + "/corrections",
                self.correct,
                "POST",
                operator,
                asks=CorrectionRequest,
                tells=Statement,
            ),
        ]

    async def prices(self, request: Request) -> Response:
        """The prices that may count for the caller, by their numbers; all of them for the operator.

        `?tenant=` asks for those of one tenant, `?ended=true` for those too that count no more.
        """
        after, limit = page_of(request)
        tenant = _tenant_of(request, default=None if _is_operator(request) else "")
        begin, ended = number_after(after) or 0, _ended(request)

        def read(connection: Connection) -> list[Price]:
            more, now = limit + 1, time.time()
            return list_prices(connection, begin, more, tenant=tenant, ended=ended, now=now)

        found = await self._database.read(read)
        following = found[limit - 1].id if len(found) > limit else None
        return told_page(found[:limit], following)

    async def add(self, request: Request) -> Response:
        """Add a price; it counts from a full hour on, by default the next."""
        asked = await read_asked(request, PriceRequest, self._settings)
        author = author_of(request)
        return told(await self._database.write(lambda c: add_price(c, author, asked)), 201)

    async def end(self, request: Request) -> Response:
        """Have a price count no more from the next full hour on."""
        text, author = request.path_params["price"], author_of(request)
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise NotFound(f"there is no price '{text[:64]}'")
        return told(await self._database.write(lambda c: end_price(c, author, int(text))))

    async def statement(self, request: Request) -> Response:
        """A month's statement, closed or as it stands now; `?tenant=` is the operator's to ask."""
        month, tenant = read_month(request.path_params["month"]), _one_tenant(request)
        return told(await self._database.read(lambda c: statement(c, tenant, month)))

    async def close(self, request: Request) -> Response:
        """Close a month that is over, for the caller's tenant or that of `?tenant=`."""
        month, tenant = read_month(request.path_params["month"]), _one_tenant(request)
        return told(await self._database.write(lambda c: close(c, tenant, month)))

    async def correct(self, request: Request) -> Response:
        """Credit or charge by hand; tells the statement on which that is, the first open one."""
        month, author = read_month(request.path_params["month"]), author_of(request)
        asked = await read_asked(request, CorrectionRequest, self._settings)
        found = await self._database.write(
            lambda c: correct(c, author, asked.tenant, month, asked.amount, asked.reason)
        )
        return told(found, 201)


def _is_operator(request: Request) -> bool:
    scopes = context_of(request).caller.identity.scopes
    return OPERATOR_SCOPE in scopes or "*" in scopes


def _tenant_of(request: Request, default: str | None) -> str | None:
    """The tenant that is asked about.

    Args:
        default: Where none is named; "" is the caller's own.
    Raises:
        HttpError: 403 where another one is named by who is no operator, whether it exists or not.
    """
    own, named = author_of(request).tenant, request.query_params.get("tenant", "")
    if named and named != own and not _is_operator(request):
        raise HttpError(
            403, ErrorCode.FORBIDDEN, "tenant: only the operator may ask about other tenants"
        )
    if named:
        return named
    return own if default == "" else default


def _one_tenant(request: Request) -> str:
    return _tenant_of(request, default="") or ""


def _ended(request: Request) -> bool:
    text = request.query_params.get("ended", "false")
    if text not in ("true", "false"):
        raise bad_request(f"ended: expected true or false, got {text[:64]!r}")
    return text == "true"
