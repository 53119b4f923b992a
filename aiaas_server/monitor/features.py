"""What is looked at of a request: columns of numbers or texts, one value an item.

Matrices of up to 256 columns are taken column by column; what is wider, or of any length (pictures,
token ids, recordings), as a few statistics an item. Embeddings stay vectors until a profile knows
what to compare them with. Nothing here is kept: see `profile`, which counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Card
from aiaas_server.core.signature import Signature, TensorSpec

Role = Literal["input", "prediction"]

MOST_COLUMNS: Final = 256
MOST_CLASSES: Final = 4096
LONGEST_TEXT: Final = 64
_NOTHING: Final = np.zeros((0, 1))
EMBEDDING_TASKS: Final = frozenset({"text-embedding", "embedding"})


class Block(NamedTuple):
    """Columns side by side.

    Attributes:
        names: One a column; of vectors one for all.
        kind: `number`: float64, NaN where missing; `text`: objects, None where missing; `vector`:
            each row is one value.
        values: `(items, columns)`.
    """

    names: tuple[str, ...]
    role: Role
    kind: Literal["number", "text", "vector"]
    values: Array


class TensorLayout(NamedTuple):
    """How one tensor is looked at.

    Attributes:
        names: Of its columns; empty where it is summarised.
        form: `table`, `text`, `summary`, `scores` (one a class) or `vector`.
        labels: Of the classes; their numbers where they have no names.
    """

    name: str
    role: Role
    form: Literal["table", "text", "summary", "scores", "vector"]
    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


class Layout:
    """How the tensors of a version are looked at; found once, when it is loaded.

    Args:
        card: Names columns and classes, where there is one.
        labels: Names of classes by output, where the configuration has them.
    """

    def __init__(
        self,
        signature: Signature,
        card: Card | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.batched = signature.max_batch_size > 0
        self._inputs = {spec.name: _input(spec, self.batched, card) for spec in signature.inputs}
        named = dict(labels or {})
        self._outputs = {
            spec.name: _output(spec, self.batched, card, tuple(named.get(spec.name, ())))
            for spec in signature.outputs
        }
        self.answer = _answer(list(self._outputs.values()))

    def inputs(self, requests: Sequence[Mapping[str, Array]]) -> list[Block]:
        """The inputs of some requests; items of one shape are joined."""
        return self._blocks(requests, self._inputs)

    def outputs(self, requests: Sequence[Mapping[str, Array]]) -> list[Block]:
        """The outputs of some requests, as predictions."""
        return self._blocks(requests, self._outputs)

    def predicted(self, answers: Sequence[Mapping[str, Array]]) -> list[list[str | float]]:
        """The label or number of each item of each answer; none of what is neither."""
        name = self.answer
        if name is None:
            return [[] for _ in answers]
        layout = self._outputs[name]
        arrays = [self._rows(one[name]) if name in one else _NOTHING for one in answers]
        told = [array.reshape(len(array), -1) for array in arrays if array.size]
        if len({array.shape[1] for array in told}) != 1:
            return [[] for _ in answers]
        values = iter(_values_of(layout, told[0] if len(told) == 1 else np.concatenate(told)))
        return [list(islice(values, len(array))) for array in arrays]

    def _rows(self, array: Array) -> Array:
        return array if self.batched and array.ndim else array[None]

    def _blocks(
        self, requests: Sequence[Mapping[str, Array]], layouts: Mapping[str, TensorLayout]
    ) -> list[Block]:
        blocks: list[Block] = []
        for name, layout in layouts.items():
            arrays = [self._rows(tensors[name]) for tensors in requests if name in tensors]
            for joined in _joined(arrays):
                blocks += _LOOK[layout.form](layout, joined)
        return blocks


def _values_of(layout: TensorLayout, array: Array) -> Iterable[str | float]:
    """One value an item of `(items, columns)`; nothing where several numbers are predicted."""
    if layout.form == "text":
        return [_text(value) or "" for value in array[:, 0]]
    if layout.form == "table":
        numbers: list[str | float] = array[:, 0].tolist()
        return numbers if array.shape[1] == 1 else ()
    names: list[str | float] = _classes(layout, array).tolist()
    return names


def _input(spec: TensorSpec, batched: bool, card: Card | None) -> TensorLayout:
    if spec.datatype == "BYTES":
        return TensorLayout(spec.name, "input", "text", (spec.name,))
    width = _width(spec, batched)
    if width is None or width > MOST_COLUMNS:
        return TensorLayout(spec.name, "input", "summary")
    return TensorLayout(spec.name, "input", "table", _column_names(spec.name, width, card))


def _output(
    spec: TensorSpec, batched: bool, card: Card | None, labels: tuple[str, ...]
) -> TensorLayout:
    if spec.datatype == "BYTES":
        return TensorLayout(spec.name, "prediction", "text", (spec.name,))
    width = _width(spec, batched)
    is_float = spec.datatype in ("FP16", "BF16", "FP32", "FP64")
    if card is not None and card.task in EMBEDDING_TASKS and is_float:
        return TensorLayout(spec.name, "prediction", "vector", (spec.name,))
    numbers = card is not None and card.task.endswith("regression")
    if width is not None and (width == 1 or (numbers and width <= MOST_COLUMNS)):
        return TensorLayout(spec.name, "prediction", "table", _column_names(spec.name, width, None))
    if width is None or width > MOST_CLASSES or not is_float:
        return TensorLayout(spec.name, "prediction", "summary")
    if not labels and card is not None and isinstance(card.labels, tuple):
        labels = card.labels
    names = labels if len(labels) == width else tuple(map(str, range(width)))
    return TensorLayout(spec.name, "prediction", "scores", labels=names)


def _width(spec: TensorSpec, batched: bool) -> int | None:
    """Columns of a tensor, where each item has the same few; None where it is anything else."""
    dims = spec.shape[1:] if batched else spec.shape
    if any(size < 0 for size in dims) or len(dims) > 1:
        return None
    return dims[0] if dims else 1


def _column_names(name: str, width: int, card: Card | None) -> tuple[str, ...]:
    listed = None if card is None else card.preprocessing.get("columns")
    if isinstance(listed, list) and len(listed) == width > 1:
        names = [one.get("name") if isinstance(one, dict) else one for one in listed]
        if all(isinstance(one, str) for one in names):
            return tuple(map(str, names))
    return (name,) if width == 1 else tuple(f"{name}[{index}]" for index in range(width))


def _answer(outputs: Sequence[TensorLayout]) -> str | None:
    """The output that says what is predicted: a label, else the best class, else a number."""
    for form in ("text", "scores", "table"):
        found = [one.name for one in outputs if one.form == form]
        if form == "scores" and found:
            whole = [one.name for one in outputs if one.form == "table" and "label" in one.name]
            found = whole or found
        if found:
            return found[0]
    return None


def _joined(arrays: Sequence[Array]) -> list[Array]:
    """Arrays whose items have one shape as one, items first."""
    by_shape: dict[tuple[int, ...], list[Array]] = {}
    for array in arrays:
        if array.size:
            by_shape.setdefault(array.shape[1:], []).append(array)
    return [same[0] if len(same) == 1 else np.concatenate(same) for same in by_shape.values()]


def _table(layout: TensorLayout, array: Array) -> list[Block]:
    values = _numbers(array.reshape(len(array), -1))
    if values.shape[1] != len(layout.names):
        return _summary(layout, array)
    return [Block(layout.names, layout.role, "number", values)]


def _texts(layout: TensorLayout, array: Array) -> list[Block]:
    """Texts, and how long they are; several in one item are told by their length only."""
    flat = array.reshape(len(array), -1)
    found = np.array([[_text(value) for value in row] for row in flat], object)
    lengths = np.array([sum(len(text or "") for text in row) for row in found], np.float64)
    blocks = [Block((f"{layout.name}.length",), layout.role, "number", lengths[:, None])]
    if flat.shape[1] == 1:
        short = np.array([[t and t[:LONGEST_TEXT]] for t in found[:, 0]], object)
        blocks.append(Block(layout.names, layout.role, "text", short.reshape(-1, 1)))
    return blocks


def _summary(layout: TensorLayout, array: Array) -> list[Block]:
    """Mean, spread and share of zeros of each item, and its length where it may vary."""
    flat = _numbers(array.reshape(len(array), -1))  # (items, values)
    size = np.full(len(flat), float(flat.shape[1]))
    zeros = np.count_nonzero(flat == 0.0, axis=1) / max(flat.shape[1], 1)
    values = np.stack([flat.mean(axis=1), flat.std(axis=1), zeros, size], axis=1)
    names = tuple(f"{layout.name}.{what}" for what in ("mean", "std", "zeros", "length"))
    return [Block(names, layout.role, "number", values)]


def _scores(layout: TensorLayout, array: Array) -> list[Block]:
    """The class with the best score, and that score."""
    flat = _numbers(array.reshape(len(array), -1))
    return [
        Block((f"{layout.name}.best",), layout.role, "text", _classes(layout, flat)[:, None]),
        Block((f"{layout.name}.top",), layout.role, "number", flat.max(axis=1)[:, None]),
    ]


def _vectors(layout: TensorLayout, array: Array) -> list[Block]:
    flat = _numbers(array.reshape(len(array), -1))
    return [Block(layout.names, layout.role, "vector", flat)]


_LOOK: Final = {
    "table": _table,
    "text": _texts,
    "summary": _summary,
    "scores": _scores,
    "vector": _vectors,
}


def _numbers(array: Array) -> Array:
    return array.astype(np.float64, copy=False)


def _classes(layout: TensorLayout, scores: Array) -> Array:
    """The name of the best class of each item."""
    found: Array = np.array(layout.labels, object)[scores.argmax(axis=1)]
    return found


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)
