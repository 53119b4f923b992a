"""Golden sets: what is read, what passes, and what a refusal names."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.errors import Rejected
from aiaas_server.registry.verification.golden import (
    Golden,
    compare_outputs,
    compare_predictions,
    judge,
    judge_tensor,
    main_field,
    read_golden,
)

X = {"datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]}
Y = {"datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}


def golden(**members: Any) -> Golden:
    return read_golden(json.dumps(members).encode())


def reason(call: Any, *args: Any, **members: Any) -> str:
    with pytest.raises(Rejected) as caught:
        call(*args, **members)
    assert caught.value.message.startswith("golden.json: ")
    assert "\n" not in caught.value.message
    return caught.value.message


def test_tensors_come_as_lists_or_as_bytes() -> None:
    raw = base64.b64encode(np.array([[1, 2], [3, 4]], "<f4").tobytes()).decode()
    for tensor in (X, {"datatype": "FP32", "shape": [2, 2], "raw": raw}):
        read = golden(inputs={"x": tensor}, outputs={"y": Y})
        assert read.inputs is not None
        assert read.inputs["x"].array("x").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "one of inputs and instances"),
        ({"inputs": {"x": X}, "instances": ["a"]}, "one of inputs and instances"),
        ({"inputs": {"x": X}}, "one of outputs and labels"),
        ({"inputs": {"x": X}, "outputs": {}}, "outputs: expected at least one"),
        ({"inputs": {"x": X}, "predictions": [1]}, "got predictions"),
        ({"instances": ["a"], "outputs": {"y": Y}}, "got outputs"),
        ({"instances": []}, "instances"),
        ({"instances": ["a"], "labels": ["b"]}, "both or neither"),
        ({"instances": ["a"], "labels": ["b"], "metric": "f1"}, "metric"),
        ({"instances": ["a"], "labels": ["b"], "metric": "accuracy"}, "expected a floor"),
        (
            {"instances": ["a"], "labels": ["b"], "metric": "accuracy", "ceiling": 1},
            "expected a floor",
        ),
        (
            {"instances": ["a"], "labels": [1], "metric": "mean_absolute_error", "floor": 1},
            "expected a ceiling",
        ),
        ({"instances": ["a"], "labels": [], "metric": "accuracy", "floor": 1}, "at least one"),
        ({"instances": ["a"], "predictions": ["b"], "floor": 1}, "there is none"),
        ({"inputs": {"x": X}, "outputs": {"y": Y}, "rtol": -1}, "rtol"),
        ({"inputs": {"x": X}, "outputs": {"y": Y}, "tolerance": 1}, "unknown key; known: inputs"),
        (
            {"inputs": {"x": {**X, "dtype": 1}}, "outputs": {"y": Y}},
            "unknown key; known: datatype",
        ),
        ({"inputs": {"x": [[1.0]]}, "outputs": {"y": Y}}, 'inputs.x: expected a tensor, {"data'),
    ],
)
def test_a_golden_set_of_no_form_is_refused_by_what_is_wrong(
    members: dict[str, Any], words: str
) -> None:
    assert words in reason(golden, **members)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00\xd8", b"null"])
def test_what_is_no_object_is_refused(content: bytes) -> None:
    reason(read_golden, content)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        ({"datatype": "FP99", "shape": [1], "data": [1]}, "FP99"),
        ({"datatype": "FP32", "shape": [3], "data": [1]}, "3 elements"),
        ({"datatype": "FP32", "shape": [-1], "data": [1]}, "dimensions"),
        ({"datatype": "FP32", "shape": [1], "data": ["a"]}, "'t'"),
        ({"datatype": "FP32", "shape": [1]}, "one of data and raw"),
        ({"datatype": "FP32", "shape": [1], "raw": "!!"}, "not base64"),
        ({"datatype": "FP32", "shape": [1], "raw": "AAA="}, "got 2"),
        ({"datatype": "FP32", "shape": [2**31 - 1] * 16, "raw": ""}, "takes"),
    ],
)
def test_a_tensor_that_does_not_fit_itself_is_refused(tensor: Any, words: str) -> None:
    read = golden(inputs={"t": tensor}, outputs={"y": Y})
    assert read.inputs is not None
    assert words in reason(read.inputs["t"].array, "t")


def outputs(data: Any, **more: Any) -> Golden:
    array = np.asarray(data, np.float32)
    tensor = {"datatype": "FP32", "shape": list(array.shape), "data": array.tolist()}
    return golden(inputs={"x": X}, outputs={"y": tensor}, **more)


def test_outputs_within_tolerance_pass_with_their_largest_difference() -> None:
    got = {"y": np.array([1.0005, 2.0], np.float32), "other": np.zeros(1)}
    found = compare_outputs(outputs([1.0, 2.0]), got)
    assert found["rows"] == 2
    assert found["largest_difference"] == pytest.approx(5e-4, rel=1e-3)


def test_an_output_that_differs_is_named_with_row_and_difference() -> None:
    got = np.array([[1, 2], [3, 4.5]], np.float32)
    told = reason(compare_outputs, outputs([[1, 2], [3, 4]]), {"y": got})
    assert "output 'y': row 1, element [1]: expected 4, got 4.5" in told
    assert "1 of 4 values differ; the largest difference is 0.5" in told


@pytest.mark.parametrize(
    ("expected", "got", "passes"),
    [
        (np.nan, np.nan, True),
        (np.nan, 1.0, False),
        (1.0, np.nan, False),
        (np.inf, np.inf, True),
        (np.inf, -np.inf, False),
        (np.inf, 1e30, False),
        (1.0, np.inf, False),
        (0.0, 9e-6, True),
        (0.0, 2e-5, False),
    ],
)
def test_numbers_that_are_none_equal_only_themselves(
    expected: float, got: float, passes: bool
) -> None:
    tensor = {"datatype": "FP32", "shape": [1], "data": [expected]}
    read = golden(inputs={"x": X}, outputs={"y": tensor})
    found = {"y": np.array([got], np.float32)}
    if passes:
        assert compare_outputs(read, found)["largest_difference"] < 1e-4
    else:
        assert "output 'y': row 0" in reason(compare_outputs, read, found)


def test_shape_and_datatype_must_be_as_expected() -> None:
    wrong_shape = reason(compare_outputs, outputs([1.0]), {"y": np.zeros((1, 1), np.float32)})
    assert "expected shape [1], got [1, 1]" in wrong_shape
    wrong_type = reason(compare_outputs, outputs([1.0]), {"y": np.zeros(1, np.float64)})
    assert "expected datatype FP32, got FP64" in wrong_type


def test_texts_are_compared_as_they_are() -> None:
    tensor = {"datatype": "BYTES", "shape": [2], "data": ["a", "b"]}
    read = golden(inputs={"x": X}, outputs={"y": tensor})
    assert compare_outputs(read, {"y": np.array([b"a", b"b"], object)})["rows"] == 2
    told = reason(compare_outputs, read, {"y": np.array([b"a", b"c"], object)})
    assert "row 1, expected 'b', got 'c'" in told


def metric(name: str, labels: list[Any], bound: float) -> Golden:
    side = "floor" if name == "accuracy" else "ceiling"
    return golden(inputs={"x": X}, labels=labels, metric=name, **{side: bound})


def test_accuracy_over_labels_scores_and_texts() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]])
    by_index = judge_tensor(metric("accuracy", [1, 0], 1.0), "y", scores, ())
    assert by_index == {"rows": 2, "metric": "accuracy", "value": 1.0, "bound": 1.0}
    by_name = metric("accuracy", ["good", "good"], 0.5)
    assert judge_tensor(by_name, "y", scores, ("bad", "good"))["value"] == 0.5
    texts = np.array([b"good", b"bad"], object)
    assert judge_tensor(by_name, "y", texts, ())["value"] == 0.5
    assert (
        judge_tensor(metric("accuracy", [3, 4], 0.5), "y", np.array([[3], [5]]), ())["value"] == 0.5
    )


def test_a_metric_on_the_wrong_side_tells_its_value() -> None:
    told = reason(judge, metric("accuracy", ["a", "b", "c", "d"], 0.9), ["a", "b", "c", "x"])
    assert "accuracy over 4 rows: expected at least 0.9, got 0.75" in told
    told = reason(judge, metric("mean_absolute_error", [1.0, 2.0], 0.1), [1.0, 3.0])
    assert "mean_absolute_error over 2 rows: expected at most 0.1, got 0.5" in told
    assert judge(metric("mean_absolute_error", [1.0, 2.0], 0.5), [1.0, 3.0])["value"] == 0.5
    # A value that is no number is on no side.
    reason(judge, metric("mean_absolute_error", [1.0], 0.5), [float("nan")])


def test_what_a_metric_cannot_read_is_refused() -> None:
    scores = np.zeros((2, 3))
    assert "got 1" in reason(judge_tensor, metric("accuracy", [1], 0.5), "y", scores, ())
    assert "3 labels" in reason(judge_tensor, metric("accuracy", ["a", "b"], 0.5), "y", scores, ())
    error = metric("mean_absolute_error", [1, 2], 0.5)
    assert "one value a row" in reason(judge_tensor, error, "y", scores, ())
    assert "expected numbers" in reason(judge, error, ["a", "b"])


def predictions(expected: list[Any], **more: Any) -> Golden:
    return golden(instances=["a"] * len(expected), predictions=expected, **more)


def test_predictions_are_compared_by_the_fields_that_are_expected() -> None:
    got = [{"label": "good", "score": 0.9001, "scores": {"good": 0.9001, "bad": 0.0999}}]
    assert compare_predictions(predictions([{"label": "good"}]), got)["rows"] == 1
    assert compare_predictions(predictions(["good"]), got)["largest_difference"] == 0.0
    near = compare_predictions(predictions([{"scores": {"good": 0.9}}]), got)
    assert near["largest_difference"] == pytest.approx(1e-4)
    told = reason(compare_predictions, predictions([{"scores": {"good": 0.5}}]), got)
    assert "row 0.scores.good: expected 0.5, got 0.9001" in told
    assert "no field 'mood'" in reason(compare_predictions, predictions([{"mood": 1}]), got)
    told = reason(compare_predictions, predictions(["bad"]), got)
    assert "row 0: expected 'bad', got 'good'" in told


def test_lists_booleans_and_counts_of_predictions() -> None:
    got = [{"vector": [0.1, 0.2], "known": True}]
    assert compare_predictions(predictions([{"vector": [0.1, 0.2]}]), got)["rows"] == 1
    reason(compare_predictions, predictions([{"vector": [0.1]}]), got)
    reason(compare_predictions, predictions([{"known": 2}]), got)
    assert "got 2" in reason(compare_predictions, predictions(["a", "b"]), got)


def test_the_field_that_a_metric_reads() -> None:
    assert main_field({"label": "a", "value": 1}) == "a"
    assert main_field({"value": 1}) == 1
    assert main_field({"label": "a", "score": 0.5}, "score") == 0.5
    assert "label or value or text" in reason(main_field, {"vector": []})
