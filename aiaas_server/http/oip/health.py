"""Liveness and readiness: the two routes that answer without a key, and without detail."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import Draining
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.answers import JSON_TYPE, NO_STORE, NOSNIFF, Reply, header_block
from aiaas_server.http.errors import HttpError
from aiaas_server.http.hot import HotCall, HotEndpoint
from aiaas_server.http.process_group import ProcessGroup


class HealthRoutes:
    """`GET /v2/health/live` and `/v2/health/ready`."""

    def __init__(self, pool: ModelPool, group: ProcessGroup) -> None:
        self._pool = pool
        self._group = group
        self.hot: Mapping[str, HotEndpoint] = {
            "/v2/health/live": self._hot_live,
            "/v2/health/ready": self._hot_ready,
        }

    async def live(self, request: Request) -> Response:
        """200 while the process answers, during a drain too."""
        return _answer(_LIVE)

    async def ready(self, request: Request) -> Response:
        """200 when inference is accepted and every model that should be is ready, in all processes.

        503 from the moment a drain begins, 400 while models load.
        """
        self._check_ready()
        return _answer(_READY)

    def _hot_live(self, call: HotCall) -> bool:
        call.answer(_LIVE)
        return True

    def _hot_ready(self, call: HotCall) -> bool:
        self._check_ready()
        call.answer(_READY)
        return True

    def _check_ready(self) -> None:
        if self._pool.draining:
            raise Draining("the server is shutting down")
        if not (self._pool.ready and self._group.ready):
            raise HttpError(400, ErrorCode.MODEL_NOT_READY, "not ready")


def _reply(text: bytes) -> Reply:
    headers = (JSON_TYPE, NOSNIFF, NO_STORE)
    return Reply(headers, (text,), len(text), header_block(headers))


_LIVE, _READY = _reply(b'{"live":true}'), _reply(b'{"ready":true}')


def _answer(reply: Reply) -> Response:
    return Response(reply.chunks[0], media_type="application/json")
