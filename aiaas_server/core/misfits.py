"""What a caller is told whose request does not fit a model's signature.

Each names the model and the tensor, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiaas_client.protocol.tensors import Array, TensorError, datatype_of
from aiaas_server.core.errors import InvalidInput


def unknown_input(model: str, name: str, known: Sequence[str]) -> InvalidInput:
    """An input that the model does not take."""
    return InvalidInput(
        f"unexpected inference input {_quoted(name)} for model '{model}', "
        f"which takes {_listed(known)}"
    )


def unknown_output(model: str, name: str, known: Sequence[str]) -> InvalidInput:
    """An output that the model does not give."""
    return InvalidInput(
        f"unexpected inference output {_quoted(name)} for model '{model}', "
        f"which has {_listed(known)}"
    )


def repeated_output(model: str) -> InvalidInput:
    """An output asked for twice."""
    return InvalidInput(f"an output is requested twice from model '{model}'")


def missing_inputs(model: str, required: int, came: int, missing: Sequence[str]) -> InvalidInput:
    """Inputs that the model needs did not come."""
    return InvalidInput(
        f"expected {required} inputs but got {came} inputs for model "
        f"'{model}'; missing {_listed(missing)}"
    )


def wrong_datatype(model: str, name: str, datatype: str, array: Array) -> InvalidInput:
    """An input of another datatype."""
    return InvalidInput(
        f"input '{name}' of model '{model}': expected datatype {datatype}, "
        f"got {_datatype_name(array)}"
    )


def wrong_shape(
    model: str, name: str, expected: tuple[int, ...], shape: tuple[int, ...]
) -> InvalidInput:
    """An input of another rank, or with another size along a fixed axis."""
    return InvalidInput(
        f"input '{name}' of model '{model}': expected shape {expected}, got {shape}"
    )


def batches_differ(model: str, inputs: Mapping[str, Array]) -> InvalidInput:
    """Inputs that do not hold the same number of items."""
    sizes = ", ".join(f"'{name}' has {array.shape[0]}" for name, array in inputs.items())
    return InvalidInput(f"the inputs of model '{model}' must have one batch size, but {sizes}")


def batch_too_large(model: str, most: int, rows: int) -> InvalidInput:
    """More items than the model takes together."""
    return InvalidInput(
        f"inference request batch-size must be <= {most} for model '{model}', got {rows}"
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
