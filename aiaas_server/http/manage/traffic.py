"""Who gets which version: aliases, splits, shadows, pins, and back again.

A version that a change has serve is loaded and warm in this process before the change is made; and
when it is answered, the processes of this server follow it already, but for one whose loading takes
long. Other servers do as soon as they hear of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.management import (
    Model,
    PromoteRequest,
    RollbackRequest,
    Serving,
    TrafficRequest,
)
from aiaas_server.http.manage.models import Changed
from aiaas_server.http.manage.requests import (
    READ,
    WRITE,
    Manage,
    author_of,
    if_match,
    model_named,
    read_asked,
    told,
)
from aiaas_server.registry.reconcile import Reconcile
from aiaas_server.registry.registry import Registry
from aiaas_server.registry.serving import check_alias, mentioned, patched
from aiaas_server.settings import Settings


class TrafficRoutes:
    """`/api/v1/models/{m}/aliases`, `/traffic` and `/rollback`.

    Args:
        changed: Awaited for a model that was changed, before that is answered.
    """

    def __init__(
        self,
        manage: Manage,
        registry: Registry,
        reconcile: Reconcile,
        settings: Settings,
        changed: Changed,
    ) -> None:
        self._spread = changed
        self._manage = manage
        self._registry = registry
        self._reconcile = reconcile
        self._settings = settings

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        route, model = self._manage.route, "/models/{model}"
        alias, traffic = f"{model}/aliases/{{alias}}", f"{model}/traffic"
        return [
            route(alias, self.promote, "PUT", WRITE, asks=PromoteRequest, tells=Model),
            route(alias, self.drop_alias, "DELETE", WRITE, tells=Model),
            route(traffic, self.traffic, "GET", READ, tells=Serving),
            route(traffic, self.patch, "PATCH", WRITE, asks=TrafficRequest, tells=Model),
            route(
                f"{model}/rollback",
                self.rollback,
                "POST",
                WRITE,
                asks=RollbackRequest,
                tells=Model,
            ),
        ]

    async def promote(self, request: Request) -> Response:
        """Have an alias point at a version, at once or, with a guard, step by step."""
        asked = await read_asked(request, PromoteRequest, self._settings)
        author, name, revision = author_of(request), model_named(request), if_match(request)
        alias = request.path_params["alias"]
        check_alias(alias)

        async def change() -> Model:
            return await self._registry.promote(author, name, asked, alias, revision)

        return await self._changed(author.tenant, name, [asked.version], change)

    async def drop_alias(self, request: Request) -> Response:
        """Remove an alias; without `production` the latest version serves."""
        author, name, revision = author_of(request), model_named(request), if_match(request)
        alias = request.path_params["alias"]

        async def change() -> Model:
            return await self._registry.drop_alias(author, name, alias, revision)

        return await self._changed(author.tenant, name, [], change)

    async def traffic(self, request: Request) -> Response:
        """Who gets which version."""
        found = await self._registry.get(author_of(request).tenant, model_named(request))
        return told(found.serving, etag=found.etag)

    async def patch(self, request: Request) -> Response:
        """Split, shadow and pin, all at once; members that are left out stay, null ends them."""
        asked = await read_asked(request, TrafficRequest, self._settings)
        author, name, revision = author_of(request), model_named(request), if_match(request)
        named = mentioned(patched(Serving(), asked))  # a wrong one is refused before it is loaded

        async def change() -> Model:
            return await self._registry.patch_traffic(author, name, asked, revision)

        return await self._changed(author.tenant, name, named, change)

    async def rollback(self, request: Request) -> Response:
        """Back to who answered callers some changes ago; the next one goes further back."""
        asked = await read_asked(request, RollbackRequest, self._settings)
        author, name, revision = author_of(request), model_named(request), if_match(request)
        target = await self._registry.rollback_target(author.tenant, name, asked.steps)

        async def change() -> Model:
            return await self._registry.rollback(author, name, asked, revision)

        return await self._changed(author.tenant, name, mentioned(target), change)

    async def _changed(
        self,
        tenant: str,
        name: str,
        versions: Iterable[int],
        change: Callable[[], Awaitable[Model]],
    ) -> Response:
        """Load `versions`, make the change, and follow it; finished even if the client leaves."""

        async def work() -> Any:
            async with self._reconcile.loaded(tenant, name, versions):
                changed = await change()
                await self._spread(tenant, name)
            return changed

        found: Model = await self._manage.finish(work())
        return told(found, etag=found.etag)
