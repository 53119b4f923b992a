"""Routes of tenants and plans, for the operator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.management import Page
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_client.protocol.tenants import (
    Plan,
    PlanPatch,
    PlanRequest,
    Tenant,
    TenantPatch,
    TenantRequest,
)
from aiaas_server.http.manage.requests import (
    Manage,
    author_of,
    if_match,
    page_of,
    read_asked,
    told,
    told_page,
)
from aiaas_server.http.openapi import NOTHING
from aiaas_server.settings import Settings
from aiaas_server.tenancy.plans import Plans
from aiaas_server.tenancy.tenants import Tenants

Changed = Callable[[], Awaitable[None]]


class TenantRoutes:
    """`/api/v1/tenants`.

    Args:
        changed: Awaited when tenants were changed, before the answer.
    """

    def __init__(self, tenants: Tenants, settings: Settings, changed: Changed) -> None:
        self._tenants = tenants
        self._settings = settings
        self._changed = changed

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""
        route, scope, one = manage.route, OPERATOR_SCOPE, "/tenants/{tenant}"
        return [
            route("/tenants", self.page, "GET", scope, tells=Page),
            route("/tenants", self.create, "POST", scope, asks=TenantRequest, tells=Tenant),
            route(one, self.tenant, "GET", scope, tells=Tenant),
            route(one, self.update, "PATCH", scope, asks=TenantPatch, tells=Tenant),
            route(f"{one}/suspend", self.suspend, "POST", scope, tells=Tenant),
            route(f"{one}/resume", self.resume, "POST", scope, tells=Tenant),
        ]

    async def page(self, request: Request) -> Response:
        """All tenants, by name."""
        after, limit = page_of(request)
        found = await self._tenants.page(after, limit)
        return told_page(found, found[-1].name if len(found) == limit else None)

    async def create(self, request: Request) -> Response:
        """Make a tenant."""
        asked = await read_asked(request, TenantRequest, self._settings)
        found = await self._tenants.create(author_of(request), asked)
        return await self._told(found, 201)

    async def tenant(self, request: Request) -> Response:
        """One tenant."""
        found = await self._tenants.get(_tenant(request))
        return told(found, etag=found.etag)

    async def update(self, request: Request) -> Response:
        """Give a tenant another plan or description; members that are left out stay."""
        patch = await read_asked(request, TenantPatch, self._settings)
        found = await self._tenants.update(
            author_of(request), _tenant(request), patch, if_match(request)
        )
        return await self._told(found)

    async def suspend(self, request: Request) -> Response:
        """Refuse all keys of a tenant, until it is resumed."""
        return await self._told(await self._tenants.suspend(author_of(request), _tenant(request)))

    async def resume(self, request: Request) -> Response:
        """Let the keys of a tenant in again."""
        return await self._told(await self._tenants.resume(author_of(request), _tenant(request)))

    async def _told(self, found: Tenant, status: int = 200) -> Response:
        await self._changed()
        return told(found, status, etag=found.etag)


class PlanRoutes:
    """`/api/v1/plans`.

    Args:
        changed: Awaited when plans were changed, before the answer.
    """

    def __init__(self, plans: Plans, settings: Settings, changed: Changed) -> None:
        self._plans = plans
        self._settings = settings
        self._changed = changed

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""
        route, scope, one = manage.route, OPERATOR_SCOPE, "/plans/{plan}"
        return [
            route("/plans", self.page, "GET", scope, tells=Page),
            route("/plans", self.create, "POST", scope, asks=PlanRequest, tells=Plan),
            route(one, self.plan, "GET", scope, tells=Plan),
            route(one, self.update, "PATCH", scope, asks=PlanPatch, tells=Plan),
            route(one, self.delete, "DELETE", scope, tells=NOTHING),
        ]

    async def page(self, request: Request) -> Response:
        """All plans, by name."""
        after, limit = page_of(request)
        found = await self._plans.page(after, limit)
        return told_page(found, found[-1].name if len(found) == limit else None)

    async def create(self, request: Request) -> Response:
        """Make a plan; limits that are left out are those of `basic`."""
        asked = await read_asked(request, PlanRequest, self._settings)
        found = await self._plans.create(author_of(request), asked)
        await self._changed()
        return told(found, 201, etag=found.etag)

    async def plan(self, request: Request) -> Response:
        """One plan."""
        found = await self._plans.get(_plan(request))
        return told(found, etag=found.etag)

    async def update(self, request: Request) -> Response:
        """Change a plan, for all tenants that have it; limits that are left out stay."""
        patch = await read_asked(request, PlanPatch, self._settings)
        found = await self._plans.update(
            author_of(request), _plan(request), patch, if_match(request)
        )
        await self._changed()
        return told(found, etag=found.etag)

    async def delete(self, request: Request) -> Response:
        """Remove a plan that no tenant has."""
        await self._plans.delete(author_of(request), _plan(request))
        await self._changed()
        return Response(status_code=204)


def _tenant(request: Request) -> str:
    name: str = request.path_params["tenant"]
    return name


def _plan(request: Request) -> str:
    name: str = request.path_params["plan"]
    return name
