"""`Design`: the columns of a table as the matrix that an estimator learns from, and the same again
for serving.

Two halves that meet at a float32 matrix `[rows, width]`, the model's input `features`:

* `raw` is what the card describes and the task of a server does: columns side by side, a category
  as 0/1 for each known value, NaN for what is missing, nothing for a value that was never seen;
* `ready` is what stands in the graph (`graph.prepended`): gaps filled, indicators of gaps added,
  columns scaled. It is reckoned in float64 on both sides, from the same float32 input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.splits import texts_of
from aiaas_server.jobs.table import Field, Table

Array = np.ndarray[Any, Any]
Missing = Literal["median", "most-frequent", "indicator"]

INPUT: Final = "features"
MOST_CATEGORIES: Final = 100  # of one column: rarer ones count as unseen
_MOST_WIDTH: Final = 100_000
_NO_VALUE: Final = "(missing)"
_LARGEST: Final = float(np.finfo(np.float32).max)


class Feature(NamedTuple):
    """A column of the card.

    Attributes:
        shape: Of an array.
        categories: Of a category, in the order of their columns in the matrix.
        fill: Of a category: what a gap is read as.
    """

    name: str
    kind: Literal["number", "boolean", "category", "array"]
    categories: tuple[str, ...] = ()
    fill: str = ""
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Columns in the matrix."""
        if self.kind == "array":
            return math.prod(self.shape)
        return len(self.categories) if self.kind == "category" else 1

    def card(self) -> dict[str, Any]:
        """As the card of a tabular task describes it."""
        if self.kind == "array":
            return {"name": self.name, "kind": "array", "shape": list(self.shape)}
        if self.kind != "category":
            return {"name": self.name, "kind": self.kind, "missing": "nan"}
        return {
            "name": self.name,
            "kind": "category",
            "categories": list(self.categories),
            "encode": "one-hot",
            "missing": "fill",
            "fill": self.fill,
            "unseen": "ignore",
        }


class Design(NamedTuple):
    """How rows become numbers; learned from the rows that are learned from.

    Attributes:
        features: In the order of the card.
        fill: `[width]` float64: what a gap becomes.
        center, scale: `[width]` float64: (x - center) / scale.
        gaps: Indices of columns that get an indicator of their gaps, behind all others.
    """

    features: tuple[Feature, ...]
    fill: Array
    center: Array
    scale: Array
    gaps: Array

    @property
    def width(self) -> int:
        """Columns of `raw`."""
        return sum(feature.width for feature in self.features)

    def raw(self, table: Table) -> Array:
        """What a server makes of these rows by the card: float32 `[rows, width]`."""
        found = np.empty((table.rows, self.width), np.float32)
        start = 0
        for feature in self.features:
            found[:, start : start + feature.width] = _encoded(feature, table)
            start += feature.width
        return found

    def ready(self, raw: Array) -> Array:
        """What the estimator is given: float32 `[rows, width + gaps]`."""
        wide = raw.astype(np.float64)
        empty = np.isnan(wide)
        filled = (np.where(empty, self.fill, wide) - self.center) / self.scale
        # Beyond float32 is infinite on both sides.
        with np.errstate(over="ignore"):
            narrow = filled.astype(np.float32)
        return np.concatenate([narrow, empty[:, self.gaps].astype(np.float32)], axis=1)

    def matrix(self, table: Table) -> Array:
        """`ready` of `raw`, as float64, which scikit-learn reckons in."""
        found: Array = self.ready(self.raw(table)).astype(np.float64)
        return found

    def names(self) -> list[str]:
        """Of the columns of `ready`: `age`, `colour=red`, `age is missing`."""
        found = [name for feature in self.features for name in _names(feature)]
        return found + [f"{found[at]} is missing" for at in self.gaps]

    def card(self) -> dict[str, Any]:
        """`preprocessing` of the card; columns besides are ignored, such as the target."""
        return {"columns": [feature.card() for feature in self.features], "extra": "ignore"}


def learn_design(table: Table, *, missing: Missing = "median", scaled: bool = True) -> Design:
    """Learn how the columns of a table become numbers.

    Args:
        missing: What a gap in a number becomes: the median, the most frequent value, or the median
            with a column besides that tells that there was a gap.
        scaled: Whether numbers are brought to mean 0 and deviation 1.

    Raises:
        InvalidInput: An infinite value, one too large for float32, or too many columns.
    """
    features = [_feature(table, field) for field in table.fields]
    width = sum(feature.width for feature in features)
    if width > _MOST_WIDTH:
        raise InvalidInput(f"the columns make up {width} numbers a row; at most {_MOST_WIDTH} do")
    plain = Design(tuple(features), np.zeros(width), np.zeros(width), np.ones(width), _none())
    raw = plain.raw(table).astype(np.float64)
    numbers = [
        feature.kind in ("number", "array") for feature in features for _ in range(feature.width)
    ]
    flags = [feature.kind == "boolean" for feature in features for _ in range(feature.width)]
    often = np.array(flags) | (missing == "most-frequent")
    fill = _fills(raw, often)
    empty = np.isnan(raw)
    gaps = np.flatnonzero(empty.any(axis=0)) if missing == "indicator" else _none()
    center, scale = np.zeros(width), np.ones(width)
    if scaled:
        filled = np.where(empty, fill, raw)
        spread = filled.std(axis=0)
        # What does not vary is only shifted; one part in ten million is rounding of float32.
        varies = spread > 1e-7 * np.abs(filled).max(axis=0, initial=0.0)
        which = np.array(numbers)
        center = np.where(which, filled.mean(axis=0), 0.0)
        scale = np.where(which & varies, spread, 1.0)
    return Design(tuple(features), fill, center, scale, gaps)


def _none() -> Array:
    return np.empty(0, np.int64)


def _feature(table: Table, field: Field) -> Feature:
    name, kind = field
    if kind == "array":
        return Feature(name, "array", shape=table[name].shape[1:])
    if kind == "boolean":
        return Feature(name, "boolean")
    return _category(table, name) if kind == "category" else Feature(name, "number")


def _names(feature: Feature) -> list[str]:
    """Of the columns of the matrix."""
    if feature.kind == "category":
        return [f"{feature.name}={value}" for value in feature.categories]
    if feature.kind == "array":
        return [f"{feature.name}[{at}]" for at in range(feature.width)]
    return [feature.name]


def _category(table: Table, name: str) -> Feature:
    texts = texts_of(table, name)
    known = [text for text in texts if text is not None]
    values, counts = np.unique(np.array(known, dtype=str), return_counts=True)
    # The most frequent ones, ties by their names; the columns then by name.
    often = sorted(zip((-counts).tolist(), values.tolist(), strict=True))[:MOST_CATEGORIES]
    categories = tuple(sorted(value for _, value in often))
    fill = often[0][1] if often else _NO_VALUE
    if len(known) < len(texts):  # a gap is a value of its own
        fill = _NO_VALUE
        while fill in categories:
            fill = f"({fill})"
        categories = (*categories, fill)
    return Feature(name, "category", categories=categories or (_NO_VALUE,), fill=fill)


def _encoded(feature: Feature, table: Table) -> Array:
    """The columns of one feature: `[rows, width]`."""
    if feature.kind == "category":
        return _one_hot(feature, texts_of(table, feature.name))
    values = table[feature.name]
    if values.dtype == object:  # booleans with gaps
        values = np.array([np.nan if value is None else float(value) for value in values])
    wide: Array = values.reshape(table.rows, -1).astype(np.float64)
    wrong = np.isinf(wide) | (np.abs(wide) > _LARGEST)
    if feature.kind == "array":  # a task takes them whole
        wrong |= np.isnan(wide)
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise InvalidInput(
            f"column '{feature.name}', row {row}: an infinite or far too large number, or a gap "
            "in an array; expected numbers within the range of float32"
        )
    return wide


def _one_hot(feature: Feature, texts: Array) -> Array:
    place = {value: at for at, value in enumerate(feature.categories)}
    found = np.zeros((len(texts), feature.width), np.float32)
    for row, text in enumerate(texts):
        at = place.get(feature.fill if text is None else text)
        if at is not None:
            found[row, at] = 1.0
    return found


def _fills(raw: Array, often: Array) -> Array:
    """What a gap becomes, a column each; 0 where there is nothing but gaps."""
    found = np.zeros(raw.shape[1])
    for at in range(raw.shape[1]):
        known = raw[~np.isnan(raw[:, at]), at]
        if len(known):
            found[at] = _most_frequent(known) if often[at] else float(np.median(known))
    return found


def _most_frequent(known: Array) -> float:
    values, counts = np.unique(known, return_counts=True)
    return float(values[np.argmax(counts)])


def unusable(table: Table, names: Sequence[str]) -> list[str]:
    """Those of the columns in which every value is missing."""
    return [name for name in names if _is_empty(table[name])]


def _is_empty(values: Array) -> bool:
    if values.dtype == object:
        return all(value is None or value != value for value in values)
    if values.dtype.kind in "fM":
        return bool(np.isnan(values).all() if values.dtype.kind == "f" else np.isnat(values).all())
    return False
