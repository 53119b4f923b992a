"""Rows cut into requests, and small blocks joined: what `infer_array` sends, and nothing of how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client._bulk.batches import shape_key, size_of
from aiaas_client._bulk.failures import block_error
from aiaas_client._errors import AiaasError, InputError

if TYPE_CHECKING:
    from aiaas_client._bulk.plan import BulkPlan, Tensors


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that travel in one request.

    Attributes:
        start: Which row of the whole comes first here.
        rows: How many there are.
        parts: Their arrays, one after another; the arrays of one row as it is, without a batch
            dimension, where the model has none.
    """

    start: int
    rows: int
    parts: Sequence[Tensors]

    @property
    def stop(self) -> int:
        """The row after the last one."""
        return self.start + self.rows

    def inputs(self) -> Tensors:
        """The tensors to be sent; no copy for a single part."""
        first = self.parts[0]
        if len(self.parts) == 1:
            return first
        return {name: np.concatenate([part[name] for part in self.parts]) for name in first}

    def halves(self) -> tuple[Block, Block]:
        """Two blocks of half the rows each, in order, as views."""
        inputs, half = self.inputs(), self.rows // 2
        left = {name: array[:half] for name, array in inputs.items()}
        right = {name: array[half:] for name, array in inputs.items()}
        return (
            Block(self.start, half, [left]),
            Block(self.start + half, self.rows - half, [right]),
        )


class Cutter:
    """Makes requests of rows: large blocks are cut, small ones of equal shapes are joined.

    Args:
        plan: The largest request, and how rows become tensors.
    """

    def __init__(self, plan: BulkPlan) -> None:
        self._plan = plan
        self._taken = 0  # rows in blocks that were given out
        self._parts: list[Tensors] = []  # rows that still wait for others
        self._rows = 0
        self._size = 0

    @property
    def taken(self) -> int:
        """Rows taken so far, with those that wait."""
        return self._taken + self._rows

    def cut(self, columns: Mapping[str, Any]) -> Iterator[Block]:
        """Blocks of the rows of `columns`, each converted only when it is asked for.

        Rows that do not fill a request wait for the next columns, or for `flush`.

        Args:
            columns: By input name, of equal length; they are only sliced.
        Raises:
            InputError: they differ in length, or some rows do not fit the model.
        """
        rows = rows_of(columns, self._plan.model)
        if not rows:
            self._convert(columns, 0, 0)  # no rows can be of a wrong shape, too
            return
        step = self._step(columns)
        for start in range(0, rows, step):
            inputs = self._convert(columns, start, min(start + step, rows))
            yield from self._add(inputs, min(step, rows - start))

    def flush(self) -> Iterator[Block]:
        """The rows that waited for others."""
        if self._parts:
            yield self._close()

    def _step(self, columns: Mapping[str, Any]) -> int:
        """Rows in a request, by the size of the first one."""
        if not self._plan.batched:
            return 1
        size = max(1, size_of(self._convert(columns, 0, 1)))
        return max(1, min(self._plan.max_rows, self._plan.max_bytes // size))

    def _convert(self, columns: Mapping[str, Any], start: int, stop: int) -> Tensors:
        try:
            return self._converted(columns, start, stop)
        except AiaasError as error:
            if not self.taken:  # nothing was sent
                raise
            first = self.taken
            raise block_error(self._plan.model, first, first + stop - start, error) from error

    def _converted(self, columns: Mapping[str, Any], start: int, stop: int) -> Tensors:
        conversion = self._plan.conversion
        if not self._plan.batched and start < stop:
            return conversion.item({name: column[start] for name, column in columns.items()})
        if not self._plan.batched:
            return {}
        return conversion.block({name: column[start:stop] for name, column in columns.items()})

    def _add(self, inputs: Tensors, rows: int) -> Iterator[Block]:
        if not self._plan.batched:
            yield self._block([inputs], rows)
            return
        size = size_of(inputs)
        if self._parts and not self._joins(inputs, rows, size):
            yield self._close()
        most_rows, most_bytes = self._plan.max_rows, self._plan.max_bytes
        if size > most_bytes and rows > 1:  # texts, whose rows differ in size
            step = max(1, rows * most_bytes // size)
            for start in range(0, rows, step):
                part = {name: array[start : start + step] for name, array in inputs.items()}
                yield self._block([part], min(step, rows - start))
        elif 2 * (self._rows + rows) > most_rows or 2 * (self._size + size) > most_bytes:
            self._hold(inputs, rows, size)
            yield self._close()  # full enough: who waits for a little more keeps the server idle
        else:
            self._hold(inputs, rows, size)

    def _joins(self, inputs: Tensors, rows: int, size: int) -> bool:
        has_room = (
            self._rows + rows <= self._plan.max_rows and self._size + size <= self._plan.max_bytes
        )
        return has_room and shape_key(inputs) == shape_key(self._parts[0])

    def _hold(self, inputs: Tensors, rows: int, size: int) -> None:
        self._parts.append(inputs)
        self._rows += rows
        self._size += size

    def _close(self) -> Block:
        parts, rows = self._parts, self._rows
        self._parts, self._rows, self._size = [], 0, 0
        return self._block(parts, rows)

    def _block(self, parts: Sequence[Tensors], rows: int) -> Block:
        block = Block(self._taken, rows, parts)
        self._taken += rows
        return block


def rows_of(columns: Mapping[str, Any], model: str) -> int:
    """How many rows `columns` have.

    Raises:
        InputError: they differ in length, or there are none.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        came = ", ".join(f"{name!r} {length}" for name, length in lengths.items()) or "no inputs"
        text = f"model {model!r}: expected as many rows in every input, got {came}"
        raise InputError(text, model=model)
    return next(iter(lengths.values()))
