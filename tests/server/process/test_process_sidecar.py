"""A side-car: the SDK and a server on the same machine, over a Unix socket that is theirs alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest

from aiaas_client import AsyncClient, Client


@pytest.fixture
def socket_path(
    start_aiaas: Any, make_repository: Any, onnx_models: SimpleNamespace, tmp_path: Path
) -> str:
    """The socket of a running server; two workers share it."""
    models = make_repository({"add": onnx_models.add()})
    path = tmp_path / "aiaas.sock"
    start_aiaas("--models", models, "--uds", path, "--workers", "2")
    return str(path)


def test_the_sdk_calls_over_a_unix_socket(socket_path: str) -> None:
    transport = httpx2.HTTPTransport(uds=socket_path)
    with (
        httpx2.Client(transport=transport) as http,
        Client("http://side-car", http_client=http) as client,
    ):
        assert client.ready()
        a = np.arange(8, dtype=np.float32).reshape(2, 4)
        for _ in range(4):
            np.testing.assert_array_equal(client.model("add").infer(a=a, b=a)["sum"], a + a)
        rows = [{"a": row, "b": row} for row in a]
        assert [r["sum"].tolist() for r in client.model("add").infer_many(rows)] == (a + a).tolist()


async def test_the_async_sdk_calls_over_a_unix_socket(socket_path: str) -> None:
    transport = httpx2.AsyncHTTPTransport(uds=socket_path)
    async with (
        httpx2.AsyncClient(transport=transport) as http,
        AsyncClient("http://side-car", http_client=http) as client,
    ):
        a = np.ones((1, 4), np.float32)
        result = await client.model("add").infer(a=a, b=a)
        np.testing.assert_array_equal(result["sum"], a + a)
