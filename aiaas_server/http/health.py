"""Liveness and readiness: the two routes that answer without a key, and without detail."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import Draining
from aiaas_server.core.pool import ModelPool
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import HttpError
from aiaas_server.http.group import Group


class HealthRoutes:
    """`GET /v2/health/live` and `/v2/health/ready`."""

    def __init__(self, pool: ModelPool, group: Group) -> None:
        self._pool = pool
        self._group = group

    async def live(self, request: Request) -> Response:
        """200 while the process answers, during a drain too."""
        return JsonAnswer({"live": True})

    async def ready(self, request: Request) -> Response:
        """200 when inference is accepted and every model that should be is ready, in all processes.

        503 from the moment a drain begins, 400 while models load.
        """
        if self._pool.draining:
            raise Draining("the server is shutting down")
        if not (self._pool.ready and self._group.ready):
            raise HttpError(400, ErrorCode.MODEL_NOT_READY, "not ready")
        return JsonAnswer({"ready": True})
