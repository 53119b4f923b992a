"""KServe's own REST client, unmodified, on its V1 data plane."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.http.serving import serving
from tests.task_bundles import write_repository

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the package does on import is not ours to judge
    kserve = pytest.importorskip("kserve", reason="KServe's client is not installed")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace) -> Any:
    from aiaas_server.app import create_app
    from aiaas_server.settings import Settings

    repository: Path = write_repository(tmp_path_factory.mktemp("models"), onnx_models)
    with serving(create_app(Settings(models=repository))) as server:
        yield server.url


@pytest.fixture
async def client() -> Any:
    made = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1", retries=0))
    yield made
    await made.close()


async def test_instances_have_predictions(url: str, client: Any) -> None:
    answer = await client.infer(url, {"instances": ["good film", "bad"]}, model_name="moods")
    assert [one["label"] for one in answer["predictions"]] == ["positive", "negative"]


async def test_a_model_is_ready(url: str, client: Any) -> None:
    assert await client.is_model_ready(url, "moods")


async def test_a_refusal_is_the_clients_own_error(url: str, client: Any) -> None:
    with pytest.raises(Exception, match="400"):
        await client.infer(url, {"instances": [""]}, model_name="moods")
