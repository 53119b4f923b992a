"""Inputs that were read and not yet handed out, and what became of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.batches import Piece, error_of
from aiaas_client._bulk.plan import Outcome, Tensors


@dataclass(slots=True)
class PendingItem:
    """An input not yet handed out: what is still missing of it, or what became of it."""

    index: int
    rows: int
    size: int
    missing: int
    parts: list[tuple[int, Tensors]] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def is_finished(self) -> bool:
        return self.outcome is not None

    def outcomes(self) -> Iterator[Outcome]:
        """Give what is handed out; its `index` is the position in the input."""
        if self.outcome is not None:
            yield self.outcome


@dataclass(slots=True)
class PendingRows:
    """Items read at once: the rows from `index` on, each with an outcome of its own.

    Results are made when they are handed out, one by one: there may be millions.
    """

    index: int
    rows: int
    size: int
    missing: int
    shares: list[tuple[int, int, Outcome, Tensors]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return not self.missing

    @property
    def is_success(self) -> bool:
        return all(isinstance(outcome, InferResult) for _, _, outcome, _ in self.shares)

    def add(self, piece: Piece, outcome: Outcome, outputs: Tensors) -> None:
        self.missing -= piece.rows
        self.shares.append((piece.start, piece.rows, outcome, outputs))

    def outcomes(self) -> Iterator[Outcome]:
        """Give what is handed out; its `index` is the position in the input."""
        for start, rows, outcome, outputs in sorted(self.shares, key=lambda share: share[0]):
            first = self.index + start
            if isinstance(outcome, InferResult):
                yield from outcome.rows(outputs, rows, first)
            else:
                yield from (error_of(first + row, outcome) for row in range(rows))


PendingInput = PendingItem | PendingRows
