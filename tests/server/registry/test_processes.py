"""Several worker processes of one server, each of which follows the registry by itself."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.process.conftest import Command, start_aiaas
from tests.server.registry.bringing import Bringer
from tests.waiting import wait_until

__all__ = ["start_aiaas"]

INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}


def ask(server: Command, method: str, path: str, body: Any) -> Any:
    """On a connection of its own, which any of the workers may take."""
    connection = HTTPConnection(server.host, server.port, timeout=60)
    try:
        headers = {"content-type": "application/json"}
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)
    finally:
        connection.close()


def versions(server: Command) -> set[str]:
    """Which versions answer, of many connections."""
    told = [ask(server, "POST", "/v2/models/m/infer", INFER) for _ in range(16)]
    for one in told:
        assert one["outputs"][0]["data"] == [float(one["model_version"])] * 4
    return {one["model_version"] for one in told}


@pytest.mark.slow
def test_all_workers_follow(
    start_aiaas: Any,
    bringer: Bringer,
    data: Path,
    models: Path,
    onnx_models: SimpleNamespace,
) -> None:
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    server = start_aiaas("--data", data, "--models", models, "--workers", "2")
    wait_until(lambda: versions(server) == {"2"}, "both workers have it")
    for version in (1, 2, 1):
        path = "/api/v1/models/m/aliases/production"
        ask(server, "PUT", path, {"version": version})
        wait_until(lambda v=version: versions(server) == {str(v)}, "both follow")  # type: ignore[misc]
