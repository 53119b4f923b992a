"""Scores into labels, the same for every classification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from aiaas_client.protocol.predictions import Classification
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InvalidInput

# What the graph's output still needs to become probabilities.
Activation = Literal["none", "softmax", "sigmoid"]
_FEW = 16  # scores that Python sorts sooner than numpy begins to


def softmax(logits: Array) -> Array:
    """Over the last axis, in float32."""
    shifted = np.exp(logits.astype(np.float32) - logits.max(axis=-1, keepdims=True))
    total: Array = shifted / shifted.sum(axis=-1, keepdims=True)
    return total


def best_first(scores: Array, top_k: int | None = None) -> list[int]:
    """Indices of the highest scores `(n,)`, best first, ties in their own order.

    Raises:
        InvalidInput: `top_k` is below 1.
    """
    if top_k is not None and top_k < 1:
        raise InvalidInput(f"top_k: expected 1 or more, got {top_k}")
    if len(scores) <= _FEW:
        values: list[float] = scores.tolist()
        if not math.isnan(sum(values)):  # NaN has no place in the order of Python's numbers
            return sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    order: list[int] = np.argsort(-scores, kind="stable")[:top_k].tolist()
    return order


def activated(values: Array, activation: Activation) -> Array:
    """Apply the activation over the last axis; float32."""
    if activation == "softmax":
        return softmax(values)
    values = values.astype(np.float32, copy=False)
    if activation == "sigmoid":
        clipped = np.clip(values, -60, 60)
        return np.asarray(1 / (1 + np.exp(-clipped)), np.float32)
    return values


def classification(
    scores: Array, labels: Sequence[str], top_k: int | None = None
) -> Classification:
    """The best label of `scores` `(labels,)`, with all or the `top_k` best beside it."""
    values = scores.tolist()
    order = best_first(scores, top_k)
    by_label = {labels[index]: values[index] for index in order}
    return Classification(label=labels[order[0]], score=values[order[0]], scores=by_label)
