"""`POST /v1/models/{m}[/versions/{v}]:explain`: what a prediction stands on.

The body is that of a predict call, with `parameters` of its own. What is needed for it is loaded
with the first such call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import DeadlineExceeded, QueueFull
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.incoming import SizeLimit, context_of, read_body, while_connected
from aiaas_server.http.json_body import parse_body
from aiaas_server.http.kserve.payloads import payload_of, raw_kind
from aiaas_server.http.lookup import in_use, obtain_addressed
from aiaas_server.http.openapi import Asks, DescribedRoute, Tells
from aiaas_server.http.scopes import INFER, Needs
from aiaas_server.settings import Settings

if TYPE_CHECKING:
    from aiaas_client.protocol.explanations import ExplainRequest

AT_ONCE: Final = 2
"""Calls that are worked on in one process; others wait, as long as they may."""
MOST_WAITING: Final = 16
MARGIN, MOST_MARGIN = 0.1, 1.0
"""Part of the time that is left, and seconds at most, kept for the answer."""

Reference = Callable[[LoadedModel, str], Awaitable[Sequence[Any] | None]]
"""The features of a version's reference profile, for a tenant; None where it has none."""


class ExplainRoutes:
    """Explanations of single predictions.

    Args:
        reference: Gives the reference profiles of versions, where there are any.
    """

    def __init__(
        self, pool: ModelPool, settings: Settings, reference: Reference | None = None
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._reference = reference
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._limit = SizeLimit(settings.max_json_bytes, "max_json_bytes")

    def routes(self) -> list[BaseRoute]:
        """Of the latest version, and of one that is named."""
        paths = ("/v1/models/{model}", "/v1/models/{model}/versions/{version:version}")
        return [
            LateRoute(f"{path}:explain", self.explain, "POST", _documents, INFER) for path in paths
        ]

    async def explain(self, request: Request) -> Response:
        """Explain predictions: what each feature, word or part of a picture adds to them."""
        model = await obtain_addressed(self._pool, request)  # refused before the body is read
        asked = await self._asked(request)
        model = await obtain_addressed(self._pool, request)
        work = self._explained(model, asked, request)
        return JsonAnswer(await while_connected(work, request.scope, request.receive))

    async def _asked(self, request: Request) -> ExplainRequest:
        context = context_of(request)
        kind = raw_kind(context.headers.get(b"content-type", b"").decode("latin-1"))
        if kind is not None:
            raise HttpError(
                415,
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                'explain calls are JSON: files go in as {"b64": ...} among the instances',
            )
        body = await read_body(request, self._limit, context.deadline)
        document = await parse_body(body, self._settings.offload_json_bytes)
        asks, _ = _documents()
        try:
            asked: ExplainRequest = asks.model_validate(document)
        except ValidationError as error:
            raise bad_request(_problem(error)) from None
        return asked

    async def _explained(
        self, model: LoadedModel, asked: ExplainRequest, request: Request
    ) -> dict[str, Any]:
        from aiaas_client.protocol.explanations import ExplainAnswer
        from aiaas_server.explain.choice import Sources
        from aiaas_server.explain.explainer import explained

        context = context_of(request)
        kind = "any" if model.task is None else model.task.input
        payloads = [payload_of(kind, instance) for instance in asked.instances]
        sources = Sources(
            partial(self._pool.read_beside, model, "golden.json"),
            partial(self._profile, model, context.caller.identity.tenant),
            _pixels,
        )
        async with self._turn(context.deadline):
            left = context.deadline - asyncio.get_running_loop().time()
            stop = context.deadline - min(left * MARGIN, MOST_MARGIN)
            with in_use(model):
                found = await explained(model, payloads, asked.parameters, sources, stop)
        answer = ExplainAnswer(
            model_name=model.name, model_version=str(model.version), explanations=found
        )
        return answer.model_dump(mode="json", exclude_none=True)

    async def _profile(self, model: LoadedModel, tenant: str) -> Sequence[Any] | None:
        return None if self._reference is None else await self._reference(model, tenant)

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        if self._waiting >= MOST_WAITING:
            raise QueueFull(
                f"{AT_ONCE} explain calls are worked on and {self._waiting} wait", retry_after=1.0
            )
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self._turns.acquire()
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while other explain calls ran") from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()


class LateRoute(DescribedRoute):
    """A route whose documents are loaded when somebody asks for them."""

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        method: str,
        load: Callable[[], tuple[type[BaseModel], Tells]],
        needs: Needs,
    ) -> None:
        super().__init__(path, endpoint, method, needs)
        self._load = load

    def documents(self) -> tuple[Asks, Tells]:
        """What it asks and tells."""
        return self._load()


def _documents() -> tuple[type[ExplainRequest], Tells]:
    from aiaas_client.protocol.explanations import ExplainAnswer, ExplainRequest

    return ExplainRequest, ExplainAnswer


def _pixels(payload: Any) -> Any:
    from aiaas_server.tasks.images import decode_image

    return decode_image(payload)


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong with a body, in one line."""
    from difflib import get_close_matches

    from aiaas_client.protocol.explanations import ExplainParameters, ExplainRequest

    errors = error.errors(include_url=False, include_context=False)
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    *parents, last = first["loc"] or ("body",)
    where = ".".join(map(str, (*parents, last)))
    if first["type"] != "extra_forbidden":
        got = first["input"]
        came = f", got {str(got)[:64]!r}" if isinstance(got, str | int | float) else ""
        return f"{where}: {first['msg']}{came}"
    known = list((ExplainParameters if parents else ExplainRequest).model_fields)
    near = get_close_matches(str(last), known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown member '{where[:64]}'{hint}; known: {', '.join(known)}"
