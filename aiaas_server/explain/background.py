"""What an instance is compared with: rows that the caller sends, or that the version brings.

Of the version it is the golden set that lies beside the model; else, where traffic is watched, rows
drawn from the bins of its reference profile, each column by itself: how they go together is not
kept there, and so it is said in the answer.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.jsontensor import tensor_from_json
from aiaas_client.protocol.tensors import TensorError, check_shape, tensor_from_bytes
from aiaas_server.core.errors import InvalidInput

Array = npt.NDArray[Any]

GOLDEN_FILE: Final = "golden.json"
MOST_ROWS: Final = 100
"""Of a background; more cost time and change little."""
TELL: Final = (
    "give instances to compare with as 'parameters.background', for example some rows of the "
    "training data, or put a golden set (golden.json) beside the model"
)


class Golden(NamedTuple):
    """What a golden set says of inputs: instances as callers send them, or tensors."""

    instances: list[Any]
    inputs: dict[str, Array]


class Binned(Protocol):
    """A feature of a reference profile: counts in bins.

    Attributes:
        edges: Between the bins of numbers, ascending.
        values: Of categories.
        counts: One a bin; of categories what is none of them, then what is missing, stand last; of
            numbers what is missing.
    """

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def edges(self) -> tuple[float, ...]: ...
    @property
    def values(self) -> tuple[str | float, ...]: ...
    @property
    def counts(self) -> tuple[int, ...]: ...


def read_golden(content: bytes) -> Golden | None:
    """The inputs of a golden set; None where it cannot be read, which is not the caller's fault."""
    try:
        document = json.loads(content)
        instances = document.get("instances") or []
        inputs = {name: _tensor(one) for name, one in (document.get("inputs") or {}).items()}
    except (ValueError, TypeError, KeyError, AttributeError, TensorError):
        return None
    if not isinstance(instances, list) or not (instances or inputs):
        return None
    return Golden(instances, inputs)


def _tensor(one: Mapping[str, Any]) -> Array:
    shape = check_shape(one["shape"])
    if one.get("raw") is None:
        return tensor_from_json(one["data"], one["datatype"], shape)
    content = binascii.a2b_base64(one["raw"], strict_mode=True)
    return tensor_from_bytes(content, 0, len(content), one["datatype"], shape)


def some_of(rows: int, most: int, seed: int) -> Array:
    """Indices of at most so many rows, drawn by `seed`, in order."""
    if rows <= most:
        return np.arange(rows)
    found: Array = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    return found


def drawn(features: Sequence[Binned], names: Sequence[str], rows: int, seed: int) -> list[Array]:
    """Rows of a profile, column by column, each drawn by itself.

    A number is drawn evenly within its bin; the outermost bins have one end only, which is taken.

    Raises:
        InvalidInput: The profile does not know one of the columns.
    """
    known = {one.name: one for one in features if one.role == "input"}
    draw = np.random.default_rng(seed)
    found = []
    for name in names:
        feature = known.get(name)
        if feature is None or not sum(_usable(feature)):
            raise InvalidInput(f"the version's reference knows nothing of '{name}': {TELL}")
        found.append(_column(feature, rows, draw))
    return found


def _usable(feature: Binned) -> tuple[int, ...]:
    return feature.counts[: len(feature.values)] if feature.values else feature.counts[:-1]


def _column(feature: Binned, rows: int, draw: np.random.Generator) -> Array:
    counts = np.array(_usable(feature), np.float64)
    bins = draw.choice(len(counts), rows, p=counts / counts.sum())
    if feature.values:
        values = np.empty(len(feature.values), object)
        values[:] = feature.values
        picked: Array = values[bins]
        return picked
    edges = np.array(feature.edges)
    low = edges[np.maximum(bins - 1, 0)]
    high = edges[np.minimum(bins, len(edges) - 1)]
    spread: Array = low + draw.random(rows) * (high - low)
    return spread
