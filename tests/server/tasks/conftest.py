"""A task with its model over the real runtime, without a server: what a bundle answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from aiaas_client.protocol.predictions import Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_card
from aiaas_server.core.errors import ModelNotFound
from aiaas_server.core.session import Session
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import LoopingTask
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.tasks import Tasks

T = TypeVar("T")
Model = bytes | Path


class DirectRun:
    """The `Run` of a looping task: models by name, run at once in the caller's thread."""

    def __init__(self, sessions: Mapping[str, Session], name: str) -> None:
        self.sessions = sessions
        self.name = name

    async def __call__(
        self, tensors: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> Mapping[str, Array]:
        session = self.sessions[self.name]
        names = list(outputs) or [spec.name for spec in session.outputs]
        return dict(zip(names, session.run(tensors, names), strict=True))

    def model(self, name: str, version: int = 0) -> DirectRun:
        if name not in self.sessions:
            raise ModelNotFound(f"model '{name}' is not found")
        return DirectRun(self.sessions, name)

    async def predict(self, payload: Any, params: Mapping[str, Any] | None = None) -> Prediction:
        raise AssertionError("no task here predicts through another's")

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.to_thread(function, *args)


class Bundle:
    """One model version with its card, and other models beside it."""

    def __init__(
        self, model: Model, card: Card, assets: Mapping[str, bytes], others: Mapping[str, Model]
    ) -> None:
        sessions = {"": open_session(model)}
        sessions |= {name: open_session(other) for name, other in others.items()}
        own = sessions[""]
        signature = Signature("bundle", own.inputs, own.outputs)
        self.task = Tasks().open(
            card, Assets(assets.__getitem__, card.assets), signature, own.metadata
        )
        self.run = DirectRun(sessions, "")

    def predict(self, payload: Any, **params: Any) -> Any:
        """The prediction of one payload."""
        checked = self.task.params.model_validate(params)
        if isinstance(self.task, LoopingTask):
            return asyncio.run(self.task.predict(payload, checked, self.run))
        prepared = self.task.preprocess(payload, checked)
        tensors = asyncio.run(self.run(prepared.tensors, prepared.outputs))
        return self.task.postprocess(tensors, prepared, checked)


OpenBundle = Callable[..., Bundle]


@pytest.fixture
def open_bundle() -> OpenBundle:
    """`open_bundle(model, card, assets={}, others={})`; models are bytes or paths."""

    def make(
        model: Model,
        card: Mapping[str, Any] | Card,
        assets: Mapping[str, bytes] = {},
        others: Mapping[str, Model] = {},
    ) -> Bundle:
        card = card if isinstance(card, Card) else Card.model_validate(card)
        return Bundle(model, card, assets, others)

    return make


@pytest.fixture
def open_version(open_bundle: Any) -> Any:
    """`open_version(model, card, files)`: the card is a dict, read as the server reads it."""

    def make(model: bytes, card: dict[str, Any], files: Mapping[str, bytes] = {}) -> Any:
        return open_bundle(model, read_card(orjson.dumps(card)), files)

    return make
