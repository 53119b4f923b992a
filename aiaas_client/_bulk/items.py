"""Items of an iterable, of arrays by name, or of a frame; many rows at a time where possible."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client._errors import InputError

if TYPE_CHECKING:
    from aiaas_client._bulk.plan import BulkPlan


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows `start` to `stop` of arrays by input name: as many items, read at once."""

    columns: Mapping[str, Any]
    start: int
    stop: int

    def block(self) -> dict[str, object]:
        """The rows as one block."""
        return {name: column[self.start : self.stop] for name, column in self.columns.items()}

    def items(self) -> Iterator[dict[str, object]]:
        """The rows one by one."""
        for row in range(self.start, self.stop):
            yield {name: column[row] for name, column in self.columns.items()}


def items_of(
    values: Iterable[object] | Mapping[str, object], plan: BulkPlan, *, rows: bool = False
) -> Iterator[object]:
    """The items of an iterable, or the rows of arrays given by input name, or of a data frame.

    Rows of numpy arrays come many at a time, as `Rows`.

    Args:
        values: What the caller gave.
        plan: For the names of a data frame's columns.
        rows: Items are blocks; arrays by name are one block.
    Raises:
        InputError: they cannot be iterated, or the arrays differ in length.
    """
    named: object = values
    is_array = isinstance(values, np.ndarray) and values.ndim and not rows
    if is_array or (hasattr(values, "columns") and hasattr(values, "to_numpy")):
        named = plan.conversion.named(values)
    if not isinstance(named, Mapping):
        return iterate(named)
    if rows:
        return iter([named])
    columns = {str(name): _rows(value) for name, value in named.items()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"expected inputs of equal length, got {lengths}")
    count = next(iter(lengths.values()), 0)
    if not plan.batched or not all(isinstance(column, np.ndarray) for column in columns.values()):
        return Rows(columns, 0, count).items()
    each = max(1, sum(column[:1].nbytes for column in columns.values()))
    step = max(1, min(plan.max_rows, plan.max_bytes // each))
    return (Rows(columns, i, min(i + step, count)) for i in range(0, count, step))


def async_items_of(
    values: Iterable[object] | AsyncIterable[object], plan: BulkPlan, *, rows: bool = False
) -> Iterator[object] | AsyncIterator[object]:
    """As `items_of`, for asynchronous iterables too."""
    if isinstance(values, AsyncIterable):
        return aiter(values)
    return items_of(values, plan, rows=rows)


def iterate(values: Any) -> Iterator[object]:
    """An iterator over anything that has one.

    Raises:
        InputError: it has none, or is a single text.
    """
    if isinstance(values, str | bytes):  # whose parts are nobody's items
        raise InputError(f"items: expected many, got one {type(values).__name__}")
    if not isinstance(values, Iterable) and not hasattr(values, "__getitem__"):
        raise InputError(f"items: expected an iterable, got {type(values).__name__}")
    return iter(values)


def _rows(value: Any) -> Any:
    if hasattr(value, "to_numpy"):
        return value.to_numpy()
    return value if hasattr(value, "__getitem__") else list(value)


def length_of(values: object) -> int | None:
    """How many items there will be, if that can be told."""
    if isinstance(values, Mapping):
        return len(next(iter(values.values()), ()))
    return len(values) if isinstance(values, Sized) else None
