"""Outputs that are no tensors: served as tensors, or left out with the reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.onnx import open_session
from tests.server.runtimes.graphs import model, node

X = {"x": ("FP32", ["rows", 3])}


def maps(key):
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(key, tensor))
    return helper.make_value_info("scores", kind)


def classifier(**labels):
    key = TensorProto.STRING if "classlabels_strings" in labels else TensorProto.INT64
    nodes = [
        node("Softmax", ["x"], ["plain"], axis=1),
        node("ArgMax", ["x"], ["label"], axis=1, keepdims=0),
        node("ZipMap", ["plain"], ["scores"], domain="ai.onnx.ml", **labels),
    ]
    return model(nodes, X, {"label": ("INT64", ["rows"]), "scores": maps(key)})


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"classlabels_int64s": [4, 5, 6]}, "4, 5, 6"),
        ({"classlabels_strings": ["cat", "dog", "cow"]}, "cat, dog, cow"),
    ],
    ids=["numbers", "texts"],
)
def test_scores_by_class_are_a_tensor(labels, told):
    session = open_session(classifier(**labels))
    assert session.outputs[1].datatype == "FP32"
    assert session.outputs[1].shape == (-1, 3)
    x = np.float32([[1, 2, 3], [9, 0, 0]])
    label, scores = session.run({"x": x}, ["label", "scores"])
    assert label.tolist() == [2, 0]
    exponents = np.exp(x)
    np.testing.assert_allclose(scores, exponents / exponents.sum(1, keepdims=True), rtol=1e-5)
    assert session.graph.changes == (f"output 'scores' is a tensor of scores by class: {told}",)


@pytest.mark.parametrize("zipmap", [True, "columns", False])
def test_a_classifier_of_scikit_learn_is_served_however_it_was_exported(zipmap):
    linear = pytest.importorskip("sklearn.linear_model")
    skl2onnx = pytest.importorskip("skl2onnx")
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 3)).astype(np.float32)
    fitted = linear.LogisticRegression().fit(x, x[:, 0] > x[:, 1])
    exported = skl2onnx.to_onnx(fitted, x[:1], options={"zipmap": zipmap}, target_opset=17)
    session = open_session(exported.SerializeToString())
    names = [spec.name for spec in session.outputs]
    _, *scores = session.run({"X": x}, names)
    found = scores[0] if len(scores) == 1 else np.column_stack(scores)
    np.testing.assert_allclose(found, fitted.predict_proba(x), atol=1e-5)


def test_what_is_no_tensor_is_left_out_beside_one_that_is():
    nodes = [node("Relu", ["x"], ["y"]), node("SequenceConstruct", ["x", "x"], ["list"])]
    content = onnx.load_from_string(model(nodes, X, {"y": ("FP32", ["rows", 3])}))
    content.graph.output.append(helper.make_tensor_sequence_value_info("list", 1, None))
    session = open_session(content.SerializeToString())
    assert [spec.name for spec in session.outputs] == ["y"]
    (told,) = session.graph.changes
    assert told.startswith("left out: output 'list' is of type seq(tensor(float)), which cannot")
    assert session.run({"x": np.float32([[-1, 0, 1]])}, ["y"])[0].tolist() == [[0, 0, 1]]


def test_a_hint_fits_what_it_is_given_for():
    nodes = [node("SequenceConstruct", ["x"], ["list"])]
    content = onnx.load_from_string(model(nodes, X, {}))
    content.graph.output.append(helper.make_tensor_sequence_value_info("list", 1, None))
    with pytest.raises(LoadFailed, match="export its elements as tensors") as caught:
        open_session(content.SerializeToString())
    assert "zipmap" not in caught.value.message
