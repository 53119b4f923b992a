"""`create_app(settings)`: the one place that wires the server together."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any, Self

from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from aiaas_server.core.bundle import Bundles
from aiaas_server.core.card import Assets, Card
from aiaas_server.core.errors import ModelNotFound, VersionNotFound
from aiaas_server.core.events import Observer
from aiaas_server.core.garbage import settle, unsettle
from aiaas_server.core.pool import ModelPool
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import AnyTask, OpenTask
from aiaas_server.http.answers import send_problem, with_common_headers
from aiaas_server.http.auth import OPEN_PATHS, KeyCheck
from aiaas_server.http.changeable import Changeable
from aiaas_server.http.disconnect import ClientGone
from aiaas_server.http.errors import problem_of
from aiaas_server.http.group import Alone, Group
from aiaas_server.http.head import read_headers, request_id_of
from aiaas_server.http.infer import InferRoute, Target
from aiaas_server.http.openai_errors import for_path
from aiaas_server.http.orders import Orders
from aiaas_server.http.regions import Regions
from aiaas_server.http.routes import infer_path, make_metrics_router, make_router, match_infer
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.tracing import take_up
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.store.repository import Repository
from aiaas_server.tasks import Tasks

logger = logging.getLogger("aiaas_server")

MAX_TARGETS = 10_000
_NEEDS_MODEL = re.compile(
    r"/v[12]/models/([^/:]+)(?:/versions/[0-9]+)?(?::predict|/config|/generate|/generate_stream)?"
).fullmatch

MakeGroup = Callable[[Orders, ModelPool, RequestMetrics], Group]


class Application:
    """The ASGI application: infer as a bare callable, everything else through Starlette's router.

    Its lifespan starts the pool and closes it. Models load in the background: `live` answers at
    once, `ready` when they are there. Without a lifespan, in process, use it as an asynchronous
    context manager.

    Args:
        make_group: Gives the other processes of the server, if there are any.
        observed: Whether the pool has observers, who want to know who asked.

    Attributes:
        pool: The models.
        settings: The settings it was made with.
        metrics: An ASGI application that answers only `GET /metrics`, for a port of its own.
    """

    def __init__(
        self,
        pool: ModelPool,
        settings: Settings,
        make_group: MakeGroup = Alone,
        *,
        observed: bool = False,
    ) -> None:
        self.pool = pool
        self.settings = settings
        key = settings.api_key
        key_check = KeyCheck(key.get_secret_value()) if key is not None else None
        counts = RequestMetrics()
        changeable, regions = Changeable(), Regions()
        group = make_group(Orders(pool, changeable, regions), pool, counts)
        router = make_router(pool, settings, group, changeable, regions)
        self._infer = InferRoute(pool, settings, key_check, counts, regions, observed=observed)
        self._routes = GuardedRoutes(router, key_check, counts)
        self.metrics = GuardedRoutes(make_metrics_router(pool, group), key_check, counts)
        if pool.loads_on_demand:
            self._routes.before = self._bring
        self._targets: dict[bytes, Target] = {}  # raw path of an infer route -> what it names
        self._starting: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI connection."""
        if scope["type"] == "http":
            target = self._targets.get(scope["raw_path"]) or self._find_target(scope)
            if target is None:
                await self._routes(scope, receive, send)
            elif scope["method"] == "POST":
                await self._infer.serve(target, scope, receive, send)
            else:
                await self._routes.refuse_method(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    def _find_target(self, scope: Scope) -> Target | None:
        match = match_infer(scope["path"])
        if match is None:
            return None
        name, version = match.groups()
        target = (name, None if version is None else int(version))
        # Only plain spellings of what is served: no client can fill the table with others.
        if len(self._targets) < MAX_TARGETS and self.pool.is_ready(*target):
            self._targets[infer_path(*target)] = target
        return target

    async def _bring(self, path: str) -> None:
        """Have the model loaded that a request for `path` needs, if it names a known one."""
        named = _NEEDS_MODEL(path)
        if named is not None:
            with suppress(ModelNotFound, VersionNotFound):  # the route says so in its own words
                deadline = asyncio.get_running_loop().time() + self.settings.default_deadline
                await self.pool.obtain(named[1], deadline=deadline)

    async def start(self) -> None:
        """Load the models; returns when each of them serves or has been refused."""
        await self.pool.start()

    async def close(self) -> None:
        """Stop: queued and running work is abandoned, models are released."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self.pool.close()

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


class GuardedRoutes:
    """A router behind the key check, with the errors and headers of every answer."""

    def __init__(self, router: Router, key_check: KeyCheck | None, metrics: RequestMetrics) -> None:
        self._router = router
        self._key_check = key_check
        self._metrics = metrics
        self.before: Callable[[str], Awaitable[None]] | None = None
        """Awaited with the path of each request, after the key check."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, whatever happens."""
        await self._answer(scope, receive, send, None)

    async def refuse_method(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405 on the infer route, after the key check like any other answer."""
        refusal = HTTPException(405, headers={"Allow": "POST"})
        await self._answer(scope, receive, send, refusal)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, refusal: HTTPException | None
    ) -> None:
        headers = read_headers(scope)
        request_id = request_id_of(headers)
        take_up(request_id, headers)
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if self._key_check is not None and scope["path"] not in OPEN_PATHS:
                self._key_check.check(scope, headers)
            if refusal is not None:
                raise refusal
            if self.before is not None:
                await self.before(scope["path"])
            scope["app"] = self  # makes the router raise its 404 and 405 instead of answering
            await self._router(scope, receive, with_common_headers(sending, request_id))
        except ClientGone:
            return
        except Exception as error:
            if started:
                raise
            problem = problem_of(error, request_id)
            self._metrics.refused(problem.code)
            await send_problem(send, for_path(problem, scope["path"]), request_id)


def create_app(
    settings: Settings | None = None,
    *,
    observers: Sequence[Observer] = (),
    make_group: MakeGroup = Alone,
) -> Application:
    """Make the server as an ASGI application.

    Args:
        settings: All settings; read from the environment when not given.
        observers: Called with a record of every request.
        make_group: Gives the other processes of the server, if there are any.
    Raises:
        LoadFailed: The repository does not exist.
    """
    settings = settings or Settings.from_environment()
    opened = partial(
        open_session,
        providers=settings.providers,
        intra_op_threads=settings.threads_per_run,
    )
    repository = Repository(settings.models)
    if settings.otel:
        from aiaas_server.observe.spans import SpanObserver  # OpenTelemetry only where wanted

        observers = (*observers, SpanObserver())
    bundles = Bundles(repository.read_beside, Tasks(installed_tasks()).open)
    pool = ModelPool(repository, opened, settings, observers, bundles)
    return Application(pool, settings, make_group, observed=bool(observers))


def installed_tasks() -> Mapping[str, OpenTask]:
    """The tasks of installed packages, by their entry points `aiaas.tasks`; imported when used."""
    return {point.name: _late(point) for point in entry_points(group="aiaas.tasks")}


def _late(point: EntryPoint) -> OpenTask:
    def open_task(
        card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> AnyTask:
        load: Any = point.load()
        task: AnyTask = load(card, assets, signature, metadata)
        return task

    return open_task
