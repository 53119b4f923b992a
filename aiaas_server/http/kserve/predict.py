"""What a person has in, what a person wants out: KServe's V1 routes and the simple form.

`POST /v1/models/{m}:predict` with `{"instances": [...]}` answers `{"predictions": [...]}`.
`POST /predict` with `{"text": ...}` (or image, audio, features, bytes) answers the prediction's own
fields. Both take a raw body under its own content type.

Mixed outcomes: 200 when at least one instance has a prediction; an entry of the others is
`{"error": text, "code": code}` in its place. When none has, the answer is the first one's error.

What needs nothing but plain calls `hot` answers, by whichever way a request comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.tensors import Body
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import Answer, task_of
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.predict import Predictor
from aiaas_server.core.task import PayloadKind
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import HttpError
from aiaas_server.http.hot import AsgiCall, HotEndpoint
from aiaas_server.http.incoming import SizeLimit, context_of, read_body, while_connected
from aiaas_server.http.json_body import parse_body
from aiaas_server.http.kserve.answers import INLINE, PredictionWriter, as_response
from aiaas_server.http.kserve.choice import ModelChoice, fits, named
from aiaas_server.http.kserve.describe import describe, is_part
from aiaas_server.http.kserve.hot import HotPredictions
from aiaas_server.http.kserve.payloads import (
    instances_form,
    json_hint,
    payloads_of,
    raw_kind,
    raw_payload,
    simple_form,
)
from aiaas_server.http.lookup import addressed, in_use, obtain_addressed
from aiaas_server.http.slices import check_count, in_slices
from aiaas_server.settings import Settings


class PredictRoutes:
    """Predictions by JSON or raw bodies.

    Attributes:
        hot: Answers what needs no more than plain calls.
    """

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._predictor = Predictor(pool.obtain)
        self._choice = ModelChoice(pool, settings.default_models)
        self._writer = PredictionWriter(settings.max_answer_bytes)
        self.hot = HotPredictions(pool, settings, self._choice, self._writer)
        # A few megabytes of JSON can become a hundred times as much memory; a file cannot.
        self._max_json = SizeLimit(settings.max_json_bytes, "max_json_bytes")
        self._max_body = SizeLimit(settings.max_body_bytes, "max_body_bytes")

    async def v1(self, request: Request) -> Response:
        """`POST /v1/models/{m}[/versions/{v}]:predict`."""
        await obtain_addressed(self._pool, request)  # refused before the body is read
        kind, body = await self._read(request)
        hot = await self._hot(partial(self.hot.v1, *addressed(self._pool, request)), request, body)
        if hot is not None:
            return hot
        if kind is None:
            instances, params = instances_form(await self._parse(request, body))
        else:
            instances, params = [raw_payload(kind, bytes(body))], _query_params(request)
        model = await obtain_addressed(self._pool, request)  # whatever came and went meanwhile
        answers = await self._answers(
            request, model, instances, params, kind, is_large=self._is_large(body)
        )
        return as_response(await self._writer.write(model, answers, many=True))

    async def simple(self, request: Request) -> Response:
        """`POST /predict`."""
        kind, body = await self._read(request)
        hot = await self._hot(self.hot.simple, request, body)
        if hot is not None:
            return hot
        context = context_of(request)
        if kind is not None:
            query = request.query_params
            model = await self._choice.choose(
                kind, query.get("model", ""), 0, query.get("task", ""), context
            )
            payload = raw_payload(kind, bytes(body))
            params = _query_params(request)
            answers = await self._answers(request, model, [payload], params, kind)
            return as_response(await self._writer.write(model, answers, many=False))
        asked = simple_form(await self._parse(request, body))
        model = await self._choice.choose(
            asked.kind, asked.model, asked.version, asked.task, context
        )
        answers = await self._answers(
            request, model, asked.payloads, asked.params, is_large=self._is_large(body)
        )
        return as_response(await self._writer.write(model, answers, many=asked.many))

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{m}`: KServe's and OpenAI's members in one object."""
        return JsonAnswer(describe(await obtain_addressed(self._pool, request)))

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: the models that serve now, the latest version of each."""
        caller = context_of(request).caller
        newest = {model.name: model for model in self._pool.models(caller)}
        data = [describe(model, brief=True) for model in newest.values() if not is_part(model)]
        return JsonAnswer({"object": "list", "data": data})

    async def _hot(self, begin: HotEndpoint, request: Request, body: Body) -> Response | None:
        """The answer of what plain calls can answer; None of all else."""
        call = AsgiCall(context_of(request), body)
        if not begin(call):
            return None
        return as_response(await while_connected(call.reply(), request.scope, request.receive))

    async def _read(self, request: Request) -> tuple[PayloadKind | None, Body]:
        """The kind of a raw body (None is JSON), and the body."""
        context = context_of(request)
        kind = raw_kind(_content_type(request))
        limit = self._max_json if kind is None else self._max_body
        return kind, await read_body(request, limit, context.deadline)

    async def _parse(self, request: Request, body: Body) -> dict[str, Any]:
        try:
            return await parse_body(body, self._settings.offload_json_bytes)
        except HttpError as error:
            hint = json_hint(_content_type(request))
            raise HttpError(error.status, error.code, error.message + hint) from None

    def _is_large(self, body: Body) -> bool:
        return len(body) > self._settings.offload_json_bytes

    async def _answers(
        self,
        request: Request,
        model: LoadedModel,
        instances: Sequence[Any],
        params: dict[str, Any],
        raw: PayloadKind | None = None,
        *,
        is_large: bool = False,
    ) -> list[Answer]:
        """One answer an instance, in order."""
        with in_use(model):  # since it was found, and in one turn of the loop with that
            return await self._answered(request, model, instances, params, raw, is_large)

    async def _answered(
        self,
        request: Request,
        model: LoadedModel,
        instances: Sequence[Any],
        params: dict[str, Any],
        raw: PayloadKind | None,
        is_large: bool,
    ) -> list[Answer]:
        kind = task_of(model).input
        if raw is not None and not fits(raw, kind):
            raise InvalidInput(f"model '{model.name}' takes {named(kind)}, got {named(raw)}")
        check_count("instances", len(instances), self._settings.max_instances)
        read: list[Any] = list(instances)
        if raw is None:
            slices = await in_slices(
                partial(payloads_of, kind), instances, inline=0 if is_large else INLINE
            )
            read = list(chain.from_iterable(slices))
        payloads = [payload for payload in read if not isinstance(payload, InvalidInput)]
        context = context_of(request)
        work = self._predictor.predict(model, payloads, params, context.deadline, context.caller)
        made = await while_connected(work, request.scope, request.receive)
        if len(made) in (0, len(read)):  # none was one, or all were
            return made or read
        answered = iter(made)
        return [item if isinstance(item, InvalidInput) else next(answered) for item in read]


def _content_type(request: Request) -> str:
    return context_of(request).headers.get(b"content-type", b"").decode("latin-1")


def _query_params(request: Request) -> dict[str, Any]:
    """Params of a raw body, from the query: numbers where they look like numbers."""
    given: dict[str, Any] = {}
    for name, text in request.query_params.items():
        if name not in ("model", "task"):
            given[name] = _number_or_text(text)
    return given


def _number_or_text(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
