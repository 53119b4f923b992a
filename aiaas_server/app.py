"""`create_app(settings)`: the one place that wires the server together."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from starlette.types import Receive, Scope, Send

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.describe.stored import ModelRepository
from aiaas_server.core.events import Observer
from aiaas_server.core.isolation import families_of as isolation_families
from aiaas_server.core.measures import Measure
from aiaas_server.core.model import Aliases, Choose
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.session import OpenSession
from aiaas_server.garbage import settle, unsettle
from aiaas_server.generate import open_generator
from aiaas_server.generate.measures import families_of
from aiaas_server.http.auth import nobody
from aiaas_server.http.gate import Endpoint, Gate
from aiaas_server.http.hot import HotEndpoint, HotRoutes
from aiaas_server.http.incoming import route_path
from aiaas_server.http.kserve.explain import ExplainRoutes
from aiaas_server.http.kserve.predict import PredictRoutes
from aiaas_server.http.oip.dynamic_settings import DynamicSettings
from aiaas_server.http.oip.health import HealthRoutes
from aiaas_server.http.oip.infer import HotInfer
from aiaas_server.http.oip.infer_route import InferRoute
from aiaas_server.http.oip.regions import Regions
from aiaas_server.http.openai.errors import for_path
from aiaas_server.http.operations import Operations
from aiaas_server.http.process_group import ProcessGroup, SingleProcess
from aiaas_server.http.routes import (
    Routed,
    make_metrics_router,
    make_router,
    match_infer,
    match_predict,
    read_version,
    refuse_method,
)
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.tenants import TenantCounts
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.tasks import Tasks

if TYPE_CHECKING:
    from aiaas_server.platform import Platform

logger = logging.getLogger("aiaas_server")

MakeGroup = Callable[[Operations, ModelPool, RequestMetrics], ProcessGroup]


class Application:
    """The ASGI application: infer as a bare callable, everything else through Starlette's router.

    Its lifespan starts the pool and closes it. Models load in the background: `live` answers at
    once, `ready` when they are there. Without a lifespan, in process, use it as an asynchronous
    context manager.

    Args:
        make_group: Gives the other processes of the server, if there are any.
        observed: Whether the pool has observers, who want to know who asked.
        platform: What `--data` adds, if it is given.
        measures: Tell further numbers for the metrics page.

    Attributes:
        pool: The models.
        settings: The settings it was made with.
        hot: What a server of ours may call past ASGI.
        metrics: An ASGI application that answers only `GET /metrics`, for a port of its own.
    """

    def __init__(
        self,
        pool: ModelPool,
        settings: Settings,
        make_group: MakeGroup = SingleProcess,
        *,
        observed: bool = False,
        platform: Platform | None = None,
        measures: Sequence[Measure] = (),
    ) -> None:
        self.pool = pool
        self.settings = settings
        self._platform = platform
        further = (*measures, *(() if platform is None else platform.measures))
        counts = RequestMetrics(
            (
                lambda: families_of(pool.models()),
                lambda: isolation_families(pool.models()),
                *further,
            )
        )
        dynamic, regions = DynamicSettings(), Regions()
        operations = Operations(pool, dynamic, regions)
        if platform is not None:
            operations.follow = platform.bring
            operations.follow_keys = platform.tenancy.identities.look
        group = make_group(operations, pool, counts)
        self._gate = Gate(
            settings,
            counts,
            observed=observed,
            in_dialect=for_path,
            find_key=None if platform is None else platform.find_key,
            entrance=None if platform is None else platform.entrance,
            refused=nobody if platform is None else platform.acts.refused,
        )
        self._hot_infer = HotInfer(pool, settings)
        self._infer = InferRoute(self._hot_infer, pool, settings, regions)
        self._predict = PredictRoutes(pool, settings)
        self._health = HealthRoutes(pool, group)
        explain = ExplainRoutes(pool, settings, None if platform is None else platform.reference)
        more = platform.routes(pool, group) if platform is not None else ()
        router = make_router(
            *(pool, settings, group, dynamic, regions, self._predict, explain, self._health),
            more,
            acts=None if platform is None else platform.acts,
        )
        self._routes = Routed(router)
        self.metrics = partial(self._gate.serve, Routed(make_metrics_router(pool, group)))
        self.hot = HotRoutes(self._gate, self._find_hot, settings.max_body_bytes)
        self._starting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "http":
            await self._gate.serve(self._find(scope), scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _find(self, scope: Scope) -> Endpoint:
        """Who answers an HTTP request."""
        match = match_infer(route_path(scope))
        if match is None:
            return self._routes
        if scope["method"] != "POST":
            return refuse_method
        return partial(self._infer.infer, *_addressed(match))

    def _find_hot(self, method: str, path: str) -> HotEndpoint | None:
        """Who answers such requests by plain calls; None where nobody does."""
        if method == "GET":
            return self._health.hot.get(path)
        if method != "POST":
            return None
        if path == "/predict":
            return self._predict.hot.simple
        begin, match = self._hot_infer.begin, match_infer(path)
        if match is None:
            begin, match = self._predict.hot.v1, match_predict(path)
        if match is None:
            return None
        return partial(begin, *_addressed(match))

    def refused(self, code: ErrorCode) -> None:
        """Count an error that was answered before the request came here."""
        self._gate.refused(code)

    async def start(self) -> None:
        """Load the models; returns when each of them serves or has been refused."""
        if self._platform is not None:
            await self._platform.start()
        await self.pool.start()
        if self._platform is not None:
            self._platform.follow(self.pool)

    async def close(self) -> None:
        """Stop: queued and running work is abandoned, models are released."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self.pool.close()
        if self._platform is not None:
            await self._platform.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        self._starting = asyncio.create_task(self._start_in_background())
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await self.close()
        unsettle()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start_in_background(self) -> None:
        try:
            await self.start()
            settle()
        except Exception:
            logger.exception("the models could not be loaded; the server stays not ready")


def _addressed(match: re.Match[str]) -> tuple[str, int | str | None]:
    """The model and version that a path names."""
    return match[1], None if match[2] is None else read_version(match[2])


def create_app(
    settings: Settings | None = None,
    *,
    observers: Sequence[Observer] = (),
    make_group: MakeGroup = SingleProcess,
    choose: Choose | None = None,
    local: bool = False,
) -> Application:
    """Make the server as an ASGI application.

    Args:
        settings: All settings; read from the environment when not given.
        observers: Called with a record of every request.
        make_group: Gives the other processes of the server, if there are any.
        choose: Decides the version of calls that name none; by default the newest that is ready.
        local: Whoever calls runs this server, and needs no key: it is the operator.
    Raises:
        LoadFailed: The repository does not exist.
        DataRefused: What `data` names cannot be used, see `state.prepare`.
    """
    settings = settings or Settings.from_environment()
    scratch: Path | None = None
    if settings.data is not None:
        from aiaas_server.state.prepare import prepare, scratch_of

        settings = prepare(settings, local=local)
        scratch = scratch_of(settings)
    opened = partial(
        open_session,
        providers=settings.providers,
        intra_op_threads=settings.threads_per_run,
    )
    repository = Repository(settings.models, scratch)
    platform: Platform | None = None
    isolated: OpenSession | None = None
    stored: ModelRepository = repository
    aliases: Aliases | None = None
    if settings.data is not None:
        from aiaas_server.platform import Platform  # the database and all that only where wanted
        from aiaas_server.runtimes.sandbox import open_isolated

        platform = Platform(settings, repository, local=local)
        isolated = partial(
            open_isolated,
            providers=settings.providers,
            intra_op_threads=settings.threads_per_run,
            memory_bytes=settings.sandbox_memory_bytes,
            allow_weak=settings.allow_weak_sandbox,
        )
        stored = platform.repository
        observers = (*observers, *platform.observers)
        choose, aliases = choose or platform.choose, platform.aliases
    if settings.otel:
        from aiaas_server.observe.spans import SpanObserver  # OpenTelemetry only where wanted

        observers = (*observers, SpanObserver())
    measures: tuple[Measure, ...] = ()
    if settings.tenant_metrics:
        counts = TenantCounts(settings.tenant_metrics)
        observers, measures = (*observers, counts), (counts.families,)
    bundles = Bundles(stored.read_beside, Tasks().open, open_generator)
    pool = ModelPool(
        stored,
        opened,
        settings,
        observers,
        bundles,
        choose=choose,
        aliases=aliases,
        names=None if platform is None else platform.names,
        on_serve=None if platform is None else platform.on_serve,
        open_isolated=isolated,
    )
    observed = bool(observers) or platform is not None
    return Application(
        pool, settings, make_group, observed=observed, platform=platform, measures=measures
    )
