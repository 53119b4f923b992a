"""Tabular classification and regression: records and rows of values into the inputs of a model.

Payload: a record (columns by name, in any order) or a list of values in the card's order.
Models with one input of several columns get the columns side by side, as numbers; models with an
input a column (scikit-learn pipelines over frames) get each column by itself, texts included.

Example card:

    {"task": "tabular-classification", "labels": ["setosa", "versicolor", "virginica"],
     "preprocessing": {"columns": [{"name": "petal length (cm)"}, {"name": "petal width (cm)"}]},
     "postprocessing": {"output": "probabilities"}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from aiaas_client.protocol.predictions import Classification, Prediction, Regression
from aiaas_client.protocol.tensors import Array, dtype_of
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import InferenceFailed, InvalidInput, LoadFailed
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.core.task import Params, PayloadKind, Prepared
from aiaas_server.tasks.scores import Activation, activated, classification
from aiaas_server.tasks.task import TaskSettings, check_label_count, output_spec, read_labels
from aiaas_server.tasks.text import HALF_CHARACTER, kind_of

MAX_NAMED = 8  # columns named in one message
WHOLE = ("INT", "UINT", "BOOL")  # datatypes without fractions
FLOATS = ("FP16", "BF16", "FP32", "FP64")

Number = int | float
Cell = bool | int | float | str


class Column(TaskSettings):
    """One column.

    Attributes:
        kind: `number` (also numbers as booleans are not taken), `boolean`, `category`, `text`, or
            `array`: numbers of one `shape`, nested or flat, such as the pixels of a picture.
        shape: Of an array.
        categories: Known values of a category, in the order of their numbers.
        encode: How a category becomes numbers: its place (`ordinal`), a 0/1 for each (`one-hot`),
            or not at all (`none`: the model takes texts).
        missing: What None and NaN become: refused, NaN, or `fill`.
        unseen: A value that is not among `categories`: refused, NaN, or ignored (`one-hot`: all
            zeros, `ordinal`: -1, `none`: passed on).
        input: Tensor it feeds; by default the input of its own name, else the model's only one.
    """

    name: str
    kind: Literal["number", "boolean", "category", "text", "array"] = "number"
    shape: tuple[Annotated[int, Field(ge=1)], ...] = ()
    categories: tuple[str, ...] = ()
    encode: Literal["ordinal", "one-hot", "none"] = "ordinal"
    missing: Literal["refuse", "nan", "fill"] = "refuse"
    fill: Cell | None = None
    unseen: Literal["refuse", "nan", "ignore"] = "refuse"
    input: str = ""

    @model_validator(mode="after")
    def _agrees(self) -> Column:
        if self.missing == "fill" and self.fill is None:
            raise ValueError(f"column '{self.name}': missing is 'fill', but 'fill' is not given")
        needs = self.kind == "category" and self.encode != "none"
        if needs and not self.categories:
            raise ValueError(f"column '{self.name}': 'categories' is empty")
        if (self.kind == "array") != bool(self.shape):
            raise ValueError(f"column '{self.name}': an array has a 'shape', others have none")
        return self

    @property
    def is_text(self) -> bool:
        """Whether it reaches the model as text."""
        return self.kind == "text" or (self.kind == "category" and self.encode == "none")

    @property
    def width(self) -> int:
        """Numbers it becomes."""
        if self.kind == "array":
            return math.prod(self.shape)
        one_hot = self.kind == "category" and self.encode == "one-hot"
        return len(self.categories) if one_hot else 1


class Preprocessing(TaskSettings):
    """`columns` in the model's order; `extra`: what happens to columns that are not among them."""

    columns: tuple[Column, ...] = Field(min_length=1)
    extra: Literal["refuse", "ignore"] = "refuse"


class ClassificationSettings(TaskSettings):
    """Which outputs hold the answer.

    Attributes:
        output: Probabilities or scores `(rows, labels)`; `(rows, 1)` with `sigmoid` is the second
            of two labels. By default `probabilities`, else the only output of floats in rows.
        label_output: The label itself, where it is not simply the highest score.
        classes: Values of an integer `label_output`, in the order of `labels`; by default 0, 1...
    """

    output: str = ""
    activation: Activation = "none"
    label_output: str = ""
    classes: tuple[int, ...] = ()


class RegressionSettings(TaskSettings):
    """`output`: `(rows,)` or `(rows, values)`; `names` of the values when they are several."""

    output: str = ""
    names: tuple[str, ...] = ()


class ClassificationParams(Params):
    """`top_k`: how many labels `scores` has; all by default."""

    top_k: int | None = Field(default=None, ge=1)


class ColumnEncoder:
    """Records to the model's inputs, one row each."""

    def __init__(self, settings: Preprocessing, signature: Signature) -> None:
        """Raises LoadFailed: Columns and inputs do not fit each other; the message says how."""
        self._settings = settings
        names = [column.name for column in settings.columns]
        self._names = names
        self._known = frozenset(names)
        # The only column's values may come by themselves: `[0, 0.5, …]` for `[[0, 0.5, …]]`.
        only = settings.columns[0]
        alone = len(names) == 1 and only.kind == "array"
        self._one_array = only.name if alone else None
        if len(self._known) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise LoadFailed(f"preprocessing: column '{twice}' comes twice")
        self._parts = _parts(settings.columns, signature)

    @property
    def columns(self) -> tuple[dict[str, str], ...]:
        """Name and kind of each column, for callers that hold them as text."""
        return tuple({"name": c.name, "kind": c.kind} for c in self._settings.columns)

    def row(self, payload: Any) -> dict[str, Array]:
        """The tensors of one record.

        Raises:
            InvalidInput: Not a record or row, missing or extra columns (named), or a value that
                its column does not take.
        """
        values = self._by_name(payload)
        return {spec.name: _tensor(spec, columns, values) for spec, columns in self._parts}

    def _by_name(self, payload: Any) -> Mapping[str, Any]:
        if isinstance(payload, dict):
            self._check_names(payload)
            return payload
        if isinstance(payload, list):
            if self._one_array is not None and len(payload) != 1:
                return {self._one_array: payload}
            if len(payload) != len(self._names):
                raise InvalidInput(
                    f"got {len(payload)} values; {len(self._names)} are accepted, in the order "
                    f"{_listed(self._names)}"
                )
            return dict(zip(self._names, payload, strict=True))
        raise InvalidInput(
            f"got {kind_of(payload)}; a record with the columns {_listed(self._names)} "
            "or a list of their values is accepted"
        )

    def _check_names(self, record: Mapping[str, Any]) -> None:
        missing = [name for name in self._names if name not in record]
        extra = [name for name in record if name not in self._known]
        if self._settings.extra == "ignore":
            extra = []
        if missing or extra:
            parts = [f"missing columns {_listed(missing)}"] if missing else []
            parts += [f"unknown columns {_listed(extra)}"] if extra else []
            raise InvalidInput(f"{'; '.join(parts)}; the columns are {_listed(self._names)}")


Part = tuple[TensorSpec, tuple[Column, ...]]


def _parts(columns: Sequence[Column], signature: Signature) -> list[Part]:
    """Which columns feed which input, in the model's order of inputs."""
    specs = {spec.name: spec for spec in signature.inputs}
    fed: dict[str, list[Column]] = {name: [] for name in specs}
    for column in columns:
        name = column.input or (column.name if column.name in specs else "")
        if not name and len(specs) == 1:
            name = next(iter(specs))
        if name not in fed:
            raise LoadFailed(
                f"preprocessing: column '{column.name}' feeds no input of the model, "
                f"which takes {_listed(list(specs))}"
            )
        fed[name].append(column)
    for name, members in fed.items():
        _check_part(specs[name], members)
    return [(specs[name], tuple(members)) for name, members in fed.items() if members]


def _check_part(spec: TensorSpec, columns: Sequence[Column]) -> None:
    if not columns:
        if spec.optional:
            return
        raise LoadFailed(f"preprocessing: no column feeds the model's input '{spec.name}'")
    width = sum(column.width for column in columns)
    size = spec.shape[-1] if len(spec.shape) > 1 else 1
    if size >= 0 and size != width:
        raise LoadFailed(
            f"preprocessing: the columns make up {width} values, input '{spec.name}' takes {size}"
        )
    texts = [column.name for column in columns if column.is_text]
    if (spec.datatype == "BYTES") != (len(texts) == len(columns)) or (
        texts and spec.datatype != "BYTES"
    ):
        column = (texts or [columns[0].name])[0]
        raise LoadFailed(
            f"preprocessing: column '{column}' does not fit input '{spec.name}' "
            f"of datatype {spec.datatype}"
        )


def _tensor(spec: TensorSpec, columns: Sequence[Column], values: Mapping[str, Any]) -> Array:
    dtype = dtype_of(spec.datatype)
    is_whole = spec.datatype.startswith(WHOLE)
    cells: list[Any] = []
    for column in columns:
        found = _cells(column, values[column.name])
        cells += [_whole(column, cell, spec) for cell in found] if is_whole else found
    try:
        with np.errstate(over="ignore"):
            row = np.array(cells, dtype)
    except OverflowError:
        raise InvalidInput(f"a value does not fit {spec.datatype}") from None
    if not is_whole and dtype.kind != "O" and np.isinf(row).any():
        raise InvalidInput(f"a value is too large for {spec.datatype}")
    return row[None] if len(spec.shape) > 1 else row


def _whole(column: Column, cell: Number, spec: TensorSpec) -> int:
    """A cell of an input of integers or booleans, which numpy would cut to fit."""
    if cell != cell:
        raise InvalidInput(
            f"column '{column.name}': a value is missing; "
            f"input '{spec.name}' of {spec.datatype} has no number for that"
        )
    if spec.datatype == "BOOL" and cell not in (0, 1):
        raise InvalidInput(f"column '{column.name}': got {cell}; 0 or 1, true or false is accepted")
    whole = int(cell)
    if whole != cell:
        raise InvalidInput(f"column '{column.name}': got {cell}; a whole number is accepted")
    return whole


def _cells(column: Column, value: Any) -> list[Any]:
    """The numbers (or the text) that one value becomes."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if column.missing == "refuse":
            what = "None" if value is None else "NaN"
            raise InvalidInput(f"column '{column.name}': got {what}; a value is needed")
        if column.missing == "nan":
            return [b""] if column.is_text else [math.nan] * column.width
        value = column.fill
    if column.kind == "array":
        return _array(column, value)
    if column.kind == "number":
        return [_number(column, value)]
    if column.kind == "boolean":
        return [_boolean(column, value)]
    if column.kind == "text":
        return [_encoded(column, _text(column, value))]
    return _category(column, value)


def _number(column: Column, value: Any) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(
            f"column '{column.name}': got {kind_of(value)}{_shown(value)}; a number is accepted"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise InvalidInput(f"column '{column.name}': got an infinite or far too large number")
    return value


def _array(column: Column, value: Any) -> list[float]:
    accepted = f"numbers of shape {list(column.shape)}, nested or flat, are accepted"
    if not isinstance(value, list | np.ndarray):
        raise InvalidInput(f"column '{column.name}': got {kind_of(value)}; {accepted}")
    try:
        found = np.array(value)
    except ValueError:  # rows of unequal length
        raise InvalidInput(
            f"column '{column.name}': the rows differ in length; {accepted}"
        ) from None
    if found.dtype.kind not in "iuf":
        raise InvalidInput(f"column '{column.name}': got values that are none; {accepted}")
    if found.shape != column.shape and found.shape != (column.width,):
        raise InvalidInput(f"column '{column.name}': got shape {list(found.shape)}; {accepted}")
    if not np.isfinite(found).all():
        raise InvalidInput(f"column '{column.name}': got NaN or an infinite number; {accepted}")
    values: list[float] = found.ravel().tolist()
    return values


def _boolean(column: Column, value: Any) -> float:
    if value in (0, 1) and isinstance(value, bool | int | float):
        return float(value)
    raise InvalidInput(
        f"column '{column.name}': got {kind_of(value)}{_shown(value)}; true or false is accepted"
    )


def _text(column: Column, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"column '{column.name}': got {kind_of(value)}; a text is accepted")
    return value


def _encoded(column: Column, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"column '{column.name}': {HALF_CHARACTER}") from None


def _category(column: Column, value: Any) -> list[Any]:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a frame with gaps holds its integers as floats
    name = str(value) if isinstance(value, bool | int | str) else _text(column, value)
    if column.categories and name not in column.categories:
        if column.unseen == "refuse":
            raise InvalidInput(
                f"column '{column.name}': {name[:64]!r} is not among the known values "
                f"{_listed(column.categories)}"
            )
        if column.unseen == "nan" and not column.is_text:
            return [math.nan] * column.width
    if column.encode == "none":
        return [_encoded(column, name)]
    place = column.categories.index(name) if name in column.categories else -1
    if column.encode == "ordinal":
        return [place]
    return [float(index == place) for index in range(column.width)]


def _shown(value: Any) -> str:
    return f" {value[:64]!r}" if isinstance(value, str) else ""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{str(name)[:64]}'" for name in names[:MAX_NAMED]) or "none"
    more = len(names) - MAX_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


class TabularClassification:
    """The task of one version."""

    input: PayloadKind = "features"
    predictions: tuple[type[Prediction], ...] = (Classification,)
    params: type[Params] = ClassificationParams
    costs = False

    def __init__(self, card: Card, assets: Assets, signature: Signature) -> None:
        pre = read_settings(Preprocessing, card.preprocessing, "preprocessing")
        self._post = read_settings(ClassificationSettings, card.postprocessing, "postprocessing")
        self._encoder = ColumnEncoder(pre, signature)
        self.columns = self._encoder.columns
        self._labels = read_labels(card, assets)
        if not self._labels:
            raise LoadFailed("model.json: tabular-classification needs 'labels'")
        self._output = _scores_spec(signature, self._post.output)
        if not self._is_binary():
            check_label_count(self._labels, self._output)
        self._outputs = [self._output.name]
        if self._post.label_output:
            self._outputs.append(output_spec(signature, self._post.label_output).name)
        self._classes = self._post.classes or tuple(range(len(self._labels)))
        if len(self._classes) != len(self._labels):
            raise LoadFailed(
                f"postprocessing: {len(self._classes)} classes for {len(self._labels)} labels"
            )

    def preprocess(self, payload: Any, params: Params) -> Prepared:
        """One row."""
        return Prepared(self._encoder.row(payload), 1, None, tuple(self._outputs))

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: ClassificationParams
    ) -> Classification:
        """The label with its probability, and those of all labels."""
        scores = activated(tensors[self._output.name], self._post.activation).reshape(-1)
        if self._is_binary():
            scores = np.array([1 - scores[0], scores[0]])
        found = classification(scores, self._labels, params.top_k)
        if not self._post.label_output:
            return found
        label = self._label(np.ravel(tensors[self._post.label_output])[0])
        score = float(scores[self._labels.index(label)]) if label in self._labels else found.score
        return Classification(label=label, score=score, scores=found.scores)

    def _is_binary(self) -> bool:
        one = bool(self._output.shape) and self._output.shape[-1] == 1
        return one and len(self._labels) == 2 and self._post.activation == "sigmoid"

    def _label(self, value: Any) -> str:
        if isinstance(value, bytes | str):
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if int(value) not in self._classes:
            raise InferenceFailed(f"the model answered class {value}, the card has {self._classes}")
        return self._labels[self._classes.index(int(value))]


def _scores_spec(signature: Signature, name: str) -> TensorSpec:
    """The output that holds the scores: the one named, the usual one, or the only one it can be."""
    usual = "probabilities"
    if name or any(spec.name == usual for spec in signature.outputs):
        return output_spec(signature, name or usual)
    found = [s for s in signature.outputs if s.datatype in FLOATS and len(s.shape) == 2]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"'{s.name}' {s.datatype} {list(s.shape)}" for s in signature.outputs)
    raise LoadFailed(
        f"postprocessing: 'output' must name the model's output of probabilities (rows, labels); "
        f"there are {listed}"
    )


class TabularRegression:
    """The task of one version."""

    input: PayloadKind = "features"
    predictions: tuple[type[Prediction], ...] = (Regression,)
    params: type[Params] = Params
    costs = False

    def __init__(self, card: Card, assets: Assets, signature: Signature) -> None:
        pre = read_settings(Preprocessing, card.preprocessing, "preprocessing")
        self._post = read_settings(RegressionSettings, card.postprocessing, "postprocessing")
        self._encoder = ColumnEncoder(pre, signature)
        self.columns = self._encoder.columns
        self._output = output_spec(signature, self._post.output)
        size = self._output.shape[-1] if len(self._output.shape) > 1 else 1
        if self._post.names and size >= 0 and size != len(self._post.names):
            raise LoadFailed(
                f"postprocessing: the card names {len(self._post.names)} values, "
                f"output '{self._output.name}' has {size}"
            )

    def preprocess(self, payload: Any, params: Params) -> Prepared:
        """One row."""
        return Prepared(self._encoder.row(payload), 1, None, (self._output.name,))

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: Params
    ) -> Regression:
        """The value, and all by name when there are several."""
        values = [float(value) for value in np.ravel(tensors[self._output.name])]
        names = self._post.names
        return Regression(value=values[0], values=dict(zip(names, values, strict=False)))


def open_task(
    card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
) -> TabularClassification | TabularRegression:
    """The task that the card names."""
    if card.task == "tabular-regression":
        return TabularRegression(card, assets, signature)
    return TabularClassification(card, assets, signature)
