"""What a model takes and gives, and whether a request fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aiaas_client.protocol.tensors import Array, TensorError, datatype_of, dtype_of

from .errors import InvalidInput


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
                raise self._unknown(name)
            shape = array.shape
            if array.dtype != check.dtype:
                raise self._wrong_datatype(check.spec, array)
            if len(shape) != check.rank:
                raise self._wrong_shape(check.spec, shape)
            for axis, size in check.fixed:
                if shape[axis] != size:
                    raise self._wrong_shape(check.spec, shape)
            required += check.required
            if batched and shape[0] != rows:
                if rows >= 0:
                    raise self._batches_differ(inputs)
                rows = shape[0]
        if required != self._required:
            raise self._missing(inputs)
        if not batched:
            return 1
        if rows > self.max_batch_size:
            raise self._batch_too_large(rows)
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
                raise InvalidInput(
                    f"unexpected inference output {_quoted(name)} for model '{self.model}', "
                    f"which has {_listed(self.output_names)}"
                )
        if len(set(names)) != len(names):
            raise InvalidInput(f"an output is requested twice from model '{self.model}'")
        return tuple(names)

    def _unknown(self, name: str) -> InvalidInput:
        return InvalidInput(
            f"unexpected inference input {_quoted(name)} for model '{self.model}', "
            f"which takes {_listed(tuple(self._checks))}"
        )

    def _missing(self, inputs: Mapping[str, Array]) -> InvalidInput:
        missing = [s.name for s in self.inputs if not s.optional and s.name not in inputs]
        return InvalidInput(
            f"expected {self._required} inputs but got {len(inputs)} inputs for model "
            f"'{self.model}'; missing {_listed(missing)}"
        )

    def _wrong_datatype(self, spec: TensorSpec, array: Array) -> InvalidInput:
        return InvalidInput(
            f"input '{spec.name}' of model '{self.model}': expected datatype {spec.datatype}, "
            f"got {_datatype_name(array)}"
        )

    def _wrong_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> InvalidInput:
        return InvalidInput(
            f"input '{spec.name}' of model '{self.model}': expected shape {spec.shape}, got {shape}"
        )

    def _batches_differ(self, inputs: Mapping[str, Array]) -> InvalidInput:
        sizes = ", ".join(f"'{name}' has {array.shape[0]}" for name, array in inputs.items())
        return InvalidInput(
            f"the inputs of model '{self.model}' must have one batch size, but {sizes}"
        )

    def _batch_too_large(self, rows: int) -> InvalidInput:
        return InvalidInput(
            f"inference request batch-size must be <= {self.max_batch_size} for model "
            f"'{self.model}', got {rows}"
        )


class _Check:
    """A TensorSpec made ready to be compared with an array."""

    __slots__ = ("dtype", "fixed", "rank", "required", "spec")

    def __init__(self, spec: TensorSpec, *, batched: bool) -> None:
        self.spec = spec
        self.dtype: np.dtype[np.generic] = dtype_of(spec.datatype)
        self.rank = len(spec.shape)
        self.required = not spec.optional
        self.fixed = tuple(
            (axis, size)
            for axis, size in enumerate(spec.shape)
            if size >= 0 and not (batched and axis == 0)
        )


def _datatype_name(array: Array) -> str:
    try:
        return datatype_of(array)
    except TensorError:
        return str(array.dtype)


def _quoted(name: str) -> str:
    """A name from the request, cut and escaped."""
    return repr(name if len(name) <= 64 else name[:64] + "...")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:16]) or "none"
