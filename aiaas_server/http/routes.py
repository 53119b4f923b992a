"""The route table. Every path is matched exactly; nothing is redirected."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send

from aiaas_client.protocol.generation import ChatCompletion, Completion, Transcription
from aiaas_client.protocol.names import ALIAS
from aiaas_server.core.acts import Acts
from aiaas_server.core.errors import misnamed_version
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.acts import Endpoint, on_record
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
from aiaas_server.http.scopes import (
    DESCRIBE,
    INFER,
    OPEN,
    OPERATE,
    READ,
    WRITE,
    MetricsRoute,
    Needs,
    ScopedRoute,
    check_declared,
)
from aiaas_server.http.writing_schemas import (
    CHAT,
    COMPLETION,
    GENERATE,
    RESPONSE,
    SPEECH,
    TRANSCRIPTION,
)
from aiaas_server.settings import Settings

_STORED = "/v2/repository/models/{model}"
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
    both, post = ["GET", "POST"], ["POST"]

    def act(
        path: str, endpoint: Endpoint, name: str, needs: Needs, methods: Sequence[str]
    ) -> ScopedRoute:
        recorded = on_record(acts, name, needs[0], endpoint)
        return ScopedRoute(path, recorded, needs, methods=methods, act=name)

    routes: list[BaseRoute] = [
        # The busiest first: Starlette tries one after another.
        ScopedRoute("/predict", predict.simple, INFER, methods=["POST"]),
        ScopedRoute("/v1/models/{model}:predict", predict.v1, INFER, methods=["POST"]),
        ScopedRoute(
            "/v1/models/{model}/versions/{version:version}:predict",
            predict.v1,
            INFER,
            methods=["POST"],
        ),
        *explain.routes(),
        ScopedRoute("/v2/health/live", health.live, OPEN),
        ScopedRoute("/v2/health/ready", health.ready, OPEN),
        ScopedRoute("/v2", metadata.server, DESCRIBE),
        ScopedRoute("/v2/models/stats", statistics.all_models, READ),
        *_of_model("", metadata.model, DESCRIBE),
        *_of_model("/ready", metadata.ready, DESCRIBE),
        *_of_model("/config", metadata.config, DESCRIBE),
        *_of_model("/stats", statistics.model, READ),
        *_of_generation("/generate", generate.generate),
        *_of_generation("/generate_stream", generate.stream),
        ScopedRoute("/v2/repository/index", repository.index, READ, methods=post),
        act(f"{_STORED}/load", repository.load, "repository.load", WRITE, post),
        act(f"{_STORED}/unload", repository.unload, "repository.unload", WRITE, post),
        *_of_memory("/v2/systemsharedmemory", SystemMemoryRoutes(regions, group, settings)),
        *_of_memory("/v2/cudasharedmemory", CudaMemoryRoutes()),
        act("/v2/logging", changed.logging, "logging.set", OPERATE, both),
        act("/v2/trace/setting", changed.tracing, "trace.set", OPERATE, both),
        act(
            "/v2/models/{model}/trace/setting",
            changed.model_tracing,
            "models.trace.set",
            OPERATE,
            both,
        ),
        *_of_writers(pool, settings),
        ScopedRoute("/v1/models", predict.models, DESCRIBE),
        ScopedRoute("/v1/models/{model}", predict.model, DESCRIBE),
        ScopedRoute("/v1/models/{model}/versions/{version:version}", predict.model, DESCRIBE),
        ScopedRoute("/v1/embeddings", EmbeddingRoutes(pool, settings).create, INFER, methods=post),
        DescribedRoute(
            "/v1/audio/transcriptions",
            audio.transcriptions,
            "POST",
            INFER,
            asks=TRANSCRIPTION,
            tells=Transcription,
        ),
        DescribedRoute("/v1/audio/speech", audio.speech, "POST", INFER, asks=SPEECH, tells=BYTES),
        MetricsRoute("/metrics", statistics.metrics),
        *more,
    ]
    routes.append(ScopedRoute("/openapi.json", OpenApiRoute(pool, routes).document, READ))
    check_declared(routes)
    misnamed = "/models/{model}/versions/{version:misnamed}{rest:path}"
    refused = [ScopedRoute(root + misnamed, RefuseVersion(), DESCRIBE) for root in ("/v1", "/v2")]
    return Router(routes=[*routes, *refused], redirect_slashes=False)


def make_metrics_router(pool: ModelPool, group: ProcessGroup) -> Router:
    """The routes of the metrics port."""
    routes = [MetricsRoute("/metrics", StatisticsRoutes(pool, group).metrics)]
    return Router(routes=routes, redirect_slashes=False)


def _of_model(suffix: str, endpoint: Any, needs: Needs) -> list[BaseRoute]:
    """A route of a model, without and with a version."""
    return [ScopedRoute(path + suffix, endpoint, needs) for path in _OF_MODEL]


def _of_generation(suffix: str, endpoint: Any) -> list[BaseRoute]:
    return [
        DescribedRoute(path + suffix, endpoint, "POST", INFER, asks=GENERATE) for path in _OF_MODEL
    ]


def _of_writers(pool: ModelPool, settings: Settings) -> list[BaseRoute]:
    """OpenAI's routes of models that write."""
    return [
        DescribedRoute(
            "/v1/chat/completions",
            ChatRoutes(pool, settings).create,
            "POST",
            INFER,
            asks=CHAT,
            tells=ChatCompletion,
        ),
        DescribedRoute(
            "/v1/completions",
            CompletionRoutes(pool, settings).create,
            "POST",
            INFER,
            asks=COMPLETION,
            tells=Completion,
        ),
        DescribedRoute(
            "/v1/responses", ResponseRoutes(pool, settings).create, "POST", INFER, asks=RESPONSE
        ),
    ]


def _of_memory(prefix: str, memory: SystemMemoryRoutes | CudaMemoryRoutes) -> list[BaseRoute]:
    """The routes of one kind of shared memory, for all regions and for one."""
    post = ["POST"]
    region = f"{prefix}/region/{{region}}"
    return [
        ScopedRoute(f"{prefix}/status", memory.status, OPERATE),
        ScopedRoute(f"{region}/status", memory.status, OPERATE),
        ScopedRoute(f"{region}/register", memory.register, OPERATE, methods=post),
        ScopedRoute(f"{prefix}/unregister", memory.unregister, OPERATE, methods=post),
        ScopedRoute(f"{region}/unregister", memory.unregister, OPERATE, methods=post),
    ]
