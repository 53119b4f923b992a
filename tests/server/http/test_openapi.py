"""The OpenAPI document tells every route there is and what each model takes and gives."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from tests.server.http.serving import AsgiCaller
from tests.task_bundles import write_repository

OpenApp = Callable[..., Awaitable[AsgiCaller]]


@pytest_asyncio.fixture
async def document(
    tmp_path: Path, onnx_models: SimpleNamespace, open_app: OpenApp
) -> dict[str, Any]:
    call = await open_app(write_repository(tmp_path / "models", onnx_models))
    answer = await call("GET", "/openapi.json")
    assert answer.status == 200
    loaded: dict[str, Any] = json.loads(answer.body)
    return loaded


async def test_every_route_is_told_with_its_methods(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    paths = document["paths"]
    assert "post" in paths["/v2/models/{model}/versions/{version}/infer"]
    assert {"get", "post"} <= paths["/v2/logging"].keys()
    assert "post" in paths["/predict"]
    assert "get" in paths["/openapi.json"]
    for path, entry in paths.items():
        operations = {key: value for key, value in entry.items() if key != "parameters"}
        assert operations, path
        for operation in operations.values():
            assert operation["summary"], path
            assert "default" in operation["responses"], path


async def test_path_parameters_are_those_in_the_path(document: dict[str, Any]) -> None:
    for path, entry in document["paths"].items():
        for parameter in entry.get("parameters", ()):
            assert "{" + parameter["name"] + "}" in path


async def test_a_model_tells_its_instances_params_and_prediction(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/models/moods:predict"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert body["instances"]["items"] == {"type": "string"}
    assert "top_k" in body["params"]["properties"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    prediction = answer["properties"]["predictions"]["items"]["anyOf"][0]
    assert {"label", "score"} <= prediction["properties"].keys()


async def test_references_point_into_the_document(document: dict[str, Any]) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, list):
            return set().union(*map(references, node))
        if not isinstance(node, dict):
            return set()
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*map(references, node.values()))

    assert references(document) == {"#/components/schemas/Error"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/chat/completions", "application/json"),
        ("/v1/completions", "application/json"),
        ("/v1/responses", "application/json"),
        ("/v1/audio/speech", "application/json"),
        ("/v1/audio/transcriptions", "multipart/form-data"),
        ("/v2/models/{model}/generate", "application/json"),
        ("/v2/models/{model}/versions/{version}/generate_stream", "application/json"),
    ],
)
async def test_routes_of_models_that_write_tell_what_they_take(
    document: dict[str, Any], path: str, kind: str
) -> None:
    asked = document["paths"][path]["post"]["requestBody"]["content"][kind]["schema"]
    assert asked["type"] == "object"
    assert len(asked["properties"]) > 5
