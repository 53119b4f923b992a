"""Tasks of other packages: found by their entry point, opened late, and unable to break a load."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from aiaas_client import Client
from aiaas_client.protocol.predictions import Record
from tests.task_bundles import write_bundle

SOURCE = """
from aiaas_client.protocol.predictions import Prediction
from aiaas_server.core.task import Params, Prepared

import numpy as np


class Loud(Prediction):
    loud: str


class Shout:
    input = "text"
    predictions = (Loud,)
    params = Params
    costs = False

    def preprocess(self, payload, params):
        return Prepared({"x": np.zeros((1, 1), np.float32)}, 1, payload)

    def postprocess(self, tensors, prepared, params):
        return Loud(loud=prepared.context.upper())


def open_task(card, assets, signature, metadata):
    if card.labels:
        raise ZeroDivisionError("no labels here")
    return Shout()
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[None]:
    """An installed package `shouting` with the entry point `shout`."""
    place = tmp_path / "site"
    info = place / "shouting-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    entry = "[aiaas.tasks]\nshout = shouting:open_task\n"
    (info / "entry_points.txt").write_text(entry + "text-classification = shouting:open_task\n")
    (place / "shouting.py").write_text(SOURCE)
    sys.path.insert(0, str(place))
    yield
    sys.path.remove(str(place))
    sys.modules.pop("shouting", None)


@pytest.mark.usefixtures("package")
def test_a_task_of_another_package_is_served(tmp_path: Path, onnx_models: SimpleNamespace) -> None:
    model = onnx_models.identity("FP32", ["batch", 1])
    write_bundle(tmp_path / "m", "town-crier", {"task": "shout"}, model)
    with Client.local(tmp_path / "m") as client:
        found = client.model("town-crier").predict("hear me")
    assert isinstance(found, Record)
    assert found.model_dump() == {"loud": "HEAR ME"}


@pytest.mark.usefixtures("package")
def test_whatever_it_raises_is_the_models_reason(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    card = {"task": "shout", "labels": ["a"]}
    write_bundle(tmp_path / "m", "broken", card, onnx_models.identity("FP32", ["batch", 1]))
    with Client.local(tmp_path / "m") as client:
        (entry,) = client.models.list()
    assert entry.state == "UNAVAILABLE"
    assert entry.reason == "task 'shout': ZeroDivisionError: no labels here"


@pytest.mark.usefixtures("package")
def test_our_own_tasks_cannot_be_replaced(tmp_path: Path, onnx_models: SimpleNamespace) -> None:
    model = onnx_models.identity("FP32", ["batch", 1])
    write_bundle(tmp_path / "m", "mine", {"task": "text-classification"}, model)
    with Client.local(tmp_path / "m") as client:
        (entry,) = client.models.list()
    assert "needs 'labels'" in entry.reason


def test_an_unknown_task_lists_those_that_are_known(
    tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    model = onnx_models.identity("FP32", ["batch", 1])
    write_bundle(tmp_path / "m", "odd", {"task": "shout"}, model)
    with Client.local(tmp_path / "m") as client:
        (entry,) = client.models.list()
    assert "unknown task 'shout'; known: automatic-speech-recognition, digits" in entry.reason
