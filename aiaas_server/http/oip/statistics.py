"""The statistics extension, and the metrics page: of all processes together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.model import LoadedModel
from aiaas_server.core.names import plain
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.statistics import Statistics
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.incoming import context_of
from aiaas_server.http.lookup import addressed, check_known
from aiaas_server.http.process_group import ProcessGroup
from aiaas_server.observe.metrics import CONTENT_TYPE, render
from aiaas_server.observe.totals import Totals


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """A model version with the counts of all processes.

    Attributes:
        name: The server's own name of the model.
    """

    name: str
    version: int
    statistics: Statistics


class StatisticsRoutes:
    """`GET /v2/models/stats`, `/v2/models/{m}[/versions/{v}]/stats` and `/metrics`."""

    def __init__(self, pool: ModelPool, group: ProcessGroup) -> None:
        self._pool = pool
        self._group = group

    async def all_models(self, request: Request) -> Response:
        """Every loaded version."""
        return await self._answer(self._pool.models(context_of(request).caller))

    async def model(self, request: Request) -> Response:
        """One model's loaded versions, or the one the path names; none is loaded for it."""
        name, version = addressed(self._pool, request)
        caller = context_of(request).caller
        check_known(self._pool, name, version, caller)
        loaded = [model for model in self._pool.models(caller) if model.name == name]
        return await self._answer(m for m in loaded if version is None or m.version == version)

    async def metrics(self, request: Request) -> Response:
        """Prometheus text."""
        totals = await self._group.totals()
        counted = counts_of(self._pool.models(), totals)
        page = render(counted, totals.refusals, totals.processes, totals.families)
        return Response(page, headers={"content-type": CONTENT_TYPE})

    async def _answer(self, models: Iterable[LoadedModel]) -> Response:
        counted = counts_of(models, await self._group.totals())
        ordered = sorted(counted, key=lambda model: (model.name, model.version))
        entries = [model_stats(plain(one.name), one.version, one.statistics) for one in ordered]
        return JsonAnswer({"model_stats": entries})


def counts_of(models: Iterable[LoadedModel], totals: Totals) -> list[ModelCounts]:
    """The counts of loaded versions; this process's own where the sum does not know one yet."""
    return [
        ModelCounts(
            model.full,
            model.version,
            totals.statistics.get((model.full, model.version), model.statistics),
        )
        for model in models
    ]


def model_stats(name: str, version: int, counts: Statistics) -> dict[str, Any]:
    """The entry of a version in the protocol's `model_stats`."""
    count = counts.success_count
    ran = count - counts.cache_hit_count
    return {
        "name": name,
        "version": str(version),
        "last_inference": counts.last_inference_ms,
        "inference_count": counts.inference_count,
        "execution_count": counts.execution_count,
        "inference_stats": {
            "success": _duration(count, counts.success_ns),
            "fail": _duration(counts.fail_count, counts.fail_ns),
            "queue": _duration(count, counts.queue_ns),
            "compute_input": _duration(ran, counts.compute_input_ns),
            "compute_infer": _duration(ran, counts.compute_infer_ns),
            "compute_output": _duration(ran, counts.compute_output_ns),
            "cache_hit": _duration(counts.cache_hit_count, counts.cache_hit_ns),
            "cache_miss": _duration(counts.cache_miss_count, counts.cache_miss_ns),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": _duration(batch[0], batch[1]),
                "compute_infer": _duration(batch[0], batch[2]),
                "compute_output": _duration(batch[0], batch[3]),
            }
            for rows, batch in sorted(counts.batches.items())
        ],
        "memory_usage": _memory_usage(counts.memory_bytes),
        **({"batch_curve": counts.batch_curve} if counts.batch_curve else {}),
    }


def _memory_usage(size: int) -> list[dict[str, Any]]:
    return [{"type": "CPU", "id": 0, "byte_size": size}] if size else []


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}
