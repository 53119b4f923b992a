"""Requests of different lengths in one batch: inputs padded along declared axes, outputs cut back.

A model may declare this only if what is padded cannot change what it gives for the rest: a mask
hides it. `Padding` is made from a declaration such as

    {"pad": {"input_ids": {"axis": 1}, "attention_mask": {"axis": 1, "value": 0}},
     "slice": {"last_hidden_state": 1}, "max_waste": 0.25}

which stands in the card's `batching`, or as text in the configuration's parameter `batching`.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from math import inf
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from aiaas_client.protocol.tensors import Array, dtype_of
from aiaas_server.core.describe.card import explain
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.describe.samples import TooLarge, zeros
from aiaas_server.core.errors import LoadFailed, ServerError
from aiaas_server.core.session import Session
from aiaas_server.core.signature import Signature, TensorSpec

_BATCHING = "batching"
_WINDOW = 4
"""Batches' worth of waiting requests that are looked at for similar lengths."""


class PadRule(BaseModel, frozen=True, extra="forbid"):
    """How one input is padded: the axis (0 is the batch) and what fills it."""

    axis: Annotated[int, Field(ge=1)]
    value: float = 0


class Declaration(BaseModel, frozen=True, extra="forbid"):
    """What a model says about padding.

    Attributes:
        pad: By input. All of them have one length in a request.
        slice: By output, the axis that is as long as the inputs' and is cut back.
        max_waste: Largest part of a batch that may be padding.
    """

    pad: dict[str, PadRule] = Field(default_factory=dict)
    slice: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    max_waste: Annotated[float, Field(ge=0, lt=1)] = 0.25


def declared(config: ModelConfig, card_batching: Mapping[str, Any] | None) -> Declaration | None:
    """The declaration of a model; the configuration's stands above the card's. None without.

    Raises:
        LoadFailed: It is not of that form.
    """
    text = config.parameters.get(_BATCHING)
    where = f"configuration: parameter '{_BATCHING}'" if text else "model.json: batching"
    try:
        found = json.loads(text.string_value) if text else card_batching
        if not found:
            return None
        declaration = Declaration.model_validate(found)
    except ValidationError as error:
        raise LoadFailed(f"{where}: {explain(error, Declaration)}") from error
    except ValueError as error:
        raise LoadFailed(f"{where}: it is not JSON") from error
    return declaration if declaration.pad else None


class Padding:
    """The rules of one model, held against its signature.

    Raises:
        LoadFailed: A name is unknown, or an axis is not one of variable length.
    """

    def __init__(self, declaration: Declaration, signature: Signature) -> None:
        if not signature.max_batch_size:
            raise LoadFailed("batching: padding needs a model that batches")
        inputs = {spec.name: spec for spec in signature.inputs}
        outputs = {spec.name: spec for spec in signature.outputs}
        for name, rule in declaration.pad.items():
            _check_axis("input", name, rule.axis, inputs)
            if inputs[name].datatype == "BYTES":
                raise LoadFailed(f"batching: input '{name}' is text, which cannot be padded")
        for name, axis in declaration.slice.items():
            _check_axis("output", name, axis, outputs)
        self.max_waste = declaration.max_waste
        self._axes = {name: rule.axis for name, rule in declaration.pad.items()}
        self._values = {
            name: np.array(rule.value).astype(dtype_of(inputs[name].datatype))
            for name, rule in declaration.pad.items()
        }
        self._cuts = dict(declaration.slice)
        self._names = tuple(inputs)

    def place(self, inputs: Mapping[str, Array]) -> tuple[Hashable, int]:
        """The bucket of a request and its length, 0 for one that is joined only with its like."""
        length = -1
        shapes: list[object] = []
        for name in self._names:
            array = inputs.get(name)
            if array is None:
                shapes.append(None)
                continue
            axis = self._axes.get(name)
            shape = array.shape
            if axis is None:
                shapes.append(shape[1:])
                continue
            if length < 0:
                length = shape[axis]
            elif shape[axis] != length:
                length = 0
            shapes.append((*shape[1:axis], -1, *shape[axis + 1 :]))
        if length > 0:
            return tuple(shapes), length
        exact = [inputs[name].shape[1:] if name in inputs else None for name in self._names]
        return tuple(exact), 0

    def join(self, requests: Sequence[Mapping[str, Array]], length: int) -> dict[str, Array]:
        """Inputs of one bucket along the first axis, each padded to `length`."""
        joined: dict[str, Array] = {}
        for name, first in requests[0].items():
            axis = self._axes.get(name)
            if axis is None:
                joined[name] = np.concatenate([request[name] for request in requests])
                continue
            rows = sum(request[name].shape[0] for request in requests)
            shape = (rows, *first.shape[1:axis], length, *first.shape[axis + 1 :])
            whole = np.full(shape, self._values[name], dtype=first.dtype)
            start = 0
            for request in requests:
                array = request[name]
                stop = start + array.shape[0]
                whole[start:stop][_first(axis, array.shape[axis])] = array
                start = stop
            joined[name] = whole
        return joined

    def cut(self, arrays: Sequence[Array], names: Sequence[str], length: int) -> list[Array]:
        """One request's part of the outputs `names`, without what belongs to the padding."""
        parts: list[Array] = []
        for name, array in zip(names, arrays, strict=True):
            axis = self._cuts.get(name)
            if axis is not None and array.shape[axis] != length:
                array = np.ascontiguousarray(array[_first(axis, length)])
            parts.append(array)
        return parts

    def select(
        self,
        lengths: Sequence[int],
        rows: Sequence[int],
        max_rows: int,
        worth: float = inf,
        most: float = inf,
    ) -> list[int]:
        """Which waiting requests to run with the first one: those nearest to it in length.

        Args:
            lengths: Of each request, oldest first.
            rows: Items of each.
            max_rows: Items a batch may hold.
            worth: Padding, in elements, that costs as much as a run saved: a request that brings
                more of it has its own run.
            most: Elements that the batch may hold, padding included; the first request always may.
        Returns:
            Indexes, the first request's before all others; any beginning of them keeps to
            `max_rows`, to `most` and to `max_waste`.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        place = order.index(0)
        below, above = place - 1, place + 1
        chosen = [0]
        total, filled, longest = rows[0], rows[0] * lengths[0], lengths[0]
        while below >= 0 or above < len(order):
            shorter = lengths[order[below]] if below >= 0 else None
            longer = lengths[order[above]] if above < len(order) else None
            down = longer is None or (
                shorter is not None and lengths[0] - shorter <= longer - lengths[0]
            )
            index = order[below] if down else order[above]
            below, above = (below - 1, above) if down else (below, above + 1)
            top = max(longest, lengths[index])
            total_then = total + rows[index]
            filled_then = filled + rows[index] * lengths[index]
            if total_then > max_rows or total_then * top > most:
                continue
            padded_then = total_then * top - filled_then
            brought = padded_then - (total * longest - filled)
            if padded_then > self.max_waste * total_then * top or brought > worth:
                # Only further away from here on that side.
                below, above = (-1, above) if down else (below, len(order))
                continue
            chosen.append(index)
            total, filled, longest = total_then, filled_then, top
            if total == max_rows or (total + 1) * longest > most:
                break
        return chosen

    @staticmethod
    def window(max_rows: int) -> int:
        """How many waiting requests are worth looking at."""
        return min(_WINDOW * max_rows, 256)


def verify(declaration: Declaration, session: Session, signature: Signature) -> None:
    """Run the model at two lengths and see which output axes follow.

    Raises:
        LoadFailed: An output grows with the length and is not cut back, or is and does not.
    """
    shapes: list[list[tuple[int, ...]]] = []
    for length in (2, 3):
        try:
            inputs = {spec.name: _sample(spec, declaration, length) for spec in signature.inputs}
            arrays = session.run(inputs, signature.output_names)
        except (ServerError, TooLarge):
            return  # it cannot run on zeros, which says nothing about padding
        shapes.append([array.shape for array in arrays])
    for name, short, long in zip(signature.output_names, *shapes, strict=True):
        grows = [axis for axis, (a, b) in enumerate(zip(short, long, strict=True)) if a != b]
        cut = [declaration.slice[name]] if name in declaration.slice else []
        if grows != cut:
            raise LoadFailed(
                f"batching: output '{name}' follows the padded length along axes {grows}, "
                f"but slice names {cut or 'none'}"
            )


def _sample(spec: TensorSpec, declaration: Declaration, length: int) -> Array:
    shape = [max(size, 1) for size in spec.shape]
    rule = declaration.pad.get(spec.name)
    if rule is not None:
        shape[rule.axis] = length
    return zeros(spec.name, spec.datatype, shape)


def _first(axis: int, length: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(length),)


def _check_axis(kind: str, name: str, axis: int, specs: Mapping[str, TensorSpec]) -> None:
    spec = specs.get(name)
    if spec is None:
        raise LoadFailed(f"batching: the model has no {kind} '{name}', only {', '.join(specs)}")
    if axis >= len(spec.shape) or spec.shape[axis] != -1:
        raise LoadFailed(
            f"batching: {kind} '{name}' has shape {spec.shape}: axis {axis} is not variable"
        )
