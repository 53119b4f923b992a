"""`GET /openapi.json`: the routes as they are registered, and the served models' own schemas.

Nothing is written twice: paths and methods come from the route table, summaries from the
endpoints' docstrings, and what a model takes and gives from its task.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.predictions import json_schema_of
from aiaas_server import __version__
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.task import PayloadKind
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.incoming import context_of
from aiaas_server.http.scopes import ANY_KEY, INFER, OPEN, Needs, ScopedRoute

Document = dict[str, Any]

_PARAMETER = re.compile(r"\{(\w+)(?::(\w+))?\}")
_BASE64: Document = {
    "type": "object",
    "required": ["b64"],
    "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
}
_VERSION: Document = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "description": "An alias, or 'latest', of a model of the registry."},
    ]
}
_INSTANCES: dict[PayloadKind, Document] = {
    "text": {"type": "string"},
    "image": _BASE64,
    "audio": _BASE64,
    "bytes": _BASE64,
    "features": {
        "anyOf": [{"type": "object"}, {"type": "array", "items": {"type": ["number", "string"]}}]
    },
    "any": {},
}
_FILE: Document = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_INFER: Document = {
    "summary": "Run the model on tensors: the Open Inference Protocol, JSON or binary.",
    "externalDocs": {
        "url": "https://github.com/kserve/open-inference-protocol",
        "description": "Open Inference Protocol",
    },
}
ERROR_SCHEMA: Document = {
    "type": "object",
    "required": ["error", "code", "retryable", "request_id"],
    "properties": {
        "error": {"type": "string", "description": "What was expected and what came."},
        "code": {"type": "string", "enum": [code.value for code in ErrorCode]},
        "retryable": {"type": "boolean"},
        "request_id": {"type": "string"},
    },
}


NOTHING: Final = "nothing"
"""The answer is a 204."""
BYTES: Final = "bytes"
"""The answer is a file."""
Tells = type[BaseModel] | Literal["nothing", "bytes"] | None


class Body(NamedTuple):
    """A body that no class describes: its JSON Schema, and how it is written."""

    schema: Document
    media_type: str = "application/json"


Asks = type[BaseModel] | Body | None


class DescribedRoute(ScopedRoute):
    """A route whose bodies are documents.

    Args:
        needs, act: See `ScopedRoute`.
        asks: What the body of a request is; None where it has none, or is no document.
        tells: What the answer is: a document, `NOTHING` or `BYTES`; None where it is not told.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        method: str,
        needs: Needs,
        *,
        asks: Asks = None,
        tells: Tells = None,
        act: str = "",
    ) -> None:
        name = f"{method} {path}"
        super().__init__(path, endpoint, needs, methods=[method], name=name, act=act)
        self.asks = asks
        self.tells = tells

    def documents(self) -> tuple[Asks, Tells]:
        """What it asks and tells."""
        return self.asks, self.tells


class OpenApiRoute:
    """`GET /openapi.json`, made anew at each call since models come and go.

    Args:
        routes: The route table that this route is part of.
    """

    def __init__(self, pool: ModelPool, routes: list[BaseRoute]) -> None:
        self._pool = pool
        self._routes = routes

    async def document(self, request: Request) -> Response:
        """This document."""
        root, caller = request.scope.get("root_path", ""), context_of(request).caller
        return JsonAnswer(describe_api(self._routes, self._pool.models(caller), root))


def describe_api(
    routes: Iterable[BaseRoute], models: Iterable[LoadedModel], root: str = ""
) -> Document:
    """Make the OpenAPI 3.1 document.

    Args:
        routes: The route table.
        models: What serves now; of several versions the last one is described.
        root: What the application is mounted under.
    """
    paths: dict[str, Document] = {}
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        path = f"{prefix}/infer"
        paths[path] = {"parameters": _path_parameters(path), "post": _operation(INFER, _INFER)}
    for route in routes:
        if isinstance(route, Route):
            path = _PARAMETER.sub(r"{\1}", route.path)
            entry = paths.setdefault(path, {"parameters": _path_parameters(route.path)})
            entry |= _operations(route)
    newest = {model.name: model for model in models if model.task is not None}
    for model in newest.values():
        paths[f"/v1/models/{model.name}:predict"] = {"post": _prediction(model)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "AIaaS", "version": __version__, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": root or "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR_SCHEMA},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}, {}],
    }


def _path_parameters(path: str) -> list[Document]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _VERSION if kind else {"type": "string"},
        }
        for name, kind in _PARAMETER.findall(path)
    ]


def _operations(route: Route) -> Document:
    about: Document = {"summary": _summary(route.endpoint)}
    methods = sorted((route.methods or {"GET"}) - {"HEAD"})
    needs = route.needs if isinstance(route, ScopedRoute) else OPEN
    told = {method.lower(): _operation(needs, about) for method in methods}
    if isinstance(route, DescribedRoute):
        for operation in told.values():
            operation |= _bodies(route)
    return told


def _bodies(route: DescribedRoute) -> Document:
    """What goes in and comes out, as far as it is known."""
    found: Document = {}
    asks, tells = route.documents()
    if asks is not None:
        content = (
            {asks.media_type: {"schema": asks.schema}} if isinstance(asks, Body) else _json(asks)
        )
        found["requestBody"] = {"content": content}
    if tells == NOTHING:
        found["responses"] = {"204": {"description": "Success"}, "default": _error()}
    elif tells is not None:
        content = _FILE if isinstance(tells, str) else _json(tells)
        success = {"description": "Success", "content": content}
        found["responses"] = {"200": success, "default": _error()}
    return found


def _json(kind: type[BaseModel]) -> Document:
    return {"application/json": {"schema": _inlined(kind.model_json_schema())}}


def _summary(endpoint: Any) -> str:
    return (inspect.getdoc(endpoint) or "").partition("\n")[0]


def _operation(needs: Needs, about: Document) -> Document:
    operation = about | {"responses": {"200": {"description": "Success"}, "default": _error()}}
    return operation | {"security": _security(needs)}


def _security(needs: Needs) -> list[Document]:
    """A key with one of the scopes; none on a server without keys."""
    roles = [[] if scope == ANY_KEY else [scope] for scope in needs]
    keys: list[Document] = [{scheme: role} for role in roles for scheme in ("bearer", "key")]
    return [*keys, {}]


def _error() -> Document:
    reference = {"$ref": "#/components/schemas/Error"}
    content = {"application/json": {"schema": reference}}
    return {"description": "Anything else; `code` is stable.", "content": content}


def _prediction(model: LoadedModel) -> Document:
    assert model.task is not None, "only models with a task are described"
    assert model.card is not None, "a task comes from a card"
    body = {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {"type": "array", "items": _INSTANCES[model.task.input]},
            "params": _inlined(model.task.params.model_json_schema()),
        },
    }
    prediction = {"anyOf": [_inlined(json_schema_of(model.card.task)), {"type": "object"}]}
    answer = {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": prediction}},
    }
    return {
        "summary": model.card.description or f"{model.card.task} by {model.name}",
        "tags": [model.card.task],
        "security": _security(INFER),
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "One prediction or error an instance, in order.",
                "content": {"application/json": {"schema": answer}},
            },
            "default": _error(),
        },
    }


def _inlined(schema: Document) -> Document:
    """Put a schema's own definitions where it refers to them, since it becomes part of another.

    A type that refers to itself is cut after one turn.
    """
    definitions = schema.get("$defs", {})

    def resolve(node: Any, seen: frozenset[str]) -> Any:
        if isinstance(node, list):
            return [resolve(item, seen) for item in node]
        if not isinstance(node, dict):
            return node
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name:
            return {} if name in seen else resolve(definitions[name], seen | {name})
        return {key: resolve(value, seen) for key, value in node.items() if key != "$defs"}

    resolved: Document = resolve(schema, frozenset())
    return resolved
