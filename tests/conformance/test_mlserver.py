"""The SDK against the real MLServer, which knows no binary tensors and lists no extensions."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator

import numpy as np
import pytest

from aiaas_client import AsyncClient, Client, NotFoundError, NotSupportedError
from tests.ports import free_port

pytestmark = pytest.mark.slow

MLSERVER = "mlserver==1.7.1"
MODEL = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Double(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        outputs = [NumpyCodec.encode_output("y", x * 2)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server in an environment of its own."""
    folder = tmp_path_factory.mktemp("mlserver")
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    install = [programs / "python", "-m", "pip", "install", "--quiet", MLSERVER]
    subprocess.run([*install, "--disable-pip-version-check"], check=True)
    ports = [free_port() for _ in range(3)]
    names = ("http_port", "grpc_port", "metrics_port")
    settings = {"host": "127.0.0.1", "parallel_workers": 0, **dict(zip(names, ports, strict=True))}
    (folder / "settings.json").write_text(json.dumps(settings))
    served = {"name": "double", "implementation": "double_model.Double"}
    (folder / "model-settings.json").write_text(json.dumps(served))
    (folder / "double_model.py").write_text(MODEL)
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [programs / "mlserver", "start", str(folder)],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=log,
        stderr=log,
    )
    try:
        found = f"http://127.0.0.1:{ports[0]}"
        with Client(found) as client:
            client.wait_ready(120, model="double")
        yield found
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def test_arrays_travel_as_json_once_binary_has_failed(url: str) -> None:
    with Client(url) as client:
        model = client.model("double")
        assert (model.infer(x=X)["y"] == X * 2).all()
        assert client._sender.facts.reads_binary is False
        assert (model.infer(x=X, outputs="y")["y"] == X * 2).all()
        assert (model.infer_one(x=X[0])["y"] == X[0] * 2).all()
        many = list(model.infer_many([{"x": row} for row in X] * 10))
        assert [one["y"].tolist() for one in many[:2]] == (X * 2).tolist()


@pytest.mark.parametrize("backend", ["httpx2", "aiohttp"])
def test_many_first_calls_at_once_open_no_circuit(url: str, backend: str) -> None:
    async def ask() -> None:
        async with AsyncClient(url, backend=backend) as client:
            model = client.model("double")
            answers = await asyncio.gather(*[model.infer(x=X) for _ in range(40)])
            assert all((one["y"] == X * 2).all() for one in answers)
            assert [one.name for one in await client.models.list()] == ["double"]

    asyncio.run(ask())


def test_what_the_server_knows_is_told(url: str) -> None:
    with Client(url) as client:
        assert client.health()
        assert client.ready()
        assert client.metadata().version == "1.7.1"
        assert [one.name for one in client.models.list()] == ["double"]
        assert client.models.get("double").inputs == []


def test_what_it_does_not_have_is_told_as_such(url: str) -> None:
    with Client(url) as client:
        with pytest.raises(NotFoundError, match="missing"):
            client.model("missing").infer(x=X)
        for ask in (client.models.statistics, client.model("double").config):
            with pytest.raises(NotSupportedError):
                ask()


def test_models_are_loaded_and_unloaded(url: str) -> None:
    with Client(url) as client:
        client.models.unload("double")
        with pytest.raises(NotFoundError):
            client.model("double").infer(x=X)
        client.models.load("double")
        assert (client.model("double").infer(x=X)["y"] == X * 2).all()
