"""The raw form of a request: no JSON at all, the body is the model's only input."""

from __future__ import annotations

from collections.abc import Sequence

from aiaas_client.protocol.inference import CodecError, InferRequest
from aiaas_client.protocol.tensors import (
    Body,
    TensorError,
    dtype_of,
    element_count,
    object_array,
    tensor_from_bytes,
)


def decode_raw_request(
    body: Body, name: str, datatype: str, shape: Sequence[int], *, batched: bool
) -> InferRequest:
    """Read a request in the raw form.

    Args:
        name: The input's name.
        datatype: The input's datatype.
        shape: The metadata's shape, -1 for variable, the batch included.
        batched: Whether the first dimension is the batch, which is then 1.
    Raises:
        CodecError: More than one variable dimension, or a size the shape cannot take.
    """
    dims = [1, *shape[1:]] if batched else list(shape)
    if datatype == "BYTES":
        if element_count([1 if d == -1 else d for d in dims]) != 1:
            raise CodecError(f"input {name!r}: the raw form takes one BYTES element")
        element = object_array([bytes(body)]).reshape([1 if d == -1 else d for d in dims])
        return InferRequest({name: element}, binary_output=True)
    try:
        solved = _solve(dims, len(body), dtype_of(datatype).itemsize)
        tensor = tensor_from_bytes(body, 0, len(body), datatype, solved)
    except TensorError as error:
        raise CodecError(f"input {name!r}: {error}") from None
    return InferRequest({name: tensor}, binary_output=True)


def _solve(dims: list[int], size: int, itemsize: int) -> tuple[int, ...]:
    variable = [index for index, dimension in enumerate(dims) if dimension == -1]
    if len(variable) > 1:
        raise TensorError(f"the raw form needs at most one variable dimension, got {len(variable)}")
    if variable:
        unit = element_count([d for d in dims if d != -1]) * itemsize
        if not unit or size % unit:
            raise TensorError(f"{size} bytes are no multiple of {unit}, one step of the shape")
        dims[variable[0]] = size // unit
    return tuple(dims)
