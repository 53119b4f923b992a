"""Single calls gathered into requests: what travels together, and when it is due; no I/O.

`Coalescer` reads no clock of its own; two shells around it (`batcher`), for threads and for an
event loop, keep the time and do the sending. A refused request is halved until the call to blame
stands alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.batches import (
    Batch,
    Piece,
    is_refusal,
    only_row,
    shape_key,
    size_of,
    split,
)
from aiaas_client._bulk.plan import DEFAULT_BYTES, Tensors
from aiaas_client._errors import AiaasError


@dataclass(slots=True)
class _Gathering:
    """Calls of equal shapes that wait for company until `due` (a monotonic time)."""

    due: float
    pieces: list[Piece]
    size: int


class Coalescer:
    """Groups calls by shape into requests; does no I/O and reads no clock.

    Args:
        max_wait: Seconds the first call of a request waits for others.
        max_rows: Calls in a request.
        max_bytes: Tensor bytes in a request; a larger call travels alone.
    """

    def __init__(self, max_wait: float, max_rows: int, max_bytes: int = DEFAULT_BYTES) -> None:
        self._max_wait = max_wait
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._gathering: dict[tuple[object, ...], _Gathering] = {}
        self._full: deque[Batch] = deque()

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._gathering and not self._full

    def add(self, ticket: object, inputs: Tensors, now: float) -> None:
        """Take one call: a batch of one row, owned by `ticket`."""
        key, size = shape_key(inputs), size_of(inputs)
        group = self._gathering.get(key)
        if group is not None and group.size + size > self._max_bytes:
            self._fill(key)
            group = None
        if group is None:
            group = self._gathering[key] = _Gathering(now + self._max_wait, [], 0)
        group.pieces.append(Piece(ticket, inputs, 1))
        group.size += size
        if len(group.pieces) >= self._max_rows:
            self._fill(key)

    def take(self, now: float) -> Batch | None:
        """The next request that is full or due, if there is one."""
        if not self._full:
            due = next((key for key, group in self._gathering.items() if group.due <= now), None)
            if due is None:
                return None
            self._fill(due)
        return self._full.popleft()

    def next_due(self) -> float | None:
        """When to look again: a time in the past if something is full; None when idle."""
        if self._full:
            return float("-inf")
        return min((group.due for group in self._gathering.values()), default=None)

    def flush(self) -> None:
        """Make everything that waits due now."""
        for key in list(self._gathering):
            self._fill(key)

    def _fill(self, key: tuple[object, ...]) -> None:
        self._full.append(Batch(self._gathering.pop(key).pieces))


Answer = tuple[Any, InferResult | AiaasError]  # a ticket and what became of it


def settle(batch: Batch) -> Generator[Tensors, InferResult, list[Answer]]:
    """Give every ticket of a request its answer, halving a refused request; does no I/O.

    Yields the tensors to send, is sent the result or thrown the error.
    """
    try:
        result = yield batch.inputs()
        shares = split(batch, result)
    except AiaasError as error:
        if is_refusal(error) and len(batch.pieces) > 1:
            left, right = batch.halves()
            return (yield from settle(left)) + (yield from settle(right))
        return [(piece.owner, error) for piece in batch.pieces]
    return [(piece.owner, result.with_outputs(only_row(outs))) for piece, outs in shares]


def alone(batch: Batch) -> Generator[Tensors, InferResult, list[Answer]]:
    """As `settle` for a model without batch dimension: one ticket, the answer as it is."""
    ticket = batch.pieces[0].owner
    try:
        return [(ticket, (yield batch.inputs()))]
    except AiaasError as error:
        return [(ticket, error)]


def without(batch: Batch, gone: Callable[[Any], bool]) -> Batch | None:
    kept = [piece for piece in batch.pieces if not gone(piece.owner)]
    return Batch(kept) if kept else None
