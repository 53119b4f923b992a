"""Runs a decoder whose attention extends a buffer in place: nothing is copied between steps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, OutOfMemory
from aiaas_server.core.session import KeepsArrays, KeptRuns, StopToken
from aiaas_server.generate.prefix import BLOCK, PrefixCache
from aiaas_server.generate.rows import Rows
from aiaas_server.generate.tensor_names import (
    IDS,
    KEEP,
    LOGITS,
    MASK,
    POSITIONS,
    Tensors,
    check_constants,
)

_MOST_BOUND: Final = 64  # sets of rows that are bound at a time
# Moving so many tokens to other rows costs about what one idle row costs a step.
_MOVED_FOR_A_ROW: Final = 64


class SharedNetwork:
    """A `Network` over rows of one buffer; see `generate.network.Network`.

    A step runs the rows from the first to the last of its slots. A row between that is not asked
    for runs with them, and what it writes lies behind its own tokens, where nobody reads; once
    that has cost more than moving rows would, they are moved together.

    Args:
        tensors: What the graph takes and gives.
        slots: Rows.
        context: Most tokens of one.
        cache_bytes: Most memory of all rows.
        prefix_bytes: Most memory of prompts that may come again.
    """

    batches_lookahead = False  # the operator takes several tokens behind others of one row alone

    def __init__(
        self,
        session: KeepsArrays,
        tensors: Tensors,
        *,
        slots: int,
        context: int,
        cache_bytes: int,
        prefix_bytes: int,
    ) -> None:
        self.slots = slots
        self.context = context
        self.vocabulary = tensors.vocabulary
        self._session = session
        self._tensors = tensors
        self._limit = cache_bytes
        self._rows = Rows(tensors.caches, slots, context)
        self._row_bytes = self._rows.row_bytes
        self._prefix = PrefixCache(prefix_bytes)
        self._bytes = 0  # of all rows that are taken
        self._free = list(range(slots))
        self._row_of: dict[int, int] = {}  # by slot
        self._held: list[list[int] | None] = [None] * slots  # tokens by row; None of a free one
        self._prompts: dict[int, int] = {}  # by slot, its length
        self._bound: OrderedDict[tuple[int, int], KeptRuns] = OrderedDict()
        self._logits = np.empty((slots, 1, tensors.vocabulary), tensors.logits)
        self._wasted = 0  # rows that ran idle since rows were last moved
        self._columns = np.arange(context)

    # Slots

    def room(self, lengths: Sequence[int]) -> bool:
        """Whether these lengths fit side by side."""
        if len(lengths) > self.slots or max(lengths, default=0) > self.context:
            return False
        return sum(self._row_bytes[length] for length in lengths) <= self._limit

    def open(self, slot: int, tokens: Sequence[int], constants: Mapping[str, Array]) -> int:
        """Take a free slot; gives how many first tokens are there already."""
        if slot in self._row_of or not self._free:
            raise ValueError(f"slot {slot}: expected a free one of {self.slots}")
        check_constants((), constants)
        row = min(self._free)
        blocks = self._prefix.find(tokens)
        while self._bytes + self._row_bytes[len(blocks) * BLOCK] > self._limit:
            blocks.pop()
        self._free.remove(row)
        self._row_of[slot] = row
        self._prompts[slot] = len(tokens)
        self._held[row] = []
        for number, block in enumerate(blocks):
            self._rows.write(row, number * BLOCK, block)
        self._append(row, tokens[: len(blocks) * BLOCK])
        return len(blocks) * BLOCK

    def length(self, slot: int) -> int:
        """Tokens that a slot holds."""
        return len(self._tokens(slot))

    def truncate(self, slot: int, length: int) -> None:
        """Forget the last tokens of a slot."""
        held = self._tokens(slot)
        if not 0 <= length <= len(held):
            raise ValueError(f"slot {slot}: expected a length up to {len(held)}, got {length}")
        self._bytes += self._row_bytes[length] - self._row_bytes[len(held)]
        del held[length:]

    def close(self, slot: int, *, remember: int) -> None:
        """Free a slot, and keep its first tokens for prompts that begin alike."""
        held = self._tokens(slot)
        self._remember(slot, 0, min(remember, len(held)))
        row = self._row_of.pop(slot)
        del self._prompts[slot]
        self._bytes -= self._row_bytes[len(held)]
        self._rows.forget(row)
        self._held[row] = None
        self._free.append(row)

    def measures(self) -> Mapping[str, float]:
        """Memory, and what the cache of prompts saved."""
        return {
            "kv_bytes": self._bytes,
            "kv_bytes_limit": self._limit,
            "prefix_bytes": self._prefix.bytes,
            "prefix_hit_tokens": self._prefix.hits,
            "prefix_lookup_tokens": self._prefix.looked_up,
        }

    def release(self) -> None:
        """Let go of all memory; the network is of no use afterwards."""
        self._bound.clear()
        self._prefix.clear()
        self._rows.arrays.clear()
        self._row_of.clear()
        self._bytes = 0

    # Runs

    def extend(
        self, slot: int, tokens: Sequence[int], keep: int, stop: StopToken | None = None
    ) -> Array:
        """Run further tokens of one slot."""
        held = self._tokens(slot)
        self._reserve([(len(held), len(tokens))])
        row = self._row_of[slot]
        ids = np.array([tokens], self._tensors.ids)  # (1, S)
        begin, end = len(held), len(held) + len(tokens)
        logits = self._run(row, row + 1, ids, [begin], max(keep, 1), stop)
        if logits.shape[1] < keep:
            raise InferenceFailed(f"logits: expected {keep} tokens, got {logits.shape[1]}")
        self._append(row, tokens)
        if end <= self._prompts[slot] and begin // BLOCK != end // BLOCK:
            self._remember(slot, begin, end)
        return logits[0, logits.shape[1] - keep :]

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], stop: StopToken | None = None
    ) -> Array:
        """Run one token of each of several slots."""
        self._reserve([(len(self._tokens(slot)), 1) for slot in slots])
        low, high = self._joined(slots)
        rows = [self._row_of[slot] for slot in slots]
        places = [row - low for row in rows]
        ids = np.zeros((high - low, 1), self._tensors.ids)
        ids[places, 0] = tokens
        begins = [len(held or ()) for held in self._held[low:high]]
        logits = self._run(low, high, ids, begins, 1, stop)[:, -1]  # (high - low, V)
        for row, token in zip(rows, tokens, strict=True):
            self._append(row, (token,))
        if places == list(range(high - low)):
            return logits
        return logits[places]

    def _run(
        self,
        low: int,
        high: int,
        ids: Array,
        begins: Sequence[int],
        keep: int,
        stop: StopToken | None,
    ) -> Array:
        """Run `ids`, `(rows, S)`, behind the first `begins` tokens: `(rows, >= keep, V)`."""
        batch, count = ids.shape
        lengths = np.array(begins)[:, None]  # (rows, 1)
        tensors = self._tensors
        inputs: dict[str, Array] = {IDS: ids}
        if tensors.mask is not None:
            seen = self._columns[: max(begins) + count] < lengths + count
            inputs[MASK] = seen.astype(tensors.mask)
        if tensors.positions is not None:
            inputs[POSITIONS] = (lengths + np.arange(count)).astype(tensors.positions)
        runs = self._runs(low, high)
        if tensors.keep_rank is None and count != 1:
            return _floats(runs.run(inputs, (LOGITS,), stop)[0])
        if tensors.keep_rank is not None:
            inputs[KEEP] = np.full((1,) * tensors.keep_rank, keep, np.int64)
        logits = (
            self._logits[:batch]
            if keep == 1
            else np.empty((batch, keep, self.vocabulary), self._logits.dtype)
        )
        runs.run(inputs, (), stop, into={LOGITS: logits})
        return _floats(logits)

    def _runs(self, low: int, high: int) -> KeptRuns:
        """The session, bound to rows."""
        runs = self._bound.get((low, high))
        if runs is None:
            arrays = zip(self._tensors.caches, self._rows.view(low, high), strict=True)
            runs = self._session.keep({(c.past, c.present): array for c, array in arrays})
            self._bound[low, high] = runs
            if len(self._bound) > _MOST_BOUND:
                self._bound.popitem(last=False)
        self._bound.move_to_end((low, high))
        return runs

    # Rows

    def _tokens(self, slot: int) -> list[int]:
        held = self._held[self._row_of[slot]]
        assert held is not None, "a slot has a row that is taken"
        return held

    def _append(self, row: int, tokens: Sequence[int]) -> None:
        held = self._held[row]
        assert held is not None, "only taken rows grow"
        self._bytes -= self._row_bytes[len(held)]
        held.extend(tokens)
        self._bytes += self._row_bytes[len(held)]

    def _reserve(self, growing: Sequence[tuple[int, int]]) -> None:
        """See that rows of these lengths can grow by so many tokens."""
        more = 0
        for length, count in growing:
            if length + count > self.context:
                raise ValueError(f"expected up to {self.context} tokens, got {length + count}")
            more += self._row_bytes[length + count] - self._row_bytes[length]
        if more and self._bytes + more > self._limit:
            raise OutOfMemory(
                f"keys and values: expected up to {self._limit} bytes, got {self._bytes + more}"
            )

    def _remember(self, slot: int, begin: int, end: int) -> None:
        row = self._row_of[slot]

        def read(first: int, last: int) -> list[Array]:
            return self._rows.read(row, first, last)

        self._prefix.keep(self._tokens(slot)[:end], read, begin)

    def _joined(self, slots: Sequence[int]) -> tuple[int, int]:
        """The rows to run for a step of `slots`, after these were moved together if that pays."""
        rows = {self._row_of[slot] for slot in slots}
        low, high = min(rows), max(rows) + 1
        idle = [row for row in range(low, high) if row not in rows]
        if not idle:
            return low, high
        self._wasted += len(idle)
        moves = list(
            zip(
                [row for row in range(len(rows)) if row not in rows],
                sorted((row for row in rows if row >= len(rows)), reverse=True),
                strict=True,
            )
        )
        tokens = sum(len(self._held[a] or ()) + len(self._held[b] or ()) for a, b in moves)
        full = any(len(self._held[row] or ()) >= self.context for row in idle)
        if not full and self._wasted * _MOVED_FOR_A_ROW < tokens:
            return low, high
        self._wasted = 0
        for one, other in moves:
            self._swap(one, other)
        return 0, len(rows)

    def _swap(self, one: int, other: int) -> None:
        held = self._held
        self._rows.swap(one, other, len(held[one] or ()), len(held[other] or ()))
        held[one], held[other] = held[other], held[one]
        for row in (one, other):
            self._rows.forget(row, len(held[row] or ()))
        for slot, row in self._row_of.items():
            self._row_of[slot] = {one: other, other: one}.get(row, row)
        self._free = [row for row, tokens in enumerate(held) if tokens is None]


def _floats(logits: Array) -> Array:
    return logits.astype(np.float32, copy=False)
