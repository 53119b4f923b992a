"""The route table. Every path is matched exactly; nothing is redirected."""

from __future__ import annotations

import re
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import BaseRoute, Route, Router

from aiaas_server.core.pool import ModelPool
from aiaas_server.http.changeable import Changeable
from aiaas_server.http.generate import GenerateRoutes
from aiaas_server.http.group import Group
from aiaas_server.http.health import HealthRoutes
from aiaas_server.http.metadata import MetadataRoutes
from aiaas_server.http.openai_embeddings import EmbeddingRoutes
from aiaas_server.http.openapi import OpenApiRoute
from aiaas_server.http.predict import PredictRoutes
from aiaas_server.http.regions import Regions
from aiaas_server.http.repository import RepositoryRoutes
from aiaas_server.http.settings_routes import SettingsRoutes
from aiaas_server.http.shared_memory import CudaMemoryRoutes, SystemMemoryRoutes
from aiaas_server.http.statistics import StatisticsRoutes
from aiaas_server.settings import Settings

MAX_VERSION_DIGITS = 18

match_infer = re.compile(
    rf"/v2/models/([^/]+)(?:/versions/([0-9]{{1,{MAX_VERSION_DIGITS}}}))?/infer"
).fullmatch


def infer_path(model: str, version: int | None) -> bytes:
    """The infer route of a model as a client writes it that quotes nothing needlessly."""
    middle = "" if version is None else f"/versions/{version}"
    return f"/v2/models/{model}{middle}/infer".encode()


class VersionConvertor(Convertor[int]):
    """A version in a path: decimal digits, few enough for any integer type."""

    regex = f"[0-9]{{1,{MAX_VERSION_DIGITS}}}"

    def convert(self, value: str) -> int:
        """Read the digits."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Write the digits."""
        return str(value)


register_url_convertor("version", VersionConvertor())


def make_router(
    pool: ModelPool, settings: Settings, group: Group, changeable: Changeable, regions: Regions
) -> Router:
    """Everything but infer, which `app.Application` answers itself."""
    health = HealthRoutes(pool, group)
    metadata = MetadataRoutes(pool, settings)
    statistics = StatisticsRoutes(pool, group)
    generate = GenerateRoutes(pool, settings)
    repository = RepositoryRoutes(pool, settings, group)
    changed = SettingsRoutes(pool, settings, changeable, group)
    predict = PredictRoutes(pool, settings)
    both = ["GET", "POST"]
    routes: list[BaseRoute] = [
        # The busiest first: Starlette tries one after another.
        Route("/predict", predict.simple, methods=["POST"]),
        Route("/v1/models/{model}:predict", predict.v1, methods=["POST"]),
        Route(
            "/v1/models/{model}/versions/{version:version}:predict",
            predict.v1,
            methods=["POST"],
        ),
        Route("/v2/health/live", health.live),
        Route("/v2/health/ready", health.ready),
        Route("/v2", metadata.server),
        Route("/v2/models/stats", statistics.all_models),
        *_of_model("", metadata.model),
        *_of_model("/ready", metadata.ready),
        *_of_model("/config", metadata.config),
        *_of_model("/stats", statistics.model),
        *_of_model("/generate", generate.generate, methods=["POST"]),
        *_of_model("/generate_stream", generate.stream, methods=["POST"]),
        Route("/v2/repository/index", repository.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", repository.load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", repository.unload, methods=["POST"]),
        *_of_memory("/v2/systemsharedmemory", SystemMemoryRoutes(regions, group, settings)),
        *_of_memory("/v2/cudasharedmemory", CudaMemoryRoutes()),
        Route("/v2/logging", changed.logging, methods=both),
        Route("/v2/trace/setting", changed.tracing, methods=both),
        Route("/v2/models/{model}/trace/setting", changed.model_tracing, methods=both),
        Route("/v1/models", predict.models),
        Route("/v1/models/{model}", predict.model),
        Route("/v1/models/{model}/versions/{version:version}", predict.model),
        Route("/v1/embeddings", EmbeddingRoutes(pool, settings).create, methods=["POST"]),
        Route("/metrics", statistics.metrics),
    ]
    routes.append(Route("/openapi.json", OpenApiRoute(pool, routes).document))
    return Router(routes=routes, redirect_slashes=False)


def make_metrics_router(pool: ModelPool, group: Group) -> Router:
    """The routes of the metrics port."""
    routes = [Route("/metrics", StatisticsRoutes(pool, group).metrics)]
    return Router(routes=routes, redirect_slashes=False)


def _of_model(suffix: str, endpoint: Any, methods: list[str] | None = None) -> list[Route]:
    """A route of a model, without and with a version."""
    paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version:version}")
    return [Route(path + suffix, endpoint, methods=methods) for path in paths]


def _of_memory(prefix: str, memory: SystemMemoryRoutes | CudaMemoryRoutes) -> list[Route]:
    """The routes of one kind of shared memory, for all regions and for one."""
    post = ["POST"]
    region = f"{prefix}/region/{{region}}"
    return [
        Route(f"{prefix}/status", memory.status),
        Route(f"{region}/status", memory.status),
        Route(f"{region}/register", memory.register, methods=post),
        Route(f"{prefix}/unregister", memory.unregister, methods=post),
        Route(f"{region}/unregister", memory.unregister, methods=post),
    ]
