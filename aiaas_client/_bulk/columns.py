"""What `infer_array` is given: the rows themselves, or blocks of rows that come one by one."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client._errors import InputError

if TYPE_CHECKING:
    from aiaas_client._bulk.plan import BulkPlan

_ARRAY_LIKE = ("__array__", "__array_interface__", "__dlpack__", "to_numpy")


def rows_or_blocks(
    value: object, more: Mapping[str, object], plan: BulkPlan
) -> Mapping[str, Any] | Iterator[object] | AsyncIterator[object]:
    """The rows by input name, or an iterator over blocks of rows.

    Arrays, frames, mappings of such and lists of rows are rows. Anything else that can be iterated
    gives blocks, as does a list of mappings, of frames, or of arrays with a batch dimension.

    Args:
        value: What the caller gave.
        more: Inputs given by name beside it.
    Raises:
        InputError: it is nothing of the kind, or an input was given twice.
    """
    if isinstance(value, AsyncIterable) or _is_blocks(value, plan):
        if more:
            text = f"model {plan.model!r}: give blocks of rows, or inputs by name, not both"
            raise InputError(text, model=plan.model)
        return _iterated(value)
    columns = columns_of(value, plan)
    twice = sorted(columns.keys() & more.keys())
    if twice:
        text = f"model {plan.model!r}: input {twice[0]!r} was given twice"
        raise InputError(text, tensor=twice[0], model=plan.model)
    return {**columns, **columns_of(more, plan)} if more else columns


def columns_of(value: object, plan: BulkPlan) -> Mapping[str, Any]:
    """One block by input name, each of its columns ready to be sliced; nothing is copied.

    Raises:
        InputError: it cannot be named, or has no rows to be sliced.
    """
    named: Any = plan.conversion.named(value)
    return {str(name): _sliceable(name, column, plan.model) for name, column in named.items()}


def _is_blocks(value: object, plan: BulkPlan) -> bool:
    if isinstance(value, list | tuple):
        first = value[0] if value else {}
        return isinstance(first, Mapping) or _is_frame(first) or _has_batch(first, plan)
    if isinstance(value, Mapping | str | bytes | bytearray | memoryview) or _is_array(value):
        return False
    return isinstance(value, Iterable)


def _iterated(blocks: Any) -> Iterator[object] | AsyncIterator[object]:
    return aiter(blocks) if isinstance(blocks, AsyncIterable) else iter(blocks)


def _is_array(value: object) -> bool:
    return any(hasattr(value, name) for name in _ARRAY_LIKE)


def _is_frame(value: object) -> bool:
    return hasattr(value, "columns") and hasattr(value, "to_numpy")


def _has_batch(value: object, plan: BulkPlan) -> bool:
    """Whether an element of a list is a block, not a row: by the dimensions the model declares."""
    inputs = plan.metadata.inputs if plan.metadata is not None else ()
    rank = getattr(value, "ndim", None)
    return len(inputs) == 1 and rank == len(inputs[0].shape) + (not plan.batched)


class _Positions:
    """A pandas frame or series, sliced by position whatever its index is."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Any) -> Any:
        return self._values.iloc[rows]


def _sliceable(name: object, column: Any, model: str) -> Any:
    if hasattr(column, "iloc"):
        return _Positions(column)
    if isinstance(column, Mapping | str | bytes | bytearray) or not hasattr(column, "__getitem__"):
        if not _is_array(column):
            got = type(column).__name__
            raise InputError(f"input {name!r}: expected rows, got one {got}", model=model)
        rows: Any = column
        column = np.from_dlpack(rows) if hasattr(rows, "__dlpack__") else np.asarray(rows)
    try:
        len(column)
    except TypeError:
        text = f"input {name!r}: expected rows, got a value without dimensions"
        raise InputError(text, model=model) from None
    return column
