"""`Golden` becomes the `golden.json` of a bundle."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from aiaas_client import Golden, InputError


def test_arrays_travel_as_their_bytes() -> None:
    x = np.array([[1.5, -2.0]], np.float32)
    document = json.loads(Golden({"x": x}, {"y": [[1, 2]]}, rtol=0.5).to_bytes())
    told = document["inputs"]["x"]
    assert (told["datatype"], told["shape"]) == ("FP32", [1, 2])
    assert np.frombuffer(base64.b64decode(told["raw"]), "<f4").tolist() == [1.5, -2.0]
    assert document["outputs"]["y"]["datatype"] == "INT64"
    assert (document["rtol"], document["atol"]) == (0.5, 1e-5)


def test_other_byte_orders_and_large_arrays_are_little_endian() -> None:
    x = np.arange(100_000, dtype=">i4").reshape(100, 1000)
    told = Golden({"x": x}, {"y": x}).document()["inputs"]["x"]
    assert told["datatype"] == "INT32"
    assert np.array_equal(np.frombuffer(base64.b64decode(told["raw"]), "<i4"), x.ravel())


def test_texts_travel_as_texts() -> None:
    told = Golden({"text": ["grüß", b"dich"]}, {"y": [1]}).document()["inputs"]["text"]
    assert told == {"datatype": "BYTES", "shape": [2], "data": ["grüß", "dich"]}


def test_labels_come_with_a_metric_and_its_floor() -> None:
    golden = Golden({"x": [[1.0]]}, labels=np.array(["a"]), output="label", floor=0.9)
    document = golden.document()
    assert document["labels"] == ["a"]
    assert (document["metric"], document["floor"], document["output"]) == ("accuracy", 0.9, "label")
    assert "outputs" not in document


def test_payloads_of_a_task_come_with_labels() -> None:
    golden = Golden(instances=("good", "bad"), labels=["positive", "negative"], floor=1.0)
    assert golden.document() == {
        "instances": ["good", "bad"],
        "labels": ["positive", "negative"],
        "metric": "accuracy",
        "floor": 1.0,
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"instances": [], "labels": [], "floor": 1.0}, "instances: expected at least one"),
        ({"instances": ["a"], "inputs": {"x": [1]}, "labels": ["b"]}, "not both"),
        ({"instances": ["a"], "outputs": {"y": [1]}}, "expected labels with a floor"),
        ({"inputs": {}, "outputs": {"y": [1]}}, "at least one input"),
        ({"inputs": {"x": [1]}}, "expected outputs, or labels"),
        ({"inputs": {"x": [1]}, "outputs": {"y": [1]}, "labels": [1]}, "expected outputs, or"),
        ({"inputs": {"x": [1]}, "labels": [1]}, "expected a floor"),
        ({"inputs": {"x": [1j]}, "outputs": {"y": [1]}}, "inputs: 'x'"),
        ({"inputs": {"x": [b"\xff"]}, "outputs": {"y": [1]}}, "inputs: 'x'"),
        ({"inputs": {"x": [1]}, "outputs": {"y": [1]}, "rtol": float("nan")}, "golden: "),
    ],
    ids=["none", "two", "outputs", "empty", "nothing", "both", "floor", "complex", "bytes", "nan"],
)
def test_what_is_no_golden_set_is_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Golden(**arguments).to_bytes()
