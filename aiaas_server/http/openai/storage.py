"""`Storage`: the routes of files and batches, with the scopes that they need."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_server.http.openai.batches import BatchRoutes
from aiaas_server.http.openai.files import FileRoutes
from aiaas_server.http.scopes import READ, WRITE, Needs, ScopedRoute

Endpoint = Callable[[Request], Awaitable[Response]]


class Storage(NamedTuple):
    """Files, and what is done with them."""

    files: FileRoutes
    batches: BatchRoutes

    def routes(self) -> list[BaseRoute]:
        """All of them."""
        files, batches = self.files, self.batches
        one, batch = "/v1/files/{file}", "/v1/batches/{batch}"
        return [
            _route("/v1/files", files.create, "POST", WRITE),
            _route("/v1/files", files.list, "GET", READ),
            _route(one, files.get, "GET", READ),
            _route(f"{one}/content", files.content, "GET", READ),
            _route(one, files.delete, "DELETE", WRITE),
            _route("/v1/batches", batches.create, "POST", WRITE),
            _route("/v1/batches", batches.list, "GET", READ),
            _route(batch, batches.get, "GET", READ),
            _route(f"{batch}/cancel", batches.cancel, "POST", WRITE),
        ]


def _route(path: str, endpoint: Endpoint, method: str, needs: Needs) -> BaseRoute:
    return ScopedRoute(path, endpoint, needs, methods=[method], name=f"{method} {path}")
