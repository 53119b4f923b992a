"""The statistics extension, and the metrics page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool import ModelPool
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.metadata import addressed
from aiaas_server.observe.metrics import CONTENT_TYPE, RequestMetrics, render


class StatisticsRoutes:
    """`GET /v2/models/stats`, `/v2/models/{m}[/versions/{v}]/stats` and `/metrics`."""

    def __init__(self, pool: ModelPool, metrics: RequestMetrics) -> None:
        self._pool = pool
        self._metrics = metrics

    async def all_models(self, request: Request) -> Response:
        """Every loaded version."""
        return _answer(list(self._pool.models()))

    async def model(self, request: Request) -> Response:
        """One model's loaded versions, or the one the path names."""
        name, version = addressed(request)
        found = [model for model in self._pool.models() if model.name == name]
        if version is not None or not found:
            found = [self._pool.resolve(name, version)]
        return _answer(found)

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        page = render(self._pool.models(), self._metrics)
        return Response(page, headers={"content-type": CONTENT_TYPE})


def _answer(models: list[LoadedModel]) -> Response:
    ordered = sorted(models, key=lambda model: (model.name, model.version))
    entries = [model.statistics.as_json(model.name, model.version) for model in ordered]
    return JsonAnswer({"model_stats": entries})
