"""A side-car: the SDK and a server on the same machine, over a Unix socket that is theirs alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import numpy as np
import pytest

from aiaas_client import AsyncClient, Client


@pytest.fixture(scope="module")
def socket_path(
    start_shared: Any, onnx_models: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The socket of a running server; two workers share it."""
    folder = tmp_path_factory.mktemp("sidecar")
    (folder / "models" / "add" / "1").mkdir(parents=True)
    (folder / "models" / "add" / "1" / "model.onnx").write_bytes(onnx_models.add())
    path = folder / "aiaas.sock"
    start_shared("--models", folder / "models", "--uds", path, "--workers", "2")
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


@pytest.mark.slow
def test_the_command_line_calls_over_a_unix_socket(
    socket_path: str, run_aiaas: Any, tmp_path: Path
) -> None:
    done = run_aiaas("infer", "add", "a=1,2,3,4", "b=1,1,1,1", "--url", f"unix:{socket_path}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[[2. 3. 4. 5.]]" in done.stdout
    done = run_aiaas("models", AIAAS_BASE_URL=f"unix:{socket_path}")
    assert "READY" in done.stdout
    for options, told in (
        (("--url", f"unix:{tmp_path}"), f"--url: no Unix socket '{tmp_path}'"),
        (("--url", f"unix:{socket_path}", "--ca-file", "x"), "there is no TLS on a Unix socket"),
    ):
        done = run_aiaas("models", *options)
        assert done.returncode == 2
        assert told in done.stderr
