"""What there is: models, their versions, how these differ, and what was changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.management import (
    Diff,
    Model,
    ModelPatch,
    Page,
    Version,
)
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.incoming import context_of
from aiaas_server.http.manage.requests import (
    READ,
    WRITE,
    Manage,
    author_of,
    if_match,
    model_named,
    number_after,
    page_of,
    read_asked,
    read_version,
    told,
    told_page,
)
from aiaas_server.registry.registry import Registry
from aiaas_server.settings import Settings

Changed = Callable[[str, str], Awaitable[None]]
"""Is told tenant and name of a model that was changed."""
Here = Callable[[str, Version], Version]
"""Adds what this process knows of a tenant's version: whether it is loaded, and why not."""


class ModelRoutes:
    """`/api/v1/models` and what is read below it.

    Args:
        changed: Awaited for a model whose rules were changed.
    """

    def __init__(
        self, registry: Registry, settings: Settings, here: Here, changed: Changed
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._here = here
        self._changed = changed

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""
        model, version = "/models/{model}", "/models/{model}/versions/{version}"
        return [
            manage.route("/models", self.models, "GET", READ, tells=Page),
            manage.route(model, self.model, "GET", READ, tells=Model),
            manage.route(model, self.update, "PATCH", WRITE, asks=ModelPatch, tells=Model),
            manage.route(f"{model}/versions", self.versions, "GET", READ, tells=Page),
            manage.route(version, self.version, "GET", READ, tells=Version),
            manage.route(f"{model}/history", self.history, "GET", READ, tells=Page),
            manage.route(f"{model}/diff", self.diff, "GET", READ, tells=Diff),
        ]

    async def models(self, request: Request) -> Response:
        """All models of the registry, by name."""
        after, limit = page_of(request)
        found = await self._registry.page(_tenant(request), after, limit)
        return told_page(found, found[-1].name if len(found) == limit else None)

    async def model(self, request: Request) -> Response:
        """One model: its rules, its latest version, and who gets which version."""
        found = await self._registry.get(_tenant(request), model_named(request))
        return told(found, etag=found.etag)

    async def update(self, request: Request) -> Response:
        """Describe a model or set its rules; members that are left out stay."""
        patch = await read_asked(request, ModelPatch, self._settings)
        if patch.policy is not None and patch.policy.public:
            check_publishes(request)
        name = model_named(request)
        found = await self._registry.update(author_of(request), name, patch, if_match(request))
        await self._changed(_tenant(request), name)
        return told(found, etag=found.etag)

    async def versions(self, request: Request) -> Response:
        """The versions of a model, the newest first."""
        after, limit = page_of(request)
        before = number_after(after)
        found = await self._registry.versions(_tenant(request), model_named(request), before, limit)
        following = found[-1].version if len(found) == limit else None
        return told_page([self._here(_tenant(request), version) for version in found], following)

    async def version(self, request: Request) -> Response:
        """One version, by its number, an alias or `latest`."""
        asked = read_version(request.path_params["version"])
        found = await self._registry.version(_tenant(request), model_named(request), asked)
        return told(self._here(_tenant(request), found), etag=found.digest)

    async def history(self, request: Request) -> Response:
        """What was changed, the newest first: who, when, and what it was before and after."""
        after, limit = page_of(request)
        before = number_after(after)
        found = await self._registry.history(_tenant(request), model_named(request), before, limit)
        return told_page(found, found[-1].seq if len(found) == limit else None)

    async def diff(self, request: Request) -> Response:
        """How two versions differ: `?old=` and `?new=`, numbers or aliases."""
        asked = {}
        for key in ("old", "new"):
            text = request.query_params.get(key)
            if text is None:
                raise bad_request(f"{key}: expected a version, as ?old=1&new=2")
            asked[key] = read_version(text)
        tenant, name = _tenant(request), model_named(request)
        return told(await self._registry.diff(tenant, name, asked["old"], asked["new"]))


def _tenant(request: Request) -> str:
    return author_of(request).tenant


def check_publishes(request: Request) -> None:
    """See that the caller may make a model public.

    Raises:
        HttpError: 403.
    """
    identity = context_of(request).caller.identity
    if OPERATOR_SCOPE not in identity.scopes:
        text = "policy.public: only the operator of the server makes models public"
        raise HttpError(403, ErrorCode.FORBIDDEN, text)
