"""A logistic regression over features, and how it goes behind a graph that computes them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from aiaas_server.jobs.recipes.recipe import Array

_STEPS = 1000


class Head(NamedTuple):
    """Probabilities are `softmax(features @ weights + bias)`.

    Attributes:
        weights: `(features, classes)` float32.
        bias: `(classes,)` float32.
    """

    weights: Array
    bias: Array

    def probabilities(self, features: Any) -> Array:
        """`(rows, classes)` float64 of dense or sparse features."""
        logits = np.asarray(features @ self.weights, np.float64) + self.bias
        logits -= logits.max(axis=1, keepdims=True)
        found = np.exp(logits)
        return np.asarray(found / found.sum(axis=1, keepdims=True))


def fit_head(features: Any, target: Array, strength: float, weights: Array | None) -> Head:
    """Fit it.

    Args:
        features: `(rows, features)`, dense or sparse.
        strength: The larger, the closer it follows the rows: `C` of scikit-learn.
        weights: Of the rows.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=strength, max_iter=_STEPS).fit(features, target, weights)
    slopes, bias = fitted.coef_, fitted.intercept_
    if len(slopes) == 1:  # of two classes; half of it for, half against, is the same
        slopes, bias = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-bias, bias]) / 2
    return Head(slopes.T.astype(np.float32), bias.astype(np.float32))


def join(model: Any, features: str, head: Head) -> bytes:
    """The graph with the head behind its tensor `features`; its only output is `probabilities`."""
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("Gemm", [features, "head_weights", "head_bias"], ["head_logits"]),
            helper.make_node("Softmax", ["head_logits"], ["probabilities"], axis=-1),
        ]
    )
    constants = {"head_weights": head.weights, "head_bias": head.bias}
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    set_output(model, "probabilities", len(head.bias))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def set_output(model: Any, name: str, width: int) -> None:
    """Let a graph have one output, `(batch, width)` float32."""
    del model.graph.output[:]
    shape: list[str | int | None] = ["batch", width]
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
