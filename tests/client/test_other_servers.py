"""Servers that know less of the protocol: JSON alone, no extensions, no inputs in the metadata."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from aiaas_client import AsyncClient, Client, InternalServerError

X = np.ones((2, 3), np.float32)


@pytest.fixture
def mlserver(wire: Any, steps: Any) -> Any:
    """Answers as MLServer 1.7.1 does."""

    def respond(connection: Any, received: Any) -> bool:
        return bool(steps.answer(*said(received))(connection, received))

    def said(received: Any) -> tuple[int, Any]:
        if received.target == "/v2":
            return 200, {"name": "mlserver", "version": "1.7.1", "extensions": []}
        if received.target == "/v2/repository/index":
            listed = [{"name": "m", "state": "READY", "reason": ""}]
            return (200, listed) if received.body else (422, {"detail": "Field required"})
        if received.method == "GET":
            return 200, {"name": "m", "versions": [], "platform": "", "inputs": [], "outputs": []}
        if "inference-header-content-length" in received.headers:
            return 500, {"error": "Traceback (most recent call last): ..."}
        (given,) = json.loads(received.body)["inputs"]
        output = {**given, "name": "y"}
        return 200, {"model_name": "m", "outputs": [output]}

    return wire(default=respond)


def binary(server: Any) -> list[bool]:
    infers = [one for one in server.received if one.target.endswith("/infer")]
    return ["inference-header-content-length" in one.headers for one in infers]


def test_one_try_shows_that_a_server_reads_json_alone(mlserver: Any) -> None:
    with Client(mlserver.url) as client:
        for name in ("m", "m", "other"):
            assert (client.model(name).infer(x=X)["y"] == X).all()
        assert len(list(client.model("m").infer_many([{"x": row} for row in X]))) == 2
    assert binary(mlserver)[:2] == [True, False]
    assert not any(binary(mlserver)[2:])


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
async def test_many_tries_at_once_open_no_circuit(mlserver: Any, backend: str) -> None:
    async with AsyncClient(mlserver.url, backend=backend) as client:
        model = client.model("m")
        answers = await asyncio.gather(*[model.infer(x=X) for _ in range(40)])
        assert all((one["y"] == X).all() for one in answers)
        assert [one.name for one in await client.models.list()] == ["m"]


def test_a_500_of_a_server_that_reads_binary_is_a_failure(wire: Any, steps: Any) -> None:
    def respond(connection: Any, received: Any) -> bool:
        told: tuple[int, Any] = (500, {"error": "the model broke"})
        if received.target == "/v2":
            told = 200, {"name": "s", "version": "1", "extensions": ["binary_tensor_data"]}
        elif received.method == "GET":
            told = 404, {"error": "no metadata"}
        return bool(steps.answer(*told)(connection, received))

    server = wire(default=respond)
    with Client(server.url) as client, pytest.raises(InternalServerError, match="the model broke"):
        client.model("m").infer(x=X)
    assert binary(server) == [True]
