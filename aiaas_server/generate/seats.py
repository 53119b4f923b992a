"""Which row of the buffer each slot has, and what lies in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiaas_server.core.errors import LoadFailed, OutOfMemory
from aiaas_server.generate.rows import Rows

# Moving so many tokens to other rows costs about what one idle row costs a step.
_MOVED_FOR_A_ROW: Final = 64


class Seats:
    """Slots in rows, within a limit of memory.

    Args:
        limit: Most bytes of all rows together.

    Attributes:
        bytes: Of the rows that are taken.
        rows: Keys and values.
    """

    def __init__(self, rows: Rows, count: int, limit: int) -> None:
        self.rows = rows
        self.limit = limit
        self.bytes = 0
        self._row_bytes = rows.row_bytes
        self._context = len(rows.row_bytes) - 1
        self._of: dict[int, int] = {}  # by slot
        self._held: list[list[int] | None] = [None] * count  # tokens by row; None of a free one
        self._wasted = 0  # rows that ran idle since rows were last moved

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether answers of these lengths fit side by side."""
        if len(lengths) > len(self._held) or max(lengths, default=0) > self._context:
            return False
        return sum(self._row_bytes[length] for length in lengths) <= self.limit

    def take(self, slot: int) -> int:
        """Give a slot the first free row."""
        if slot in self._of or None not in self._held:
            raise ValueError(f"slot {slot}: expected a free one of {len(self._held)}")
        row = self._held.index(None)
        self._of[slot] = row
        self._held[row] = []
        return row

    def leave(self, slot: int) -> None:
        """Free a slot's row, and give its memory back."""
        self.cut(slot, 0)
        row = self._of.pop(slot)
        self._held[row] = None
        self.rows.forget(row)

    def clear(self) -> None:
        self._of.clear()
        self._held = [None] * len(self._held)
        self.bytes = 0

    def row(self, slot: int) -> int:
        return self._of[slot]

    def tokens(self, slot: int) -> list[int]:
        """What a slot holds; to be changed by `append` and `cut` alone."""
        held = self._held[self._of[slot]]
        assert held is not None, "a slot has a row that is taken"
        return held

    def lengths(self, low: int, high: int) -> list[int]:
        """Tokens in rows `low` up to `high`."""
        return [len(held or ()) for held in self._held[low:high]]

    def append(self, slot: int, tokens: Sequence[int]) -> None:
        held = self.tokens(slot)
        self.bytes -= self._row_bytes[len(held)]
        held.extend(tokens)
        self.bytes += self._row_bytes[len(held)]

    def cut(self, slot: int, length: int) -> None:
        held = self.tokens(slot)
        if not 0 <= length <= len(held):
            raise ValueError(f"slot {slot}: expected a length up to {len(held)}, got {length}")
        self.bytes += self._row_bytes[length] - self._row_bytes[len(held)]
        del held[length:]

    def free_for(self, length: int) -> bool:
        """Whether one more row of this length fits."""
        return self.bytes + self._row_bytes[length] <= self.limit

    def reserve(self, slots: Sequence[int], count: int) -> None:
        """See that slots can grow by `count` tokens each.

        Raises:
            OutOfMemory: They cannot; nothing has changed.
        """
        longest = more = 0
        for slot in slots:
            length = len(self.tokens(slot))
            longest = max(longest, length + count)
            if longest > self._context:
                raise ValueError(f"expected up to {self._context} tokens, got {longest}")
            more += self._row_bytes[length + count] - self._row_bytes[length]
        if more and self.bytes + more > self.limit:
            raise OutOfMemory(
                f"keys and values: expected up to {self.limit} bytes, got {self.bytes + more}"
            )
        self.lengthen(longest)

    def lengthen(self, length: int) -> None:
        """See that rows have room for `length` tokens; raises as `reserve`."""
        if length <= self.rows.capacity:
            return
        try:
            self.rows.grow(length, self.lengths(0, len(self._held)))
        except LoadFailed as error:
            raise OutOfMemory(error.message) from error

    def together(self, slots: Sequence[int]) -> tuple[int, int]:
        """The rows to run for a step of `slots`, once these were moved together if that pays.

        Others may lie between: each has room for one token more.
        """
        rows = {self._of[slot] for slot in slots}
        low, high = min(rows), max(rows) + 1
        idle = [row for row in range(low, high) if row not in rows]
        if not idle:
            return low, high
        self._wasted += len(idle)
        targets = [row for row in range(len(rows)) if row not in rows]
        sources = sorted((row for row in rows if row >= len(rows)), reverse=True)
        length = [len(held or ()) for held in self._held]
        moved = sum(length[row] for row in (*targets, *sources))
        is_full = any(length[row] >= self.rows.capacity for row in idle)
        if not is_full and self._wasted * _MOVED_FOR_A_ROW < moved:
            return low, high
        self._wasted = 0
        for target, source in zip(targets, sources, strict=True):
            self._swap(target, source)
        return 0, len(rows)

    def _swap(self, one: int, other: int) -> None:
        held = self._held
        self.rows.swap(one, other, len(held[one] or ()), len(held[other] or ()))
        held[one], held[other] = held[other], held[one]
        for row in (one, other):
            self.rows.forget(row, len(held[row] or ()))
        places = {one: other, other: one}
        self._of = {slot: places.get(row, row) for slot, row in self._of.items()}
