"""The statistics extension, and the metrics page: of all processes together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool import ModelPool
from aiaas_server.core.statistics import Statistics
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.group import Group
from aiaas_server.http.metadata import addressed
from aiaas_server.observe.metrics import CONTENT_TYPE, render
from aiaas_server.observe.totals import Totals


@dataclass(frozen=True, slots=True)
class Counted:
    """A model version with the counts of all processes."""

    name: str
    version: int
    statistics: Statistics


class StatisticsRoutes:
    """`GET /v2/models/stats`, `/v2/models/{m}[/versions/{v}]/stats` and `/metrics`."""

    def __init__(self, pool: ModelPool, group: Group) -> None:
        self._pool = pool
        self._group = group

    async def all_models(self, request: Request) -> Response:
        """Every loaded version."""
        return await self._answer(self._pool.models())

    async def model(self, request: Request) -> Response:
        """One model's loaded versions, or the one the path names."""
        name, version = addressed(request)
        found = [model for model in self._pool.models() if model.name == name]
        if version is not None or not found:
            found = [self._pool.resolve(name, version)]
        return await self._answer(found)

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        totals = await self._group.totals()
        counted = counts_of(self._pool.models(), totals)
        page = render(counted, totals.refusals, totals.processes)
        return Response(page, headers={"content-type": CONTENT_TYPE})

    async def _answer(self, models: Iterable[LoadedModel]) -> Response:
        counted = counts_of(models, await self._group.totals())
        ordered = sorted(counted, key=lambda model: (model.name, model.version))
        entries = [model.statistics.as_json(model.name, model.version) for model in ordered]
        return JsonAnswer({"model_stats": entries})


def counts_of(models: Iterable[LoadedModel], totals: Totals) -> list[Counted]:
    """The counts of loaded versions; this process's own where the sum does not know one yet."""
    return [
        Counted(
            model.name,
            model.version,
            totals.statistics.get((model.name, model.version), model.statistics),
        )
        for model in models
    ]
