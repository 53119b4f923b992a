"""Where answers go: each output one array, filled in place as blocks of rows come back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aiaas_client._bulk.core import HOPELESS
from aiaas_client._bulk.failures import block_error
from aiaas_client._errors import (
    DeadlineExceededError,
    DtypeError,
    InputError,
    PayloadTooLargeError,
    ProtocolError,
    ShapeError,
)
from aiaas_client.protocol.tensors import DATATYPES

if TYPE_CHECKING:
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.blocks import Block
    from aiaas_client._bulk.plan import BulkPlan
    from aiaas_client._errors import AiaasError
    from aiaas_client.protocol.messages import TensorMetadata
    from aiaas_client.protocol.tensors import Array

Shape = tuple[int, ...]


class Stack:
    """Takes the answers of blocks in any order and gives one array for each output.

    Args:
        plan: For the model's signature, and whether its outputs have a batch dimension.
        total: Rows there will be; None when that is not known.
        out: Arrays to write into, by output name; the other outputs get arrays of their own.
        wanted: Names of the outputs asked for; empty for all.
    Raises:
        InputError, ShapeError, DtypeError: `out` does not fit what the signature tells.
    """

    def __init__(
        self,
        plan: BulkPlan,
        total: int | None,
        out: object = None,
        wanted: Sequence[str] = (),
    ) -> None:
        self._plan = plan
        self._total = total
        self._wanted = wanted
        self._places: dict[str, _Place] = {}
        self._given = self._named(out)
        specs = self._specs()
        known = {*specs} if plan.metadata is not None else {*wanted}
        for name, array in self._given.items():
            _check_name(name, known, plan.model)
            _check_given(name, array, total, plan.model)
            if name in specs:
                self._check_signature(specs[name], array)

    def put(self, block: Block, result: InferResult) -> None:
        """Write the answer of one block to its rows.

        Raises:
            ProtocolError: an output does not have a row for each row sent.
            ShapeError, DtypeError: rows differ from those before, or from `out`.
            InputError: more rows than `out` has.
        """
        if not self._places:
            self._open(result)
        if result.keys() != self._places.keys():
            text = f"expected outputs {sorted(self._places)}, got {sorted(result)}"
            raise ProtocolError(text, model=self._plan.model, request_id=result.request_id)
        for name, array in result.items():
            rows = array if self._plan.batched else array[np.newaxis]
            if not rows.ndim or rows.shape[0] != block.rows:
                got = tuple(rows.shape)
                text = f"output {name!r}: expected {block.rows} rows for {block.rows} sent, got "
                text += f"shape {got}"
                raise ProtocolError(text, model=self._plan.model, request_id=result.request_id)
            self._places[name].put(block.start, rows)

    def failed(self, block: Block, error: AiaasError) -> tuple[Block, ...]:
        """Halves of a block that was too large for the server; any other failure ends the call.

        Raises:
            BlockError: naming the rows.
            AiaasError: the failure itself, where it has nothing to do with the rows.
        """
        if isinstance(error, PayloadTooLargeError) and block.rows > 1:
            return block.halves()
        if isinstance(error, (*HOPELESS, DeadlineExceededError)):
            raise error
        raise block_error(self._plan.model, block.start, block.stop, error) from error

    def arrays(self, rows: int) -> dict[str, Array]:
        """The outputs, once `rows` rows were put; of none, what the signature tells of them."""
        if not rows:
            return self._empty()
        return {name: place.whole(rows) for name, place in self._places.items()}

    def _named(self, out: object) -> dict[str, Array]:
        if out is None:
            return {}
        if isinstance(out, Mapping):
            return {str(name): array for name, array in out.items()}
        names = list(self._wanted) or list(self._specs())
        if len(names) != 1:
            names_told = ", ".join(map(repr, names)) or "outputs that nobody names"
            text = f"out: expected a mapping, the model gives {names_told}"
            raise InputError(text, model=self._plan.model)
        return {names[0]: out}  # type: ignore[dict-item]  # checked like the values of a mapping

    def _specs(self) -> dict[str, TensorMetadata]:
        metadata = self._plan.metadata
        specs = {spec.name: spec for spec in (metadata.outputs if metadata is not None else ())}
        return {name: specs[name] for name in self._wanted or specs if name in specs}

    def _check_signature(self, spec: TensorMetadata, array: Array) -> None:
        if spec.datatype in DATATYPES:
            _check_dtype("out", spec.name, DATATYPES[spec.datatype].dtype, array, self._plan.model)
        tail = spec.shape[1:] if self._plan.batched else spec.shape
        got = array.shape[1:]
        if len(got) != len(tail) or any(w not in (-1, g) for w, g in zip(tail, got, strict=True)):
            want = ", ".join([_rows_text(self._total), *("any" if n < 0 else str(n) for n in tail)])
            raise _shape_error("out", spec.name, f"({want})", array.shape, self._plan.model)

    def _open(self, first: InferResult) -> None:
        for name in self._given:
            _check_name(name, first.keys(), self._plan.model)
        for name, array in first.items():
            tail = array.shape[1:] if self._plan.batched else array.shape
            model = self._plan.model
            if name in self._given:
                self._places[name] = _Fixed(name, self._given[name], model)
            elif self._total is not None:
                whole = np.empty((self._total, *tail), array.dtype)
                self._places[name] = _Fixed(name, whole, model)
            else:
                self._places[name] = _Collected(name, array.dtype, tail, model)

    def _empty(self) -> dict[str, Array]:
        made: dict[str, Array] = {}
        for name, spec in self._specs().items():
            if name in self._given:
                made[name] = self._given[name][:0]
            elif spec.datatype in DATATYPES:
                tail = spec.shape[1:] if self._plan.batched else spec.shape
                shape = (0, *(max(size, 0) for size in tail))
                made[name] = np.empty(shape, DATATYPES[spec.datatype].dtype)
        return made


class _Place(ABC):
    """Where the rows of one output go."""

    def __init__(self, name: str, dtype: np.dtype[Any], tail: Shape, model: str) -> None:
        self._name = name
        self._dtype = dtype
        self._tail = tail
        self._model = model

    def put(self, start: int, rows: Array) -> None:
        """Take `rows`, the first of which is row `start` of the whole."""
        if rows.dtype != self._dtype:
            _check_dtype("output", self._name, self._dtype, rows, self._model)
        if rows.shape[1:] != self._tail:
            want = f"rows of shape {self._tail}"
            raise _shape_error("output", self._name, want, rows.shape[1:], self._model)
        self._write(start, rows)

    @abstractmethod
    def whole(self, rows: int) -> Array:
        """All rows as one array."""

    @abstractmethod
    def _write(self, start: int, rows: Array) -> None:
        """Put checked rows in their place."""


class _Fixed(_Place):
    """An array that was there before the rows were."""

    def __init__(self, name: str, array: Array, model: str) -> None:
        super().__init__(name, array.dtype, array.shape[1:], model)
        self._array = array

    def whole(self, rows: int) -> Array:
        return self._array if rows == len(self._array) else self._array[:rows]

    def _write(self, start: int, rows: Array) -> None:
        stop = start + len(rows)
        if stop > len(self._array):
            want = f"at least {stop} rows"
            raise _shape_error("out", self._name, want, self._array.shape, self._model)
        self._array[start:stop] = rows


class _Collected(_Place):
    """Answers kept as they came, of which nobody knew how many there would be."""

    def __init__(self, name: str, dtype: np.dtype[Any], tail: Shape, model: str) -> None:
        super().__init__(name, dtype, tail, model)
        self._parts: dict[int, Array] = {}

    def whole(self, rows: int) -> Array:
        parts = [self._parts.pop(start) for start in sorted(self._parts)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _write(self, start: int, rows: Array) -> None:
        self._parts[start] = rows


def _check_name(name: str, known: Collection[str], model: str) -> None:
    if known and name not in known:
        told = ", ".join(map(repr, sorted(known)))
        text = f"out: unknown output {name!r}; expected {told}"
        raise InputError(text, tensor=name, expected=told, got=repr(name), model=model)


def _check_given(name: str, array: object, total: int | None, model: str) -> None:
    if not isinstance(array, np.ndarray):
        got = type(array).__name__
        raise InputError(f"out {name!r}: expected a numpy array, got {got}", model=model)
    if not array.flags.writeable:
        raise InputError(f"out {name!r}: expected an array that can be written to", model=model)
    if not array.ndim or (total is not None and len(array) != total):
        raise _shape_error("out", name, _rows_text(total) + " rows", array.shape, model)


def _rows_text(total: int | None) -> str:
    return "any number of" if total is None else str(total)


def _check_dtype(what: str, name: str, want: np.dtype[Any], array: Array, model: str) -> None:
    if array.dtype != want:
        text = f"{what} {name!r}: expected dtype {want}, got {array.dtype}"
        raise DtypeError(text, tensor=name, expected=str(want), got=str(array.dtype), model=model)


def _shape_error(what: str, name: str, want: str, got: Shape, model: str) -> ShapeError:
    shown = str(tuple(int(size) for size in got))
    text = f"{what} {name!r}: expected {want}, got {'shape ' if what == 'out' else ''}{shown}"
    return ShapeError(text, tensor=name, expected=want, got=shown, model=model)
