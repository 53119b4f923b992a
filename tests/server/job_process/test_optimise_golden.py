"""The golden set of a candidate: the parent's, and honest about what had to give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aiaas_server.job_process.optimising.golden import Carried, carry
from aiaas_server.job_process.optimising.made import NotPossible
from aiaas_server.job_process.served import served
from tests import graphs
from tests.server.job_process import cards

POINTS = [[0.0, 1.0], [0.24, 1.0], [0.26, 1.0], [0.5, 0.0], [0.9, 1.0]]


def sides(bound: float) -> bytes:
    """The sides of a line, with the index of the label beside the probabilities."""
    model = onnx.load_from_string(cards.sides(bound))
    model.graph.node.append(
        helper.make_node("ArgMax", ["probabilities"], ["index"], axis=1, keepdims=0)
    )
    model.graph.output.append(graphs.value("index", ["n"], TensorProto.INT64))
    found: bytes = model.SerializeToString()
    return found


def carried(tmp_path: Path, bound: float, golden: dict[str, Any]) -> Carried:
    """The golden set of a candidate whose line lies at `bound`."""
    cards.bundle(tmp_path / f"at-{bound}", sides(bound), cards.SIDES)
    with served(tmp_path / f"at-{bound}") as candidate:
        return carry(json.dumps(golden).encode(), candidate)


def of_instances(tmp_path: Path) -> dict[str, Any]:
    """What a parent whose line lies at 0.25 answers."""
    cards.bundle(tmp_path / "parent", sides(0.25), cards.SIDES)
    with served(tmp_path / "parent") as parent:
        told = [one.model_dump(mode="json") for one in parent.predict(POINTS)]
    return {"instances": POINTS, "predictions": told, "rtol": 1e-3, "atol": 1e-5}


def of_tensors(tmp_path: Path) -> dict[str, Any]:
    """The same, as tensors."""
    cards.bundle(tmp_path / "parent", sides(0.25), cards.SIDES)
    points = np.array(POINTS, np.float32)
    with served(tmp_path / "parent") as parent:
        found = parent.infer({"x": points})
    outputs = {
        "probabilities": _tensor(found["probabilities"], "FP32"),
        "index": _tensor(found["index"], "INT64"),
    }
    return {"inputs": {"x": _tensor(points, "FP32")}, "outputs": outputs}


def _tensor(array: np.ndarray[Any, Any], datatype: str) -> dict[str, Any]:
    return {"datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


@pytest.mark.parametrize("made", [of_instances, of_tensors], ids=["instances", "tensors"])
def test_the_same_answers_leave_it_as_it_is(tmp_path: Path, made: Any) -> None:
    """To the byte."""
    golden = made(tmp_path)
    found = carried(tmp_path, 0.25, golden)
    assert found == (json.dumps(golden).encode(), "unchanged")


@pytest.mark.parametrize("made", [of_instances, of_tensors], ids=["instances", "tensors"])
def test_rounding_widens_the_tolerance_to_what_was_seen(tmp_path: Path, made: Any) -> None:
    """Twice that; what is expected stays the parent's."""
    golden = made(tmp_path)
    found = carried(tmp_path, 0.251, golden)
    document = json.loads(found.content)
    assert 1e-5 < document["atol"] < 2e-2
    assert found.told.endswith(f"became {document['atol']:g}")
    document.pop("atol")
    golden.pop("atol", None)
    assert document == golden


@pytest.mark.parametrize("made", [of_instances, of_tensors], ids=["instances", "tensors"])
def test_other_labels_make_it_a_share_of_the_parents(tmp_path: Path, made: Any) -> None:
    """A candidate that turns one label of five must go on to hit three of them."""
    golden = made(tmp_path)
    found = carried(tmp_path, 0.28, golden)
    document = json.loads(found.content)
    assert document["labels"] in (["left", "left", "right", "right", "right"], [0, 0, 1, 1, 1])
    assert document["metric"] == "accuracy"
    assert document["floor"] == pytest.approx(3 / 5)
    assert "predictions" not in document
    assert "outputs" not in document
    assert "4 of 5" in found.told
    again = carried(tmp_path / "again", 0.28, document)
    assert again.told == "unchanged"


def test_a_floor_of_the_parent_holds_for_the_candidate(tmp_path: Path) -> None:
    """Nothing is loosened that somebody asked for by number."""
    golden = {
        "instances": POINTS,
        "labels": ["left", "left", "right", "right", "right"],
        "metric": "accuracy",
        "floor": 0.9,
    }
    with pytest.raises(NotPossible, match="golden set: .*expected at least 0.9, got 0.8"):
        carried(tmp_path, 0.28, golden)
