"""Rows that travel in one request: joined, halved, and given their shares of the answer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client._bulk.plan import Tensors
from aiaas_client._errors import AiaasError, APIStatusError, ProtocolError

if TYPE_CHECKING:
    from aiaas_client._api.inference import InferResult
    from aiaas_client.protocol.tensors import Array

_REFUSALS = frozenset({400, 413, 422})


@dataclass(slots=True)
class Piece:
    """Rows of one owner (an item, a block of rows, a waiting caller) inside a batch.

    Attributes:
        owner: Whose rows they are.
        inputs: Arrays whose first dimension counts the rows.
        rows: How many.
        start: Which row of the owner comes first here.
    """

    owner: Any
    inputs: Tensors
    rows: int
    start: int = 0


@dataclass(slots=True)
class Batch:
    """Pieces of equal shapes that travel in one request."""

    pieces: list[Piece]

    @property
    def rows(self) -> int:
        """Rows of all pieces together."""
        return sum(piece.rows for piece in self.pieces)

    def inputs(self) -> Tensors:
        """The pieces' arrays one after another; no copy for a single piece."""
        first = self.pieces[0].inputs
        if len(self.pieces) == 1:
            return first
        return {name: np.concatenate([p.inputs[name] for p in self.pieces]) for name in first}

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches of half the rows each, in order; a piece may be cut in two."""
        left: list[Piece] = []
        right: list[Piece] = []
        room = self.rows // 2
        for piece in self.pieces:
            if room >= piece.rows:
                left.append(piece)
            elif room <= 0:
                right.append(piece)
            else:
                left.append(cut(piece, 0, room))
                right.append(cut(piece, room, piece.rows))
            room -= piece.rows
        return Batch(left), Batch(right)


def cut(piece: Piece, start: int, stop: int) -> Piece:
    """Rows `start` to `stop` of a piece, as views."""
    inputs = {name: array[start:stop] for name, array in piece.inputs.items()}
    return Piece(piece.owner, inputs, stop - start, piece.start + start)


def shape_key(inputs: Mapping[str, Array]) -> tuple[object, ...]:
    """Equal for inputs that one request can hold: same names, dtypes and shapes but for rows."""
    return tuple([(name, array.dtype, array.shape[1:]) for name, array in inputs.items()])


def size_of(inputs: Mapping[str, Array]) -> int:
    """Bytes of the tensors on the wire."""
    size = 0
    for array in inputs.values():
        if array.dtype == object:
            size += sum(map(len, array.reshape(-1).tolist())) + 4 * array.size
        else:
            size += array.nbytes
    return size


def is_refusal(error: BaseException) -> bool:
    """Whether one bad row may be why the server refused a whole request."""
    return isinstance(error, APIStatusError) and error.status_code in _REFUSALS


def split(batch: Batch, result: InferResult) -> list[tuple[Piece, Tensors]]:
    """Give every piece its rows of the answer, as arrays of their own.

    Raises:
        ProtocolError: an output does not have one row for each row sent.
    """
    rows = batch.rows
    for name, array in result.items():
        if not array.ndim or array.shape[0] != rows:
            got = tuple(array.shape)
            text = f"output {name!r}: expected {rows} rows for {rows} sent, got shape {got}"
            raise ProtocolError(text, model=result.model_name, request_id=result.request_id)
    if len(batch.pieces) == 1:
        return [(batch.pieces[0], dict(result))]
    shares = []
    start = 0
    for piece in batch.pieces:
        stop = start + piece.rows
        shares.append((piece, {name: array[start:stop].copy() for name, array in result.items()}))
        start = stop
    return shares


def only_row(outputs: Mapping[str, Array]) -> Tensors:
    """Take the batch dimension off arrays of one row."""
    return {name: array.reshape(array.shape[1:]) for name, array in outputs.items()}


def error_of(index: int | None, error: AiaasError) -> AiaasError:
    """An item's own copy of an error that may concern many, with its `index`."""
    own = copy.copy(error)
    own.index = index
    return own
