"""Many items through few requests: what is sent next, what is handed out next; no I/O.

`BulkCore` is told items and answers and says which batch to send; two small loops around it
(`runners`), one for threads and one for tasks, do the sending. Items of the same shapes share a
batch. What has been read from the input and not yet been handed out never exceeds
`concurrency + 1` full batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from aiaas_client._bulk.batches import (
    Batch,
    Piece,
    cut,
    error_of,
    is_refusal,
    only_row,
    shape_key,
    size_of,
    split,
)
from aiaas_client._bulk.items import Rows
from aiaas_client._bulk.pending import PendingInput, PendingItem, PendingRows
from aiaas_client._errors import (
    AiaasError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
)

if TYPE_CHECKING:
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.plan import BulkPlan, Outcome, Tensors

HOPELESS = (
    AuthenticationError,
    PermissionDeniedError,
    NotFoundError,
    ClientClosedError,
    ConfigurationError,
)


class BulkCore:
    """Decides what to send next and what to hand out next; does no I/O.

    Args:
        plan: The model's limits.
        concurrency: Requests in flight at once.
        ordered: Hand out in the order of the input; otherwise as answers come.
        rows: Items are blocks of rows and keep their batch dimension.
    """

    def __init__(
        self, plan: BulkPlan, *, concurrency: int = 8, ordered: bool = True, rows: bool = False
    ) -> None:
        self.plan = plan
        self._most_rows = (concurrency + 1) * plan.max_rows
        self._most_bytes = (concurrency + 1) * plan.max_bytes
        self.in_flight = 0
        self.hopeless: AiaasError | None = None
        self._concurrency = concurrency
        self._ordered = ordered
        self._keep_rows = rows
        self._read = 0
        self._ended = False
        self._held_rows = 0
        self._held_bytes = 0
        self._pending: dict[int, PendingInput] = {}  # read and not handed out, in order
        self._finished: deque[PendingInput] = deque()  # for `ordered=False`
        self._ready: deque[Batch] = deque()
        self._open: dict[tuple[object, ...], _OpenBatch] = {}

    @property
    def wants_input(self) -> bool:
        """Whether another item may be read now."""
        return not self._ended and not self._ready and self._has_room

    @property
    def _has_room(self) -> bool:
        return self._held_rows < self._most_rows and self._held_bytes < self._most_bytes

    def end(self) -> None:
        """There is no more input."""
        self._ended = True

    def add(self, value: object) -> None:
        """Take the next item; one that does not fit the model fails alone."""
        if isinstance(value, Rows):
            self._add_rows(value)
            return
        index = self._read
        self._read += 1
        try:
            if self._keep_rows:
                inputs, rows = self.plan.block(value)
            else:
                inputs, rows = self.plan.conversion.item(value), 1
        except AiaasError as error:
            self._pending[index] = item = PendingItem(index, 1, 0, 0)
            self._held_rows += 1
            self._finish(item, error_of(index, error))
            return
        size = size_of(inputs)
        item = PendingItem(index, max(rows, 1), size, rows)
        self._pending[index] = item
        self._held_rows += item.rows
        self._held_bytes += size
        self._place(Piece(item, inputs, rows), size)

    def _add_rows(self, rows: Rows) -> None:
        """Take many items at once, or one by one when something is wrong with one of them."""
        try:
            inputs, count = self.plan.block(rows.block())
        except AiaasError:
            for item in rows.items():
                self.add(item)
            return
        size = size_of(inputs)
        each = size // count
        block = PendingRows(self._read, count, each * count, count)
        self._pending[block.index] = block
        self._read += count
        self._held_rows += count
        self._held_bytes += block.size
        self._place(Piece(block, inputs, count), size)

    def _place(self, piece: Piece, size: int) -> None:
        if not self.plan.batched or not piece.rows:
            self._ready.append(Batch([piece]))  # no rows to share a request with
            return
        key = shape_key(piece.inputs)
        each = size // piece.rows
        most = max(1, min(self.plan.max_rows, self.plan.max_bytes // each if each else piece.rows))
        start = 0
        while start < piece.rows:
            opened = self._open.setdefault(key, _OpenBatch())
            room = self.plan.max_rows - opened.rows
            if each:
                room = min(room, (self.plan.max_bytes - opened.size) // each)
            if room <= 0 and opened.pieces:
                self._close(key)
                continue
            stop = min(piece.rows, start + max(1, min(room, most)))
            whole = start == 0 and stop == piece.rows
            opened.add(piece if whole else cut(piece, start, stop), each)
            start = stop
            if opened.rows >= self.plan.max_rows or opened.size >= self.plan.max_bytes:
                self._close(key)

    def _close(self, key: tuple[object, ...]) -> None:
        self._ready.append(Batch(self._open.pop(key).pieces))

    def take(self) -> Batch | None:
        """The next batch to send now, if there is one; count it as in flight."""
        if self.in_flight >= self._concurrency:
            return None
        if not self._ready and self._open and (self._ended or not self._has_room):
            self._close(next(iter(self._open)))  # the oldest one
        if not self._ready:
            return None
        self.in_flight += 1
        return self._ready.popleft()

    def succeeded(self, batch: Batch, result: InferResult) -> None:
        """`batch` was answered."""
        self.in_flight -= 1
        if not self.plan.batched or not batch.pieces[0].rows:
            item: PendingItem = batch.pieces[0].owner
            self._finish(item, result.with_outputs(result, index=item.index))
            return
        try:
            shares = split(batch, result)
        except ProtocolError as error:
            self._fail(batch, error)
            return
        for piece, outputs in shares:
            self._collect(piece, outputs, result)

    def _collect(self, piece: Piece, outputs: Tensors, result: InferResult) -> None:
        if isinstance(piece.owner, PendingRows):
            self._share(piece.owner, piece, result, outputs)
            return
        item: PendingItem = piece.owner
        item.missing -= piece.rows
        if item.outcome is not None:
            return
        if not self._keep_rows:
            self._finish(item, result.with_outputs(only_row(outputs), index=item.index))
            return
        item.parts.append((piece.start, outputs))
        if item.missing:
            return
        parts = [part for _, part in sorted(item.parts, key=lambda pair: pair[0])]
        whole = parts[0] if len(parts) == 1 else _joined(parts)
        item.parts.clear()
        self._finish(item, result.with_outputs(whole, index=item.index))

    def failed(self, batch: Batch, error: AiaasError) -> None:
        """`batch` was not answered: halve it if one row may be to blame, else give it up."""
        self.in_flight -= 1
        if isinstance(error, HOPELESS):
            self.hopeless = error
        elif is_refusal(error) and batch.rows > 1 and self.plan.batched:
            self._ready.extendleft(reversed(batch.halves()))
        else:
            self._fail(batch, error)

    def _fail(self, batch: Batch, error: AiaasError) -> None:
        for piece in batch.pieces:
            if isinstance(piece.owner, PendingRows):
                self._share(piece.owner, piece, error, {})
                continue
            item: PendingItem = piece.owner
            item.missing -= piece.rows
            if item.outcome is None:
                item.parts.clear()
                self._finish(item, error_of(item.index, error))

    def _share(self, block: PendingRows, piece: Piece, outcome: Outcome, outputs: Tensors) -> None:
        block.add(piece, outcome, outputs)
        if block.is_finished and not self._ordered:
            self._finished.append(block)

    def _finish(self, item: PendingItem, outcome: Outcome) -> None:
        item.outcome = outcome
        if not self._ordered:
            self._finished.append(item)

    def finished(self) -> Iterator[PendingInput]:
        """Give what can be handed out now, each once."""
        while True:
            if self._ordered:
                first = next(iter(self._pending.values()), None)
            else:
                first = self._finished.popleft() if self._finished else None
            if first is None or not first.is_finished:
                return
            del self._pending[first.index]
            self._held_rows -= first.rows
            self._held_bytes -= first.size
            yield first


class _OpenBatch:
    """A batch that still takes pieces."""

    __slots__ = ("pieces", "rows", "size")

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.rows = 0
        self.size = 0

    def add(self, piece: Piece, row_size: int) -> None:
        self.pieces.append(piece)
        self.rows += piece.rows
        self.size += piece.rows * row_size


def _joined(parts: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
