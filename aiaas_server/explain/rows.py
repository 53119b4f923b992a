"""Instances of columns as cells of tensors: of a task of records, or of one numeric input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.tensors import dtype_of
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import read_params
from aiaas_server.core.signature import TensorSpec
from aiaas_server.core.task import ColumnTask, Task
from aiaas_server.explain.background import TELL, Binned, Golden, drawn
from aiaas_server.explain.games import Reading, Row

Array = npt.NDArray[Any]

MOST_FEATURES: Final = 2000
_FLOATS: Final = ("FP16", "BF16", "FP32", "FP64")
_NUMBERS: Final = (
    *_FLOATS,
    *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
)


class Records:
    """Rows of a task of columns, as `POST …:predict` takes them."""

    def __init__(self, model: LoadedModel, task: Task) -> None:
        """`task` is a `ColumnTask` as well."""
        assert isinstance(task, ColumnTask), "whoever calls has seen to it"
        self._batched = model.signature.max_batch_size > 0
        self._task = task
        self._columns: ColumnTask = task
        self._params = read_params(task, {})
        listed: Sequence[Mapping[str, Any]] = getattr(task, "columns", ())
        self._arrays = {one["name"] for one in listed if one.get("kind") == "array"}
        classes = [one.__name__ for one in task.predictions]
        self.reading = Reading(
            task.outputs, task.answers, task.numbers, "Regression" not in classes
        )

    def row(self, payload: Any) -> Row:
        """The cells of one record.

        Raises:
            InvalidInput: As the task says it of a prediction.
        """
        tensors = self._task.preprocess(payload, self._params).tensors
        cells = {name: array.reshape(-1) for name, array in tensors.items()}
        owners = {name: np.zeros(len(flat), np.intp) for name, flat in cells.items()}
        index = 0
        for column, (name, place) in self._columns.cells.items():
            width = place.stop - place.start
            each = column in self._arrays
            owners[name][place] = index + np.arange(width) if each else index
            index += width if each else 1
        shapes = {n: a.shape[1:] if self._batched else a.shape for n, a in tensors.items()}
        return Row(self._features(payload), cells, owners, shapes)

    def _features(self, payload: Any) -> dict[str, Any]:
        """What stands in each column; in one of arrays, each of its numbers."""
        names = list(self._columns.cells)
        if isinstance(payload, dict):
            record = payload
        elif len(names) == 1 and len(payload) != 1:
            record = {names[0]: payload}  # the array itself
        else:
            record = dict(zip(names, payload, strict=True))
        found: dict[str, Any] = {}
        for name in names:
            if name in self._arrays:
                flat = np.ravel(np.array(record[name])).tolist()
                found |= {f"{name}[{at}]": value for at, value in enumerate(flat)}
            else:
                found[name] = record[name]
        return found

    def drawn_like(
        self, row: Row, features: Sequence[Binned], rows: int, seed: int
    ) -> dict[str, Array]:
        """Rows of a reference profile, by input."""
        wide = [
            name
            for name, (_, at) in self._columns.cells.items()
            if at.stop - at.start != 1 and name not in self._arrays
        ]
        if wide:
            raise InvalidInput(
                f"column '{wide[0]}' is several numbers, which the version's reference does not "
                f"keep together: {TELL}"
            )
        names = list(self._columns.cells)
        return {
            name: _joined(_known_as(name, len(flat), names), row, name, features, rows, seed)
            for name, flat in row.cells.items()
        }


class Plain:
    """Rows of numbers of a model without a card, which has one numeric input."""

    def __init__(self, model: LoadedModel) -> None:
        """Raises InvalidInput: Its inputs or outputs are something else."""
        signature = model.signature
        self._batched = signature.max_batch_size > 0
        self._spec = _numeric_input(model)
        output = _output(signature.outputs, model.name)
        labels = list(model.labels.get(output.name, ()))
        width = output.shape[-1] if len(output.shape) > self._batched else 1
        names = labels or list(map(str, range(max(width, 1))))
        self.is_labelled = bool(labels)
        self.reading = Reading((output.name,), names, _flat(output.name), len(names) > 1)

    def row(self, payload: Any) -> Row:
        """The cells of one list of numbers.

        Raises:
            InvalidInput: It is none, or of another length.
        """
        spec = self._spec
        values = [payload] if isinstance(payload, int | float) else payload
        plain = isinstance(values, list) and all(
            isinstance(one, int | float) and not isinstance(one, bool) for one in values
        )
        dims = spec.shape[1:] if self._batched else spec.shape
        width = dims[-1] if dims else 1
        if not plain or (len(values) != width and (width >= 0 or not values)):
            wanted = "one or more" if width < 0 else str(width)
            got = f"{len(values)}" if plain else type(payload).__name__
            raise InvalidInput(f"expected a list of {wanted} numbers, got {got}")
        cells = np.array(values, np.float64)
        typed = cells.astype(dtype_of(spec.datatype))
        if not np.isfinite(cells).all() or (
            spec.datatype not in _FLOATS and (typed != cells).any()
        ):
            raise InvalidInput(f"expected numbers that fit {spec.datatype}, got another")
        shape = (*(1 for _ in dims[:-1]), len(values)) if dims else ()
        names = self._names(len(values))
        owners = {spec.name: np.arange(len(values))}
        features = dict(zip(names, values, strict=True))
        return Row(features, {spec.name: typed}, owners, {spec.name: shape})

    def drawn_like(
        self, row: Row, features: Sequence[Binned], rows: int, seed: int
    ) -> dict[str, Array]:
        """Rows of a reference profile, by input."""
        name = self._spec.name
        known = _known_as(name, len(row.features), ())
        return {name: _joined(known, row, name, features, rows, seed)}

    def _names(self, width: int) -> list[str]:
        return [f"{self._spec.name}[{index}]" for index in range(width)]


AnyRows = Records | Plain


def of_golden(row: Row, golden: Golden) -> dict[str, Array] | None:
    """The tensors of a golden set as rows of cells; None where they are others."""
    found = {}
    for name, cells in row.cells.items():
        array = golden.inputs.get(name)
        if array is None or not len(cells) or array.size % len(cells):
            return None
        found[name] = array.reshape(-1, len(cells)).astype(cells.dtype)
    return found if len({len(rows) for rows in found.values()}) == 1 else None


def stacked(rows: Sequence[Row]) -> dict[str, Array]:
    """Rows of a background, by input."""
    return {name: np.stack([row.cells[name] for row in rows]) for name in rows[0].cells}


def check_features(count: int) -> None:
    """Return where they are not too many.

    Raises:
        InvalidInput: They are.
    """
    if count > MOST_FEATURES:
        raise InvalidInput(f"expected at most {MOST_FEATURES:,} features to explain, got {count:,}")


def _known_as(name: str, width: int, columns: Sequence[str]) -> list[str]:
    """Names of an input's cells in a reference profile."""
    if width == 1:
        return [name]
    return list(columns) if len(columns) == width else [f"{name}[{at}]" for at in range(width)]


def _joined(
    names: Sequence[str], row: Row, name: str, features: Sequence[Binned], rows: int, seed: int
) -> Array:
    dtype = row.cells[name].dtype
    columns = drawn(features, names, rows, seed)
    found = np.empty((rows, len(columns)), dtype)
    for at, values in enumerate(columns):
        if dtype.kind == "O":
            found[:, at] = [v.encode() if isinstance(v, str) else v for v in values]
        else:
            numbers = values.astype(np.float64)
            found[:, at] = numbers if dtype.kind == "f" else np.rint(numbers)
    return found


def _numeric_input(model: LoadedModel) -> TensorSpec:
    inputs = model.signature.inputs
    dims = [spec.shape[model.signature.max_batch_size > 0 :] for spec in inputs]
    fits = len(inputs) == 1 and inputs[0].datatype in _NUMBERS
    if not fits or len(dims[0]) > 2 or any(size not in (-1, 1) for size in dims[0][:-1]):
        listed = ", ".join(f"'{s.name}' {s.datatype} {list(s.shape)}" for s in inputs) or "none"
        raise InvalidInput(
            f"model '{model.name}' has no card (model.json), and only models of one input of "
            f"numbers in rows can be explained without; its inputs: {listed}"
        )
    return inputs[0]


def _output(outputs: Sequence[TensorSpec], model: str) -> TensorSpec:
    floats = [spec for spec in outputs if spec.datatype in _FLOATS and len(spec.shape) <= 2]
    named = [spec for spec in floats if spec.name == "probabilities"]
    if not floats:
        listed = ", ".join(f"'{s.name}' {s.datatype} {list(s.shape)}" for s in outputs)
        raise InvalidInput(f"model '{model}' has no output of numbers to explain: it has {listed}")
    return (named or floats)[0]


def _flat(name: str) -> Any:
    def numbers(tensors: Mapping[str, Array]) -> Array:
        found = tensors[name]
        return found.reshape(len(found), -1)

    return numbers
