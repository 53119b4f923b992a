"""`Storage`: the routes of files and batches, with the scopes that they need."""

from __future__ import annotations

from typing import NamedTuple

from starlette.routing import BaseRoute

from aiaas_client.protocol.audit import act_named
from aiaas_server.http.acts import WRITING, Endpoint
from aiaas_server.http.manage.requests import Manage
from aiaas_server.http.openai.batches import BatchRoutes
from aiaas_server.http.openai.files import FileRoutes
from aiaas_server.http.scopes import READ, WRITE, Needs, ScopedRoute


class Storage(NamedTuple):
    """Files, and what is done with them."""

    files: FileRoutes
    batches: BatchRoutes

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """All of them."""

        def route(path: str, endpoint: Endpoint, method: str, needs: Needs) -> BaseRoute:
            act = act_named(method, path.removeprefix("/v1")) if method in WRITING else ""
            answer, name = manage.noted(endpoint, needs[0], act), f"{method} {path}"
            return ScopedRoute(path, answer, needs, methods=[method], name=name, act=act)

        files, batches = self.files, self.batches
        one, batch = "/v1/files/{file}", "/v1/batches/{batch}"
        return [
            route("/v1/files", files.create, "POST", WRITE),
            route("/v1/files", files.list, "GET", READ),
            route(one, files.get, "GET", READ),
            route(f"{one}/content", files.content, "GET", READ),
            route(one, files.delete, "DELETE", WRITE),
            route("/v1/batches", batches.create, "POST", WRITE),
            route("/v1/batches", batches.list, "GET", READ),
            route(batch, batches.get, "GET", READ),
            route(f"{batch}/cancel", batches.cancel, "POST", WRITE),
        ]
