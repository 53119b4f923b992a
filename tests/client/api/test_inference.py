"""A result is a mapping of writable arrays with the facts of its call."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from aiaas_client._api.call import Timing
from aiaas_client._api.inference import InferResult


@pytest.fixture
def result():
    outputs = {"y": np.zeros((2, 3), np.float32), "label": np.array([b"a\0"], object)}
    facts = {"model_name": "m", "model_version": "3", "request_id": "r", "attempts": 2}
    return InferResult(outputs, timing=Timing(0.5, server_queue=0.1), **facts)


def test_it_is_a_mapping_in_the_order_of_the_answer(result):
    assert list(result) == ["y", "label"]
    assert len(result) == 2
    assert "y" in result
    assert dict(**result)["y"] is result["y"]


def test_a_missing_output_is_named_with_those_there_are(result):
    with pytest.raises(KeyError, match="output 'z': the answer has 'y', 'label'"):
        result["z"]


def test_read_only_arrays_become_writable():
    array = np.frombuffer(b"\0\0\0\0", np.float32)
    result = InferResult({"y": array})
    result["y"][0] = 1
    assert array[0] == 0


def test_array_is_the_only_output(result):
    assert InferResult({"y": np.ones(1)}).array.tolist() == [1.0]
    with pytest.raises(ValueError, match="expected one output, the answer has 'y', 'label'"):
        _ = result.array


def test_repr_tells_shapes_time_and_attempts(result):
    expected = "<InferResult m version 3: y: float32[2, 3], label: object[1]; 500.0 ms, 2 attempts>"
    assert repr(result) == expected


def test_results_are_equal_only_to_themselves(result):
    assert result == result
    assert result != result.with_outputs(result)
    assert len({result, result.with_outputs(result)}) == 2


def test_it_pickles(result):
    again = pickle.loads(pickle.dumps(result.with_outputs(result, index=7)))
    assert np.array_equal(again["y"], result["y"])
    assert again["label"].tolist() == [b"a\0"]
    assert (again.index, again.attempts, again.timing) == (7, 2, result.timing)
    assert (again.model_name, again.model_version, again.request_id) == ("m", "3", "r")
