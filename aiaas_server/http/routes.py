"""The route table. Every path is matched exactly; nothing is redirected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from aiaas_client.protocol.generation import ChatCompletion, Completion, Transcription
from aiaas_client.protocol.names import ALIAS
from aiaas_server.core.acts import Acts
from aiaas_server.core.errors import misnamed_version
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.acts import on_record
from aiaas_server.http.answers import with_common_headers
from aiaas_server.http.incoming import CONTEXT, RequestContext
from aiaas_server.http.kserve.explain import ExplainRoutes
from aiaas_server.http.kserve.predict import PredictRoutes
from aiaas_server.http.lookup import MAX_VERSION_DIGITS
from aiaas_server.http.oip.dynamic_settings import DynamicSettings
from aiaas_server.http.oip.generate_extension import GenerateRoutes
from aiaas_server.http.oip.health import HealthRoutes
from aiaas_server.http.oip.metadata import MetadataRoutes
from aiaas_server.http.oip.regions import Regions
from aiaas_server.http.oip.repository import RepositoryRoutes
from aiaas_server.http.oip.settings import SettingsRoutes
from aiaas_server.http.oip.shared_memory import CudaMemoryRoutes, SystemMemoryRoutes
from aiaas_server.http.oip.statistics import StatisticsRoutes
from aiaas_server.http.openai.audio import AudioRoutes
from aiaas_server.http.openai.chat import ChatRoutes
from aiaas_server.http.openai.completions import CompletionRoutes
from aiaas_server.http.openai.embeddings import EmbeddingRoutes
from aiaas_server.http.openai.responses import ResponseRoutes
from aiaas_server.http.openapi import BYTES, DescribedRoute, OpenApiRoute
from aiaas_server.http.process_group import ProcessGroup
from aiaas_server.http.writing_schemas import (
    CHAT,
    COMPLETION,
    GENERATE,
    RESPONSE,
    SPEECH,
    TRANSCRIPTION,
)
from aiaas_server.settings import Settings

_OF_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version:version}")

VERSION = f"[0-9]{{1,{MAX_VERSION_DIGITS}}}|{ALIAS}"
"""A version in a path: digits, few enough for any integer type, or a name that it may have."""

match_infer = re.compile(rf"/v2/models/([^/]+)(?:/versions/({VERSION}))?/infer").fullmatch

match_predict = re.compile(rf"/v1/models/([^/]+)(?:/versions/({VERSION}))?:predict").fullmatch


def read_version(text: str) -> int | str:
    """A version as a path has it: its number, or the name as it came."""
    return int(text) if text[0].isdigit() else text


class VersionConvertor(Convertor[int | str]):
    """A version in a path."""

    regex = f"(?:{VERSION})"

    def convert(self, value: str) -> int | str:
        """Read the digits, if it has any."""
        return read_version(value)

    def to_string(self, value: int | str) -> str:
        """Write it."""
        return str(value)


class MisnamedVersion(Convertor[str]):
    """What stands in a path where a version should."""

    regex = f"(?!{VersionConvertor.regex}(?:[/:]|$))[^/:]+"

    def convert(self, value: str) -> str:
        """As it came."""
        return value

    def to_string(self, value: str) -> str:
        """As it came."""
        return value


register_url_convertor("version", VersionConvertor())
register_url_convertor("misnamed", MisnamedVersion())


class Routed:
    """`gate.Endpoint` of all routes of a router."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def __call__(
        self, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Have the route of the path answer.

        Raises:
            HTTPException: 404 or 405 where there is none.
        """
        scope[CONTEXT] = context
        scope.setdefault("app", self)  # makes the router raise its 404 and 405, not answer them
        await self._router(scope, receive, with_common_headers(send, context))


async def refuse_method(
    context: RequestContext, scope: Scope, receive: Receive, send: Send
) -> None:
    """`gate.Endpoint` of the infer route for all methods but POST.

    Raises:
        HTTPException: 405.
    """
    raise HTTPException(405, headers={"Allow": "POST"})


class RefuseVersion:
    """Whatever is asked of a version that no model can have."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse it by name.

        Raises:
            VersionNotFound: Always.
        """
        asked = scope["path_params"]
        raise misnamed_version(asked["model"], asked["version"])


def make_router(
    pool: ModelPool,
    settings: Settings,
    group: ProcessGroup,
    dynamic: DynamicSettings,
    regions: Regions,
    predict: PredictRoutes,
    explain: ExplainRoutes,
    health: HealthRoutes,
    more: Sequence[BaseRoute] = (),
    acts: Acts | None = None,
) -> Router:
    """Everything but infer, which `app.Application` answers itself.

    Args:
        more: Routes of what is not always there.
        acts: Keeps a record of what is done, if somebody does.
    """
    metadata = MetadataRoutes(pool, settings)
    statistics = StatisticsRoutes(pool, group)
    generate = GenerateRoutes(pool, settings)
    repository = RepositoryRoutes(pool, settings, group)
    changed = SettingsRoutes(pool, settings, dynamic, group)
    audio = AudioRoutes(pool, settings)
    both, write = ["GET", "POST"], "models:write"
    recorded = partial(on_record, acts)
    load = recorded("repository.load", write, repository.load)
    unload = recorded("repository.unload", write, repository.unload)
    of_model = recorded("models.trace.set", write, changed.model_tracing)
    routes: list[BaseRoute] = [
        # The busiest first: Starlette tries one after another.
        Route("/predict", predict.simple, methods=["POST"]),
        Route("/v1/models/{model}:predict", predict.v1, methods=["POST"]),
        Route(
            "/v1/models/{model}/versions/{version:version}:predict",
            predict.v1,
            methods=["POST"],
        ),
        *explain.routes(),
        Route("/v2/health/live", health.live),
        Route("/v2/health/ready", health.ready),
        Route("/v2", metadata.server),
        Route("/v2/models/stats", statistics.all_models),
        *_of_model("", metadata.model),
        *_of_model("/ready", metadata.ready),
        *_of_model("/config", metadata.config),
        *_of_model("/stats", statistics.model),
        *_of_generation("/generate", generate.generate),
        *_of_generation("/generate_stream", generate.stream),
        Route("/v2/repository/index", repository.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", unload, methods=["POST"]),
        *_of_memory("/v2/systemsharedmemory", SystemMemoryRoutes(regions, group, settings)),
        *_of_memory("/v2/cudasharedmemory", CudaMemoryRoutes()),
        Route("/v2/logging", recorded("logging.set", write, changed.logging), methods=both),
        Route("/v2/trace/setting", recorded("trace.set", write, changed.tracing), methods=both),
        Route("/v2/models/{model}/trace/setting", of_model, methods=both),
        *_of_writers(pool, settings),
        Route("/v1/models", predict.models),
        Route("/v1/models/{model}", predict.model),
        Route("/v1/models/{model}/versions/{version:version}", predict.model),
        Route("/v1/embeddings", EmbeddingRoutes(pool, settings).create, methods=["POST"]),
        DescribedRoute(
            "/v1/audio/transcriptions",
            audio.transcriptions,
            "POST",
            asks=TRANSCRIPTION,
            tells=Transcription,
        ),
        DescribedRoute("/v1/audio/speech", audio.speech, "POST", asks=SPEECH, tells=BYTES),
        Route("/metrics", statistics.metrics),
        *more,
    ]
    routes.append(Route("/openapi.json", OpenApiRoute(pool, routes).document))
    misnamed = "/models/{model}/versions/{version:misnamed}{rest:path}"
    refused = [Route(root + misnamed, RefuseVersion()) for root in ("/v1", "/v2")]
    return Router(routes=[*routes, *refused], redirect_slashes=False)


def make_metrics_router(pool: ModelPool, group: ProcessGroup) -> Router:
    """The routes of the metrics port."""
    routes = [Route("/metrics", StatisticsRoutes(pool, group).metrics)]
    return Router(routes=routes, redirect_slashes=False)


def _of_model(suffix: str, endpoint: Any, methods: list[str] | None = None) -> list[Route]:
    """A route of a model, without and with a version."""
    return [Route(path + suffix, endpoint, methods=methods) for path in _OF_MODEL]


def _of_generation(suffix: str, endpoint: Any) -> list[Route]:
    return [DescribedRoute(path + suffix, endpoint, "POST", asks=GENERATE) for path in _OF_MODEL]


def _of_writers(pool: ModelPool, settings: Settings) -> list[Route]:
    """OpenAI's routes of models that write."""
    return [
        DescribedRoute(
            "/v1/chat/completions",
            ChatRoutes(pool, settings).create,
            "POST",
            asks=CHAT,
            tells=ChatCompletion,
        ),
        DescribedRoute(
            "/v1/completions",
            CompletionRoutes(pool, settings).create,
            "POST",
            asks=COMPLETION,
            tells=Completion,
        ),
        DescribedRoute(
            "/v1/responses", ResponseRoutes(pool, settings).create, "POST", asks=RESPONSE
        ),
    ]


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
