"""`client.models` over a registry, as typed code: checked by mypy and pyright, never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np

from aiaas_client import (
    AsyncClient,
    AsyncModel,
    AsyncStream,
    Change,
    Client,
    Diff,
    Erasure,
    Golden,
    Guard,
    HistoryEntry,
    Model,
    Policy,
    RawResponse,
    Serving,
    Stream,
    Version,
)
from aiaas_client.protocol.management import Model as RegisteredModel
from aiaas_client.testing import FakeRegistry, FakeServer


def deploying(client: Client, made: object) -> None:
    models = client.models
    golden = Golden({"x": np.zeros((1, 2))}, {"y": [1.0]}, rtol=0.01)
    assert_type(
        models.deploy("m", "m.onnx", card={"task": "t"}, golden=golden, alias="canary"), Version
    )
    assert_type(models.deploy("m", b"bytes", assets={"a": b"", "b": Path("b")}), Version)
    assert_type(models.deploy("m", Path("d"), progress=lambda done, total: None), Version)
    assert_type(models.export("m", "d", 3, overwrite=True), Path)
    assert_type(models.import_("d", "n"), Version)
    models.deploy("m", 5)  # type: ignore[arg-type]
    models.deploy("m", "m.onnx", "alias")  # type: ignore[call-arg]


def serving(client: Client) -> None:
    models = client.models
    assert_type(models.promote("m", 3, guard=Guard(window=60)), RegisteredModel)
    assert_type(models.promote("m", "canary", guard={"window": 60}), RegisteredModel)
    assert_type(models.split("m", {"3": 0.9, "4": 0.1}), RegisteredModel)
    assert_type(models.split("m", {3: 0.9, 4: 0.1}), RegisteredModel)
    assert_type(models.shadow("m", 4, 0.5), RegisteredModel)
    assert_type(models.rollback("m", 2).serving, Serving)
    assert_type(models.pin("m", 3).shares, dict[int, float])
    models.promote("m", None)  # type: ignore[arg-type]


def looking(client: Client) -> None:
    models = client.models
    assert_type(models.registered(limit=5), list[RegisteredModel])
    assert_type(models.about("m").production, int | None)
    assert_type(models.versions("m"), list[Version])
    assert_type(models.version("m", "latest").metrics, dict[str, Any])
    assert_type(models.history("m"), list[HistoryEntry])
    assert_type(models.diff("m", 1, 2), Diff)
    assert_type(models.update("m", policy=Policy(keep_last=3)), RegisteredModel)
    assert_type(models.delete("m", 3, force=True, replacement=4), Erasure)
    with models.changes(after=3) as feed:
        assert_type(feed, Stream[Change])
        for change in feed:
            assert_type(change, Change)
    assert_type(client.model("m", sticky_key="alice"), Model)
    assert_type(client.with_options(sticky_key="alice"), Client)


async def tasks(client: AsyncClient) -> None:
    models = client.models
    assert_type(await models.deploy("m", "m.onnx"), Version)
    assert_type(await models.export("m", "d"), Path)
    assert_type(await models.promote("m", 3), RegisteredModel)
    assert_type(await models.versions("m"), list[Version])
    assert_type(await models.delete("m"), Erasure)
    async with models.changes() as feed:
        assert_type(feed, AsyncStream[Change])
        async for change in feed:
            assert_type(change, Change)
    assert_type(client.model("m", sticky_key="alice"), AsyncModel)


def whole_answers(client: Client) -> None:
    assert_type(client.models.with_raw_response.deploy("m", b""), RawResponse[Version])
    assert_type(client.with_raw_response.models.about("m"), RawResponse[RegisteredModel])
    assert_type(client.models.with_raw_response.history("m").parse(), list[HistoryEntry])
    client.models.with_raw_response.promote("m")  # type: ignore[call-arg]


async def whole_answers_in_tasks(client: AsyncClient) -> None:
    assert_type(await client.models.with_raw_response.rollback("m"), RawResponse[RegisteredModel])


def fake() -> None:
    with FakeServer(registry=True) as server:
        assert_type(server.registry, FakeRegistry)
        assert_type(server.registry.versions("m"), list[Version])
        assert_type(server.registry.file("m", 1, "model.onnx"), bytes)
