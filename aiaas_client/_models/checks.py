"""What a server would refuse of a whole call, told before it is sent where enough is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from aiaas_client._errors import InputError, ShapeError

if TYPE_CHECKING:
    from aiaas_client._models.handle import BatchLimits
    from aiaas_client.protocol.messages import ModelMetadata
    from aiaas_client.protocol.tensors import Array


def check_outputs(metadata: ModelMetadata | None, names: Iterable[str], model: str) -> None:
    """Refuse outputs that the model does not have.

    Raises:
        InputError: names the output and those that there are.
    """
    known = [spec.name for spec in metadata.outputs] if metadata is not None else []
    for name in names:
        if known and name not in known:
            expected = ", ".join(map(repr, known))
            raise InputError(
                f"model {model!r}: unknown output {name!r}; expected {expected}",
                tensor=str(name),
                expected=expected,
                got=repr(name),
                model=model,
            )


def batch_problem(
    tensors: Mapping[str, Array], limits: BatchLimits | None, model: str
) -> ShapeError | None:
    """Why the tensors are no batch of the model, if that is known not to be one.

    Args:
        limits: None, or without a largest batch, is not enough to say: the first dimension of a
            model that does not batch may be anything.
    """
    most = None if limits is None else limits.max_batch_size
    if not most or not tensors:
        return None
    sizes = {name: array.shape[0] if array.ndim else 1 for name, array in tensors.items()}
    first, rows = next(iter(sizes.items()))
    other = next((name for name, size in sizes.items() if size != rows), None)
    if other is not None:
        expected = f"{rows} rows, as in {first!r}"
        text = f"expected one batch size for all inputs, {expected}, got {sizes[other]}"
        return _problem(text, other, expected, sizes[other], model)
    if rows > most:
        expected = f"at most {most} rows"
        text = f"expected {expected}, the model's max_batch_size, got {rows}"
        hint = "; infer_array and infer_many send more in several requests"
        return _problem(text + hint, first, expected, rows, model)
    return None


def _problem(text: str, tensor: str, expected: str, rows: int, model: str) -> ShapeError:
    return ShapeError(
        f"input {tensor!r}: {text}",
        tensor=tensor,
        expected=expected,
        got=f"{rows} rows",
        model=model,
    )
