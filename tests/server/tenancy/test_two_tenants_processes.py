"""Two tenants on a server of two workers, and on one whose state is in PostgreSQL."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.process.conftest import Command, start_aiaas
from tests.server.tenancy.conftest import A, B, bringing
from tests.tenants import Tenants
from tests.waiting import wait_until

__all__ = ["start_aiaas"]

INFER = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}


def ask(server: Command, key: str, method: str, path: str, body: Any) -> tuple[int, Any]:
    """On a connection of its own, which any of the workers may take."""
    connection = HTTPConnection(server.host, server.port, timeout=60)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def factors(server: Command, key: str, name: str = "m") -> set[Any]:
    """What the model multiplies by, of many connections; the status where there is none."""
    told = [ask(server, key, "POST", f"/v2/models/{name}/infer", INFER) for _ in range(16)]
    return {body["outputs"][0]["data"][0] if code == 200 else code for code, body in told}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_process_knows_whose_a_name_is(
    start_aiaas: Any,
    data: Path,
    beside: Path,
    state_url: str,
    onnx_models: SimpleNamespace,
    workers: int,
) -> None:
    url = state_url if state_url.startswith("postgresql") else ""  # else the file of the data
    for number, tenant in enumerate((A, B)):
        with bringing(data, tenant, url) as bringer:
            bringer.bring("m", onnx_models.scale(2.0 + number))
            bringer.bring("m", onnx_models.scale(20.0 + number))
    with bringing(data, A, url) as bringer:
        bringer.bring("okapis", onnx_models.scale(7.0))
    tenants = Tenants(data, url)
    a, b = tenants.key(A), tenants.key(B)
    options = ["--data", data, "--models", beside, "--workers", str(workers)]
    given = {"database_url": url.replace("+psycopg", "")} if url else {}
    server = start_aiaas(*options, tenants="1", sandbox="none", **given)
    wait_until(lambda: factors(server, a) == {20.0} and factors(server, b) == {21.0}, "all loaded")
    for version, wanted in ((1, 3.0), (2, 21.0), (1, 3.0)):
        path = "/api/v1/models/m/aliases/production"
        status, body = ask(server, b, "PUT", path, {"version": version})
        assert status == 200, body
        wait_until(lambda w=wanted: factors(server, b) == {w}, "all follow")  # type: ignore[misc]
        assert factors(server, a) == {20.0}
    assert (factors(server, a, "okapis"), factors(server, b, "okapis")) == ({7.0}, {404})
    status, stats = ask(server, a, "GET", "/v2/models/m/stats", None)
    assert (status, {one["name"] for one in stats["model_stats"]}) == (200, {"m"})
