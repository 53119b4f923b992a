"""What a model takes and gives, and whether a request fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from aiaas_client.protocol.tensors import Array, dtype_of
from aiaas_server.core import misfits
from aiaas_server.core.errors import InvalidInput

_OBJECT: Final = np.dtype(object)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        datatype: The protocol's name, "FP32".
        shape: Full shape, -1 where variable. In the signature of a batching model the first
            dimension is the batch; this is the shape of the protocol's metadata.
        symbols: The graph's name of each variable dimension, "" where it has none.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    is_shape_tensor: bool = False
    symbols: tuple[str, ...] = ()


class Signature:
    """Inputs and outputs of one model version, in the model's order."""

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        max_batch_size: int = 0,
    ) -> None:
        self.model = model
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.max_batch_size = max_batch_size
        self.output_names = tuple(spec.name for spec in outputs)
        self._checks = {spec.name: _Check(spec, batched=max_batch_size > 0) for spec in inputs}
        self._required = sum(not spec.optional for spec in inputs)

    def check(self, inputs: Mapping[str, Array]) -> int:
        """Number of items (rows) in the request: its batch size, 1 for a model that does not batch.

        Raises:
            InvalidInput: A name, datatype, rank, dimension or batch does not fit; the message
                names model and tensor, what was expected and what came.
        """
        batched = self.max_batch_size > 0
        rows = -1
        required = 0
        for name, array in inputs.items():
            check = self._checks.get(name)
            if check is None:
                raise misfits.unknown_input(self.model, name, tuple(self._checks))
            shape = array.shape
            if array.dtype != check.dtype:
                raise misfits.wrong_datatype(self.model, name, check.datatype, array)
            if len(shape) != check.rank:
                raise misfits.wrong_shape(self.model, name, check.shape, shape)
            for axis, size in check.fixed:
                if shape[axis] != size:
                    raise misfits.wrong_shape(self.model, name, check.shape, shape)
            required += check.required
            if batched and shape[0] != rows:
                if rows >= 0:
                    raise misfits.batches_differ(self.model, inputs)
                rows = shape[0]
        if required != self._required:
            raise self._missing(inputs)
        if not batched:
            return 1
        if rows > self.max_batch_size:
            raise misfits.batch_too_large(self.model, self.max_batch_size, rows)
        return max(rows, 0)

    def select(self, names: Sequence[str]) -> tuple[str, ...]:
        """The outputs to compute: `names` in the order asked for, all when empty.

        Raises:
            InvalidInput: A name is unknown or comes twice.
        """
        if not names:
            return self.output_names
        for name in names:
            if name not in self.output_names:
                raise misfits.unknown_output(self.model, name, self.output_names)
        if len(set(names)) != len(names):
            raise misfits.repeated_output(self.model)
        return tuple(names)

    def _missing(self, inputs: Mapping[str, Array]) -> InvalidInput:
        missing = [s.name for s in self.inputs if not s.optional and s.name not in inputs]
        return misfits.missing_inputs(self.model, self._required, len(inputs), missing)


class _Check:
    """A TensorSpec made ready to be compared with an array."""

    __slots__ = ("datatype", "dtype", "fixed", "rank", "required", "shape")

    def __init__(self, spec: TensorSpec, *, batched: bool) -> None:
        self.datatype = spec.datatype
        self.shape = spec.shape
        self.dtype: np.dtype[np.generic] = dtype_of(spec.datatype)
        self.rank = len(spec.shape)
        self.required = not spec.optional
        self.fixed = tuple(
            (axis, size)
            for axis, size in enumerate(spec.shape)
            if size >= 0 and not (batched and axis == 0)
        )


def total_bytes(tensors: Mapping[str, Array]) -> int:
    """Bytes of all of them: the elements, and for text what they point to as well."""
    size = 0
    for array in tensors.values():
        size += array.nbytes if array.dtype is not _OBJECT else _text_bytes(array)
    return size


def _text_bytes(array: Array) -> int:
    return array.nbytes + sum(map(len, array.reshape(-1).tolist()))
