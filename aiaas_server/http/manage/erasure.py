"""Erase a tenant: the operator's, who says its name twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.erasure import EraseRequest, TenantErasure
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_server.core.author import Author
from aiaas_server.http.errors import bad_request
from aiaas_server.http.manage.requests import Manage, author_of, read_asked, told
from aiaas_server.settings import Settings

Erase = Callable[[Author, str, list[str]], Awaitable[TenantErasure]]
Find = Callable[[str], Awaitable[TenantErasure]]


class ErasureRoutes:
    """`/api/v1/tenants/{tenant}/erase` and `…/erasure`.

    Args:
        erase: Begins it.
        find: Tells how far it is.
    """

    def __init__(self, settings: Settings, erase: Erase, find: Find) -> None:
        self._settings = settings
        self._erase = erase
        self._find = find

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""
        one, scope = "/tenants/{tenant}", OPERATOR_SCOPE
        return [
            manage.route(
                f"{one}/erase", self.erase, "POST", scope, asks=EraseRequest, tells=TenantErasure
            ),
            manage.route(f"{one}/erasure", self.erasure, "GET", scope, tells=TenantErasure),
        ]

    async def erase(self, request: Request) -> Response:
        """Begin to erase a tenant with all that it has; its keys are refused at once."""
        asked = await read_asked(request, EraseRequest, self._settings)
        tenant: str = request.path_params["tenant"]
        if asked.confirm != tenant:
            raise bad_request(
                f"confirm: expected the tenant's name, '{tenant[:64]}', got {asked.confirm[:64]!r}"
            )
        return told(await self._erase(author_of(request), tenant, asked.backups), 202)

    async def erasure(self, request: Request) -> Response:
        """How far the erasure of a tenant is; with the certificate once it is done."""
        return told(await self._find(request.path_params["tenant"]))
