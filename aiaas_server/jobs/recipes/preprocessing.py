"""`Design`: the columns of a table as the matrix that an estimator learns from, and the same again
for serving.

Two halves that meet at a float32 matrix `[rows, width]`, the model's input `features`:

* `raw` is what the card describes and the task of a server does: columns side by side, a category
  as 0/1 for each known value, NaN for what is missing, nothing for a value that was never seen;
* `ready` is what stands in the graph (`graph.prepended`): gaps filled, indicators of gaps added,
  columns scaled. It is reckoned in float64 on both sides, from the same float32 input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.columns import Feature, card_of, encoded, most_frequent
from aiaas_server.jobs.recipes.recipe import Array
from aiaas_server.jobs.splits import texts_of
from aiaas_server.jobs.table import Field, Table

Missing = Literal["median", "most-frequent", "indicator"]

INPUT: Final = "features"
MOST_CATEGORIES: Final = 100  # of one column: rarer ones count as unseen
_MOST_WIDTH: Final = 100_000
_NO_VALUE: Final = "(missing)"


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
        return encoded(self.features, table)

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
        found = [name for feature in self.features for name in feature.names()]
        return found + [f"{found[at]} is missing" for at in self.gaps]

    def card(self) -> dict[str, Any]:
        """`preprocessing` of the card."""
        return card_of(self.features)


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


def _category(table: Table, name: str) -> Feature:
    texts = texts_of(table, name)
    often = most_frequent(texts, MOST_CATEGORIES)
    categories = tuple(sorted(often))  # the columns go by name
    fill = often[0] if often else _NO_VALUE
    if any(text is None for text in texts):  # a gap is a value of its own
        fill = _NO_VALUE
        while fill in categories:
            fill = f"({fill})"
        categories = (*categories, fill)
    return Feature(name, "category", categories=categories or (_NO_VALUE,), fill=fill)


def _fills(raw: Array, often: Array) -> Array:
    """What a gap becomes, a column each; 0 where there is nothing but gaps."""
    found = np.zeros(raw.shape[1])
    for at in range(raw.shape[1]):
        known = raw[~np.isnan(raw[:, at]), at]
        if len(known):
            found[at] = _commonest(known) if often[at] else float(np.median(known))
    return found


def _commonest(known: Array) -> float:
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
