"""Scores into labels, the same for every classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from aiaas_client.protocol.predictions import Classification
from aiaas_client.protocol.tensors import Array
from aiaas_server.tasks.task import best_first, softmax

# What the graph's output still needs to become probabilities.
Activation = Literal["none", "softmax", "sigmoid"]


def activated(values: Array, activation: Activation) -> Array:
    """Apply the activation over the last axis; float32."""
    if activation == "softmax":
        return softmax(values)
    values = values.astype(np.float32)
    if activation == "sigmoid":
        clipped = np.clip(values, -60, 60)
        return np.asarray(1 / (1 + np.exp(-clipped)), np.float32)
    return values


def classification(
    scores: Array, labels: Sequence[str], top_k: int | None = None
) -> Classification:
    """The best label of `scores` `(labels,)`, with all or the `top_k` best beside it."""
    order = best_first(scores, top_k)
    by_label = {labels[index]: float(scores[index]) for index in order}
    return Classification(label=labels[order[0]], score=float(scores[order[0]]), scores=by_label)
