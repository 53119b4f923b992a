"""How a fake server answers: the Open Inference Protocol, the task and the generate routes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from pydantic import BaseModel

from aiaas_client.protocol.codec import (
    Encoded,
    decode_request,
    encode_response,
    parse_header_length,
)
from aiaas_client.protocol.compression import inflate
from aiaas_client.protocol.inference import CodecError, InferRequest, InferResponse
from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.testing.explaining import explained_model, explained_task
from aiaas_client.testing.fake_model import CODES, FakeError, FakeModel
from aiaas_client.testing.generating import generated
from aiaas_client.testing.managing import Managing
from aiaas_client.testing.state import Answer, FakeTask, RecordedRequest, State
from aiaas_client.testing.writing import heard, on_openai, written

_LARGEST_BODY = 64 * 2**20


def inference_of(path: str, headers: Mapping[str, str], body: bytes) -> InferRequest | None:
    if not path.endswith("/infer"):
        return None
    try:
        return _decode(headers, body)
    except CodecError:
        return None


def _decode(headers: Mapping[str, str], body: bytes) -> InferRequest:
    if headers.get("content-encoding", "identity") != "identity":
        body = inflate(body, _LARGEST_BODY)
    told = headers.get("inference-header-content-length")
    length = None if told is None else parse_header_length(told, len(body))
    return decode_request(bytearray(body), length)


def respond(state: State, request: RecordedRequest, managing: Managing | None) -> Answer:
    try:
        return _route(state, request, managing)
    except FakeError as error:
        return _error(error.status, error.text, error.code)
    except (CodecError, ValueError) as error:
        return _error(400, str(error))
    except Exception as error:
        return _error(500, f"{type(error).__name__}: {error}", "inference_failed")


def _error(status: int, text: str, code: str = "") -> Answer:
    content = {"error": text, "code": code or CODES.get(status, "internal")}
    return _json(content, status)


def _json(content: Any, status: int = 200) -> Answer:
    return Answer(status, PYDANTIC_JSON.dumps(content), [("Content-Type", "application/json")])


def _route(state: State, request: RecordedRequest, managing: Managing | None) -> Answer:
    match request.path.strip("/").split("/"):
        case ["v2", "health", "live"]:
            return Answer(200, b"")
        case ["v2", "health", "ready"]:
            return Answer(200, b"") if state.ready else _error(503, "not ready", "model_not_ready")
        case ["v1" | "v2" | "api", *_] if not _allowed(state, request):
            return _error(401, "expected 'Authorization: Bearer <key>'")
        case ["api", "v1", *rest]:
            if managing is None:
                raise FakeError(404, "Not Found")
            return managing.answer(request, rest)
        case ["v1", "chat", "completions"]:
            return on_openai(lambda: written(state, request, chat=True))
        case ["v1", "completions"]:
            return on_openai(lambda: written(state, request, chat=False))
        case ["v1", "audio", "transcriptions"]:
            return on_openai(lambda: heard(state, request))
        case ["v1", "models", *rest] if rest:
            return _task_route(state, request, "/".join(rest))
        case ["v2"]:
            extensions = list(state.extensions)
            return _json({"name": "fake", "version": "1", "extensions": extensions})
        case ["v2", "repository", *rest]:
            return _repository(state, rest)
        case ["v2", "models", "stats"]:
            entries = [model.statistics("") for model in state.models.values() if model.loaded]
            return _json({"model_stats": entries})
        case ["v2", "models", name, *_, ("generate" | "generate_stream") as verb]:
            return generated(state, request, name, stream=verb == "generate_stream")
        case ["v2", "models", name, "versions", version, *rest]:
            return _model_route(state, request, _find(state, name, version), version, rest)
        case ["v2", "models", name, *rest]:
            return _model_route(state, request, _find(state, name, ""), "", rest)
    raise FakeError(404, f"unknown route {request.path!r}")


def _allowed(state: State, request: RecordedRequest) -> bool:
    expected = f"Bearer {state.api_key}"
    return not state.api_key or request.headers.get("authorization") == expected


def _find(state: State, name: str, version: str) -> FakeModel:
    model = state.models.get(name)
    if model is None and (name in state.writers or name in state.hearers):
        raise FakeError(404, "no metadata here", code="not_found")
    if model is None or not model.loaded:
        text = f"Request for unknown model: {name!r} is not found"
        raise FakeError(404, text, code="model_not_found")
    if version and version not in model.versions:
        text = f"Request for unknown model: {name!r} version {version} is not found"
        raise FakeError(404, text, code="version_not_found")
    return model


def _repository(state: State, rest: Sequence[str]) -> Answer:
    match rest:
        case ["index"]:
            return _json([_entry(m, v) for m in state.models.values() for v in m.versions])
        case ["models", name, ("load" | "unload") as verb]:
            model = state.models.get(name)
            if model is None and verb == "load":
                raise FakeError(404, f"model {name!r} is not found", code="model_not_found")
            if model is not None:
                model.loaded = verb == "load"
            return _json({})
    raise FakeError(404, "unknown route")


def _entry(model: FakeModel, version: str) -> dict[str, str]:
    if model.loaded:
        return {"name": model.name, "version": version, "state": "READY"}
    unloaded = {"state": "UNAVAILABLE", "reason": "unloaded"}
    return {"name": model.name, "version": version, **unloaded}


def _model_route(
    state: State, request: RecordedRequest, model: FakeModel, version: str, rest: Sequence[str]
) -> Answer:
    match rest:
        case []:
            if not model.inputs:
                raise FakeError(404, "no metadata here", code="not_found")
            return _tagged(request, _json(model.metadata(version)))
        case ["ready"]:
            return _json({"name": model.name, "ready": True})
        case ["config"]:
            return _json(model.config())
        case ["stats"]:
            return _json({"model_stats": [model.statistics(version)]})
        case ["infer"]:
            return _infer(state, request, model, version)
    raise FakeError(404, f"unknown route {request.path!r}")


def _tagged(request: RecordedRequest, answer: Answer) -> Answer:
    """With an ETag; 304 without a body for a client that has this very content already."""
    etag = f'"{crc32(answer.body):08x}"'
    headers = [*answer.headers, ("ETag", etag)]
    if request.headers.get("if-none-match") == etag:
        return Answer(304, b"", headers)
    return answer._replace(headers=headers)


def _infer(state: State, request: RecordedRequest, model: FakeModel, version: str) -> Answer:
    if request.method != "POST":
        raise FakeError(405, "Method Not Allowed")
    if request.binary and "binary_tensor_data" not in state.extensions:
        raise FakeError(400, "the body is not JSON", code="invalid_json")
    decoded = _decode(request.headers, request.body)
    answer = InferResponse(model.name, version or model.versions[-1], model.run(decoded))
    answer.id = decoded.id
    return _encoded(encode_response(answer, decoded))


def _task_route(state: State, request: RecordedRequest, path: str) -> Answer:
    """`/v1/models/{m}[/versions/{v}][:predict|:explain]`."""
    path, colon, verb = path.partition(":")
    name = path.partition("/")[0]
    served = state.tasks.get(name)
    if colon and verb == "explain":
        return _explained(state, request, name)
    if served is None or (colon and verb != "predict"):
        raise FakeError(404, f"model {name!r} is not found", code="model_not_found")
    if not colon:
        return _json({"id": name, "name": name, "task": served.task, "input": served.kind})
    instances: list[Any] = [request.body]
    params: Mapping[str, Any] = {}
    if request.headers.get("content-type") != "application/octet-stream":
        document = PYDANTIC_JSON.loads(request.body)
        instances, params = document["instances"], document.get("parameters") or {}
    answers = [_predicted(served, instance, params) for instance in instances]
    failed = [answer for answer in answers if isinstance(answer, FakeError)]
    if len(failed) == len(answers):
        raise failed[0]
    entries = [_prediction_entry(answer) for answer in answers]
    answer = _json({"predictions": entries})
    return answer._replace(headers=[*answer.headers, ("X-AIAAS-Task", served.task)])


def _explained(state: State, request: RecordedRequest, name: str) -> Answer:
    document = PYDANTIC_JSON.loads(request.body)
    served = state.tasks.get(name)
    if served is not None:
        found = explained_task(name, served, document)
    else:
        found = explained_model(_find(state, name, ""), document)
    return _json({"model_name": name, "model_version": "1", "explanations": found})


def _predicted(served: FakeTask, instance: Any, params: Mapping[str, Any]) -> Any:
    if isinstance(instance, dict) and set(instance) == {"b64"}:
        instance = base64.b64decode(instance["b64"])
    try:
        return served.function(instance, **params)
    except FakeError as error:
        return error
    except ValueError as error:
        return FakeError(400, str(error), code="invalid_request")


def _prediction_entry(answer: Any) -> Any:
    if isinstance(answer, FakeError):
        code = answer.code or CODES.get(answer.status, "internal")
        return {"error": answer.text, "code": code}
    return answer.model_dump(mode="json") if isinstance(answer, BaseModel) else dict(answer)


def _encoded(encoded: Encoded) -> Answer:
    headers = [("Content-Type", encoded.content_type)]
    if encoded.json_length is not None:
        headers.append(("Inference-Header-Content-Length", str(encoded.json_length)))
    return Answer(200, encoded.join(), headers)
