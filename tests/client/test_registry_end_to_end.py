"""The life of a model on the real server: `aiaas serve --data`, and `Client.local(data=...)`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    AsyncClient,
    Client,
    ConflictError,
    Golden,
    ModelRejectedError,
    NotFoundError,
)
from tests.server.process.conftest import start_aiaas as start_aiaas  # a fixture

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("aiaas_server.http.manage.drafts") is None,
        reason="this server has no routes to deploy by",
    ),
]

X = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)


@pytest.fixture
def url(start_aiaas: Any, tmp_path: Path) -> str:
    """A server with a registry."""
    command = start_aiaas("--data", tmp_path / "data")
    return f"http://{command.host}:{command.port}"


@pytest.fixture(params=["served", "local"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """A client of a server, and one that needs none."""
    if request.param == "served":
        made = Client(request.getfixturevalue("url"))
    else:
        made = Client.local(data=tmp_path / "data")
    with made as client:
        yield client


@pytest.fixture
def models(onnx_models: SimpleNamespace, tmp_path: Path) -> list[Path]:
    """Three versions: y = 1x, 2x, 3x."""
    paths = []
    for factor in (1.0, 2.0, 3.0):
        path = tmp_path / f"x{factor:g}" / "scale.onnx"
        path.parent.mkdir()
        path.write_bytes(onnx_models.scale(factor))
        paths.append(path)
    return paths


def answer(client: Client, version: str | int | None = None) -> float:
    """What the model makes of 1."""
    return float(client.model("scale", version).infer(X).array[0, 0])


def test_a_model_lives(client: Client, models: list[Path], tmp_path: Path) -> None:
    golden = Golden({"x": X}, {"y": X})
    first = client.models.deploy("scale", models[0], golden=golden, note="first")
    assert (first.version, first.state) == (1, "verified")
    assert client.models.deploy("scale", models[0], golden=golden).version == 1
    for path in models[1:]:
        client.models.deploy("scale", path)
    client.wait_ready(60, model="scale")

    for version, alias in ((1, "production"), (2, "production"), (3, "canary")):
        client.models.promote("scale", version, alias=alias)
    assert (answer(client), answer(client, "canary"), answer(client, "latest")) == (2.0, 3.0, 3.0)
    assert client.models.rollback("scale").serving.aliases == {"production": 2}
    assert client.models.rollback("scale").serving.aliases == {"production": 1}
    assert answer(client) == 1.0

    client.models.split("scale", {2: 0.5, 3: 0.5})
    alice = client.model("scale", sticky_key="alice")
    assert len({float(alice.infer(X).array[0, 0]) for _ in range(20)}) == 1
    told = {
        float(client.model("scale", sticky_key=f"caller-{n}").infer(X).array[0, 0])
        for n in range(64)
    }
    assert told == {2.0, 3.0}
    client.models.unsplit("scale")

    assert client.models.shadow("scale", 2, 0.5).serving.shadow is not None
    assert client.models.unshadow("scale").serving.shadow is None
    assert client.models.pin("scale", 2).serving.pins == [2]
    assert client.models.unpin("scale", 2).serving.pins == []

    about = client.models.about("scale")
    assert client.models.update("scale", description="d", etag=about.etag).description == "d"
    assert [one.version for one in client.models.versions("scale", limit=2)] == [3, 2]
    assert not client.models.diff("scale", 1, 3).same_bytes
    assert client.models.history("scale")[-1].kind
    assert [one.name for one in client.models.registered()] == ["scale"]

    place = client.models.export("scale", tmp_path / "scale.bundle", 1)
    assert (place / "model.onnx").read_bytes() == models[0].read_bytes()
    assert client.models.import_(place).version == 1
    assert client.models.import_(place, "copy").digest == first.digest

    with pytest.raises(ConflictError):
        client.models.delete("scale", "production")
    proof = client.models.delete("scale", "production", force=True, replacement=3)
    assert (proof.versions, proof.verified) == ([1], True)
    assert answer(client) == 3.0
    client.models.delete("scale", force=True)
    with pytest.raises(NotFoundError):
        client.models.about("scale")


def test_what_is_no_model_is_refused_and_leaves_nothing(client: Client, models: list[Path]) -> None:
    with pytest.raises(ModelRejectedError):
        client.models.deploy("scale", b"this is no model")
    with pytest.raises(ModelRejectedError):
        client.models.deploy("scale", models[0], golden=Golden({"x": X}, {"y": 5 * X}))
    with pytest.raises(NotFoundError):
        client.models.version("scale", 1)


def test_tasks_deploy_and_follow(url: str, models: list[Path], tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncClient(url) as client:
            version = await client.models.deploy("scale", models[0], alias="production")
            assert version.version == 1
            async with client.models.changes(after=0) as feed:
                change = await anext(feed)
                assert change.object == "scale"
            place = await client.models.export("scale", tmp_path / "out")
            assert (place / "bundle.json").is_file()

    asyncio.run(run())


def test_the_command_line_deploys_and_promotes(url: str, models: list[Path]) -> None:
    for arguments in (
        ("deploy", str(models[0])),
        ("deploy", str(models[1]), "--alias", "canary"),
        ("promote", "scale", "canary"),
        ("models",),
        ("versions", "scale"),
        ("history", "scale"),
        ("diff", "scale", "1", "2"),
        ("rollback", "scale"),
    ):
        command = [sys.executable, "-m", "aiaas_server", *arguments, "--url", url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
