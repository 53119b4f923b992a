"""What a person has in, what a person wants out: KServe's V1 routes and the simple form.

`POST /v1/models/{m}:predict` with `{"instances": [...]}` answers `{"predictions": [...]}`.
`POST /predict` with `{"text": ...}` (or image, audio, features, bytes) answers the prediction's own
fields. Both take a raw body under its own content type.

Mixed outcomes: 200 when at least one instance has a prediction; an entry of the others is
`{"error": text, "code": code}` in its place. When none has, the answer is the first one's error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.predictions import PREDICTIONS, Prediction, json_schema_of
from aiaas_server.core.errors import InvalidInput, ModelNotFound, OutputTooLarge, ServerError
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool import ModelPool
from aiaas_server.core.predict import MAX_DEPTH, Answer, Predictor, task_of
from aiaas_server.core.task import PayloadKind
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.body import check_length, read_rest, unwrap
from aiaas_server.http.control import parse_object
from aiaas_server.http.disconnect import while_connected
from aiaas_server.http.errors import problem_of
from aiaas_server.http.fastjson import FAST_JSON
from aiaas_server.http.head import Headers, deadline_seconds, read_headers
from aiaas_server.http.payloads import payload_of, raw_kind, raw_payload, simple_form
from aiaas_server.settings import Settings

# The task a payload is for when the caller names neither a model nor a task.
FIRST_TASK: dict[str, str] = {
    "text": "text-classification",
    "image": "image-classification",
    "audio": "voice-activity",
    "features": "tabular-classification",
    "bytes": "file-type",
}
MAX_LISTED = 20


class PredictRoutes:
    """Predictions by JSON or raw bodies."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._predictor = Predictor(pool.resolve)

    async def v1(self, request: Request) -> Response:
        """`POST /v1/models/{m}[/versions/{v}]:predict`."""
        name, version = request.path_params["model"], request.path_params.get("version")
        self._pool.resolve(name, version)
        deadline, kind, body = await self._read(request)
        model = self._pool.resolve(name, version)
        if kind is None:
            document = await self._parse(body)
            instances, params = _instances(document)
        else:
            instances, params = [raw_payload(kind, body)], _query_params(request)
        is_large = len(body) > self._settings.offload_json_bytes
        answers = await self._answers(
            request, model, instances, params, deadline, kind, is_large=is_large
        )
        return await self._listed(model, answers)

    async def simple(self, request: Request) -> Response:
        """`POST /predict`."""
        deadline, kind, body = await self._read(request)
        if kind is not None:
            query = request.query_params
            model = self._choose(kind, query.get("model", ""), 0, query.get("task", ""))
            payload = raw_payload(kind, body)
            params = _query_params(request)
            answers = await self._answers(request, model, [payload], params, deadline, kind)
            return await self._single(model, answers)
        is_large = len(body) > self._settings.offload_json_bytes
        asked = simple_form(await self._parse(body))
        model = self._choose(asked.kind, asked.model, asked.version, asked.task)
        answers = await self._answers(
            request, model, asked.payloads, asked.params, deadline, is_large=is_large
        )
        if asked.many:
            return await self._listed(model, answers)
        return await self._single(model, answers)

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{m}`: KServe's and OpenAI's members in one object."""
        params = request.path_params
        return JsonAnswer(describe(self._pool.resolve(params["model"], params.get("version"))))

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`: the models that serve now, the latest version of each."""
        newest = {model.name: model for model in self._pool.models()}
        data = [describe(model, brief=True) for model in newest.values()]
        return JsonAnswer({"object": "list", "data": data})

    async def _read(self, request: Request) -> tuple[float, PayloadKind | None, bytes]:
        """The deadline, the kind of a raw body (None is JSON), and the body."""
        headers = read_headers(request.scope)
        kind = raw_kind(headers.get(b"content-type", b"").decode("latin-1"))
        settings = self._settings
        seconds = deadline_seconds(headers, settings.default_deadline, settings.max_deadline)
        deadline = asyncio.get_running_loop().time() + seconds
        # A few megabytes of JSON can become a hundred times as much memory; a file cannot.
        limit = settings.max_json_bytes if kind is None else settings.max_body_bytes
        return deadline, kind, await read_body(request, headers, limit, deadline)

    async def _parse(self, body: bytes) -> dict[str, Any]:
        if len(body) > self._settings.offload_json_bytes:
            return await asyncio.to_thread(parse_object, body)
        return parse_object(body)

    async def _answers(
        self,
        request: Request,
        model: LoadedModel,
        instances: Sequence[Any],
        params: dict[str, Any],
        deadline: float,
        raw: PayloadKind | None = None,
        *,
        is_large: bool = False,
    ) -> list[Answer]:
        kind = task_of(model).input
        if raw is not None and not _fits(raw, kind):
            raise InvalidInput(f"model '{model.name}' takes {_named(kind)}, got {_named(raw)}")
        if is_large:  # base64 of megabytes
            payloads, problems = await asyncio.to_thread(_payloads, kind, instances, raw)
        else:
            payloads, problems = _payloads(kind, instances, raw)
        work = self._predictor.predict(model, list(payloads.values()), params, deadline)
        answered = await while_connected(work, request.scope, request.receive)
        by_index = {**problems, **dict(zip(payloads, answered, strict=True))}
        return [by_index[index] for index in range(len(instances))]

    async def _listed(self, model: LoadedModel, answers: Sequence[Answer]) -> Response:
        if all(isinstance(answer, ServerError) for answer in answers):
            raise _all_failed(answers)
        text = await self._written(answers)
        return _answer(model, answers, b'{"predictions":[' + text + b"]}")

    async def _single(self, model: LoadedModel, answers: Sequence[Answer]) -> Response:
        (answer,) = answers
        if isinstance(answer, ServerError):
            raise answer
        text = await self._written(answers)
        if "model" not in type(answer).model_fields:
            name = b'"model":' + FAST_JSON.dumps(model.name)
            text = text[:-1] + (b"," if len(text) > 2 else b"") + name + b"}"
        return _answer(model, answers, text)

    async def _written(self, answers: Sequence[Answer]) -> bytes:
        if len(answers) > 64:
            text = await asyncio.to_thread(write_answers, answers)
        else:
            text = write_answers(answers)
        if len(text) > self._settings.max_answer_bytes:
            limit = self._settings.max_answer_bytes
            raise OutputTooLarge(f"the answer has {len(text)} bytes, at most {limit} are sent")
        return text

    def _choose(self, kind: PayloadKind, name: str, version: int, task: str) -> LoadedModel:
        """The model for a payload: named, or the default, or the only one that fits."""
        if name:
            return self._pool.resolve(name, version or None)
        defaults = self._settings.default_models
        default = defaults.get(task) if task else defaults.get(kind)
        if default is not None:
            return self._pool.resolve(default, None)
        newest = {m.name: m for m in self._pool.models() if m.task is not None}
        if task:
            fitting = [m for m in newest.values() if m.card is not None and m.card.task == task]
            return _only(fitting, f"task '{task}'", newest)
        fitting = [m for m in newest.values() if _fits(kind, self._kind_of(m))]
        first = [m for m in fitting if m.card is not None and m.card.task == FIRST_TASK.get(kind)]
        default = defaults.get(FIRST_TASK.get(kind, ""))
        if default is not None and any(model.name == default for model in first):
            return self._pool.resolve(default, None)
        direct = [m for m in fitting if m.card is not None and not m.card.steps]
        return _only(first or direct or fitting, _named(kind), newest)

    def _kind_of(self, model: LoadedModel) -> PayloadKind:
        """What its payloads are; a pipeline's are its first step's."""
        for _ in range(MAX_DEPTH):
            if model.card is None or not model.card.steps:
                break
            first = model.card.steps[0]
            if not self._pool.is_ready(first.model, first.version or None):
                break
            model = self._pool.resolve(first.model, first.version or None)
        return task_of(model).input


async def read_body(request: Request, headers: Headers, limit: int, deadline: float) -> bytes:
    """The whole body, inflated.

    Raises:
        HttpError: 413, 408, 400 or 415, as the infer route.
    """
    length = check_length(headers, limit)
    first = {"type": "http.request", "body": b"", "more_body": True}
    body = await read_rest(request.scope, first, request.receive, length, limit, deadline)
    return bytes(await unwrap(body, headers, limit))


def describe(model: LoadedModel, *, brief: bool = False) -> dict[str, Any]:
    """A model as KServe (`name`, `ready`) and OpenAI (`id`, `object`) tell it, and its task."""
    card = model.card
    about: dict[str, Any] = {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "aiaas",
        "name": model.name,
        "ready": True,
        "version": str(model.version),
        "task": card.task if card is not None else None,
    }
    if brief or card is None or model.task is None:
        return about
    about |= {
        "description": card.description,
        "licence": card.licence,
        "metrics": card.metrics,
        "input": model.task.input,
        "params_schema": model.task.params.model_json_schema(),
        "prediction_schema": json_schema_of(card.task),
    }
    return about


def write_answers(answers: Sequence[Answer]) -> bytes:
    """The entries of `predictions`, without the brackets."""
    return b",".join(
        _error_entry(answer)
        if isinstance(answer, ServerError)
        else answer.model_dump_json().encode()
        for answer in answers
    )


def _error_entry(error: ServerError) -> bytes:
    problem = problem_of(error)
    return FAST_JSON.dumps({"error": problem.message[:512], "code": problem.code.value})


def _answer(model: LoadedModel, answers: Sequence[Answer], text: bytes) -> Response:
    headers = {
        "x-aiaas-model": model.name,
        "x-aiaas-version": str(model.version),
        "x-aiaas-task": _task_name(model, answers),
    }
    return Response(text, media_type="application/json", headers=headers)


def _task_name(model: LoadedModel, answers: Sequence[Answer]) -> str:
    """The card's task; for a pipeline one whose predictions are of the same type."""
    name = model.card.task if model.card is not None else ""
    if name != "pipeline":
        return name
    kinds = {type(answer) for answer in answers if isinstance(answer, Prediction)}
    return next((task for task, own in PREDICTIONS.items() if kinds <= set(own)), name)


def _all_failed(answers: Sequence[Answer]) -> ServerError:
    first = answers[0]
    assert isinstance(first, ServerError)  # the caller has seen that all are
    if len(answers) > 1:
        first.message = f"instance 0: {first.message} (and {len(answers) - 1} more)"
    return first


def _instances(document: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    instances = document.get("instances")
    if not isinstance(instances, list) or not instances:
        raise InvalidInput("'instances': expected a list of one or more instances")
    params: dict[str, Any] = {}
    for name in ("parameters", "params"):
        given = document.get(name) or {}
        if not isinstance(given, dict):
            raise InvalidInput(f"'{name}': expected an object")
        params |= given
    if document.get("top_k") is not None:
        params["top_k"] = document["top_k"]
    return instances, params


def _payloads(
    kind: PayloadKind, instances: Sequence[Any], raw: PayloadKind | None
) -> tuple[dict[int, Any], dict[int, Answer]]:
    """Payloads by index, and by index what is wrong with the others."""
    if raw is not None:
        return dict(enumerate(instances)), {}
    payloads: dict[int, Any] = {}
    problems: dict[int, Answer] = {}
    for index, instance in enumerate(instances):
        try:
            payloads[index] = payload_of(kind, instance)
        except InvalidInput as error:
            problems[index] = error
    return payloads, problems


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


def _fits(given: PayloadKind, wanted: PayloadKind) -> bool:
    if wanted == "any":
        return True
    return given == wanted or (given == "bytes" and wanted in ("image", "audio"))


def _named(kind: PayloadKind) -> str:
    names = {"text": "a text", "image": "an image", "audio": "audio", "bytes": "a file"}
    return names.get(kind, kind)


def _only(fitting: Sequence[LoadedModel], what: str, models: dict[str, LoadedModel]) -> LoadedModel:
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(f"'{model.name}'" for model in fitting[:MAX_LISTED])
        raise InvalidInput(f"several models take {what}: name one of {names} as 'model'")
    names = ", ".join(f"'{name}'" for name in list(models)[:MAX_LISTED]) or "none"
    raise ModelNotFound(f"no model here is for {what}; models with a task: {names}")
