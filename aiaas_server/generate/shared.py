"""Runs a decoder whose attention extends a buffer in place: nothing is copied between steps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, ServerError
from aiaas_server.core.session import KeepsArrays, KeptRuns, StopToken
from aiaas_server.generate.prefix import BLOCK, PrefixCache
from aiaas_server.generate.rows import Rows
from aiaas_server.generate.seats import Seats
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
        self._rows = Rows(tensors.caches, slots, context)
        self._seats = Seats(self._rows, slots, cache_bytes)
        self._prefix = PrefixCache(prefix_bytes)
        self._prompts: dict[int, int] = {}  # by slot, its length
        self._whose: dict[int, str] = {}
        self._bound: OrderedDict[tuple[int, int], KeptRuns] = OrderedDict()
        self._bound_capacity = 0  # of the rows that are bound
        self._logits = np.empty((slots, 1, tensors.vocabulary), tensors.logits)
        self._columns = np.arange(context)
        self._may_keep_none = tensors.keep_rank is not None and self._keeps_none()

    def _keeps_none(self) -> bool:
        """Whether the graph can leave out all logits: then most pieces of prompts cost less.

        The matrix that makes them is the largest one of small models. Other graphs give all of
        them when none is asked for, or fail.
        """
        try:
            logits = self._run(0, 1, np.zeros((1, 1), self._tensors.ids), 0, None)
        except ServerError:
            return False
        finally:
            self._rows.forget(0)
        return bool(logits.shape[1] == 0)

    # Slots

    def room(self, lengths: Sequence[int]) -> bool:
        """Whether these lengths fit side by side."""
        return self._seats.fits(lengths)

    def open(
        self,
        slot: int,
        tokens: Sequence[int],
        constants: Mapping[str, Array],
        whose: str = "",
    ) -> int:
        """Take a free slot; gives how many first tokens are there already."""
        check_constants((), constants)
        blocks = self._prefix.find(tokens, whose)
        while not self._seats.free_for(len(blocks) * BLOCK):
            blocks.pop()
        count = len(blocks) * BLOCK
        self._seats.lengthen(count)
        row = self._seats.take(slot)
        self._prompts[slot], self._whose[slot] = len(tokens), whose
        for number, block in enumerate(blocks):
            self._rows.write(row, number * BLOCK, block)
        self._seats.append(slot, tokens[:count])
        return count

    def length(self, slot: int) -> int:
        """Tokens that a slot holds."""
        return len(self._seats.tokens(slot))

    def truncate(self, slot: int, length: int) -> None:
        """Forget the last tokens of a slot."""
        self._seats.cut(slot, length)

    def close(self, slot: int, *, remember: int) -> None:
        """Free a slot, and keep its first tokens for prompts that begin alike."""
        self._remember(slot, 0, remember)
        self._seats.leave(slot)
        del self._prompts[slot], self._whose[slot]

    def measures(self) -> Mapping[str, float]:
        """Memory, and what the cache of prompts saved."""
        return {
            "kv_bytes": self._seats.bytes,
            "kv_bytes_limit": self._seats.limit,
            "prefix_bytes": self._prefix.bytes,
            "prefix_hit_tokens": self._prefix.hits,
            "prefix_lookup_tokens": self._prefix.looked_up,
        }

    def release(self) -> None:
        """Let go of all memory; the network is of no use afterwards."""
        self._bound.clear()
        self._prefix.clear()
        self._seats.clear()
        self._rows.release()

    # Runs

    def extend(
        self, slot: int, tokens: Sequence[int], keep: int, stop: StopToken | None = None
    ) -> Array:
        """Run further tokens of one slot."""
        self._seats.reserve([slot], len(tokens))
        row = self._seats.row(slot)
        begin = len(self._seats.tokens(slot))
        ids = np.array([tokens], self._tensors.ids)  # (1, S)
        least = 0 if self._may_keep_none else 1
        logits = self._run(row, row + 1, ids, max(keep, least), stop)
        if logits.shape[1] < keep:
            raise InferenceFailed(f"logits: expected {keep} tokens, got {logits.shape[1]}")
        self._seats.append(slot, tokens)
        end = begin + len(tokens)
        if end <= self._prompts[slot] and begin // BLOCK != end // BLOCK:
            self._remember(slot, begin, end)
        return logits[0, logits.shape[1] - keep :]

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], stop: StopToken | None = None
    ) -> Array:
        """Run one token of each of several slots."""
        self._seats.reserve(slots, 1)
        low, high = self._seats.together(slots)
        places = [self._seats.row(slot) - low for slot in slots]
        ids = np.zeros((high - low, 1), self._tensors.ids)
        ids[places, 0] = tokens
        logits = self._run(low, high, ids, 1, stop)[:, -1]  # (high - low, V)
        for slot, token in zip(slots, tokens, strict=True):
            self._seats.append(slot, (token,))
        if places == list(range(high - low)):
            return logits
        return logits[places]

    def _run(self, low: int, high: int, ids: Array, keep: int, stop: StopToken | None) -> Array:
        """Run `ids`, `(rows, S)`, behind what the rows hold: `(rows, >= keep, V)` float32."""
        tensors = self._tensors
        batch, count = ids.shape
        inputs = self._inputs(self._seats.lengths(low, high), ids)
        runs = self._runs(low, high)
        if tensors.keep_rank is not None:
            inputs[KEEP] = np.full((1,) * tensors.keep_rank, keep, np.int64)
        if not keep or (tensors.keep_rank is None and count != 1):
            return _floats(runs.run(inputs, (LOGITS,), stop)[0])
        logits = self._logits[:batch]
        if keep != 1:
            logits = np.empty((batch, keep, self.vocabulary), tensors.logits)
        runs.run(inputs, (), stop, into={LOGITS: logits})
        return _floats(logits)

    def _inputs(self, begins: Sequence[int], ids: Array) -> dict[str, Array]:
        tensors = self._tensors
        count = ids.shape[1]
        lengths = np.array(begins)[:, None]  # (rows, 1)
        inputs: dict[str, Array] = {IDS: ids}
        if tensors.mask is not None:
            seen = self._columns[: max(begins) + count] < lengths + count
            inputs[MASK] = seen.astype(tensors.mask)
        if tensors.positions is not None:
            inputs[POSITIONS] = (lengths + np.arange(count)).astype(tensors.positions)
        return inputs

    def _runs(self, low: int, high: int) -> KeptRuns:
        """The session, bound to rows."""
        if self._bound_capacity != self._rows.capacity:
            self._bound_capacity = self._rows.capacity
            self._bound.clear()
        runs = self._bound.get((low, high))
        if runs is None:
            arrays = zip(self._tensors.caches, self._rows.view(low, high), strict=True)
            runs = self._session.keep({(c.past, c.present): array for c, array in arrays})
            self._bound[low, high] = runs
            if len(self._bound) > _MOST_BOUND:
                self._bound.popitem(last=False)
        self._bound.move_to_end((low, high))
        return runs

    def _remember(self, slot: int, begin: int, end: int) -> None:
        row = self._seats.row(slot)

        def read(first: int, last: int) -> list[Array]:
            return self._rows.read(row, first, last)

        self._prefix.keep(self._seats.tokens(slot)[:end], read, begin, self._whose[slot])


def _floats(logits: Array) -> Array:
    return logits.astype(np.float32, copy=False)
