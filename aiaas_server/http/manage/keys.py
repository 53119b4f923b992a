"""Routes of keys: make, list, look at, rotate, revoke; and whose the request is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.management import Page
from aiaas_client.protocol.tenants import Key, KeyRequest, MadeKey, RotateRequest, Whoami
from aiaas_server.http.incoming import context_of
from aiaas_server.http.manage.requests import (
    Manage,
    author_of,
    page_of,
    read_asked,
    told,
    told_page,
)
from aiaas_server.http.scopes import ANY_KEY
from aiaas_server.settings import Settings
from aiaas_server.tenancy.keys import Keys
from aiaas_server.tenancy.rights import Maker

SCOPE = "keys:admin"
Changed = Callable[[], Awaitable[None]]


class KeyRoutes:
    """`/api/v1/keys` and `/api/v1/me`.

    Args:
        changed: Awaited when keys were changed, before the answer: who is let in then is so.
    """

    def __init__(self, keys: Keys, settings: Settings, changed: Changed) -> None:
        self._keys = keys
        self._settings = settings
        self._changed = changed

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""
        route, key, rotate = manage.route, "/keys/{key}", "/keys/{key}/rotate"
        return [
            route("/me", self.me, "GET", ANY_KEY, tells=Whoami),
            route("/keys", self.page, "GET", SCOPE, tells=Page),
            route("/keys", self.create, "POST", SCOPE, asks=KeyRequest, tells=MadeKey, secret=True),
            route(key, self.key, "GET", SCOPE, tells=Key),
            route(key, self.revoke, "DELETE", SCOPE, tells=Key),
            route(
                rotate, self.rotate, "POST", SCOPE, asks=RotateRequest, tells=MadeKey, secret=True
            ),
        ]

    async def me(self, request: Request) -> Response:
        """Whose the request is: tenant, key, scopes, limits."""
        return told(self._keys.whoami(context_of(request).caller.identity))

    async def page(self, request: Request) -> Response:
        """The keys of a tenant, the newest first; the operator names others by `?tenant=`."""
        after, limit = page_of(request)
        tenant = request.query_params.get("tenant", "")
        found = await self._keys.page(self._maker(request), tenant, after, limit)
        return told_page(found, found[-1].id if len(found) == limit else None)

    async def create(self, request: Request) -> Response:
        """Make a key; the answer holds it, once."""
        asked = await read_asked(request, KeyRequest, self._settings)
        made = await self._keys.create(self._maker(request), asked)
        await self._changed()
        return told(made, 201)

    async def key(self, request: Request) -> Response:
        """One key, without its secret."""
        return told(await self._keys.get(self._maker(request), _key(request)))

    async def rotate(self, request: Request) -> Response:
        """Make a key in place of another one, which goes on for a grace time."""
        asked = await read_asked(request, RotateRequest, self._settings)
        made = await self._keys.rotate(self._maker(request), _key(request), asked)
        await self._changed()
        return told(made, 201)

    async def revoke(self, request: Request) -> Response:
        """End a key for good: within 5 s no server of the database takes it."""
        ended = await self._keys.revoke(self._maker(request), _key(request))
        await self._changed()
        return told(ended)

    def _maker(self, request: Request) -> Maker:
        return self._keys.maker(author_of(request), context_of(request).caller.identity)


def _key(request: Request) -> str:
    key: str = request.path_params["key"]
    return key
