"""`Feature`: a column of a table as numbers of a row, and the same words for a card.

So what a recipe learns from is what a server makes of the same record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.recipe import Array
from aiaas_server.jobs.splits import texts_of
from aiaas_server.jobs.table import Table

FeatureKind = Literal["number", "boolean", "category", "array"]


class Feature(NamedTuple):
    """A column of the card.

    Attributes:
        categories: Of a category, in the order of their columns in the matrix.
        fill: What a gap is read as: a text of a category; of a number, None leaves NaN.
        shape: Of an array.
    """

    name: str
    kind: FeatureKind
    categories: tuple[str, ...] = ()
    fill: str | float | None = None
    shape: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Numbers of a row that it becomes."""
        if self.kind == "array":
            return math.prod(self.shape)
        return len(self.categories) if self.kind == "category" else 1

    def names(self) -> list[str]:
        """Of its numbers: `age`, `colour=red`, `pixels[0]`."""
        if self.kind == "category":
            return [f"{self.name}={value}" for value in self.categories]
        if self.kind == "array":
            return [f"{self.name}[{at}]" for at in range(self.width)]
        return [self.name]

    def card(self) -> dict[str, Any]:
        """As the card of a tabular task describes it."""
        said: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "array":
            return {**said, "shape": list(self.shape)}
        if self.kind == "category":
            said |= {"categories": list(self.categories), "encode": "one-hot", "unseen": "ignore"}
        if self.fill is None:
            return {**said, "missing": "nan"}
        return {**said, "missing": "fill", "fill": self.fill}

    def encoded(self, table: Table) -> Array:
        """Its numbers: float32 `[rows, width]`, 0 for categories that are not known.

        Raises:
            InvalidInput: A value is beyond float32, or one of an array is missing; named by row.
        """
        if self.kind == "category":
            return self._one_hot(texts_of(table, self.name))
        found = table[self.name]
        if self.kind != "array":
            found = numbers(found)
        if self.fill is not None:
            found = np.where(np.isnan(found), self.fill, found)
        with np.errstate(over="ignore"):
            values: Array = found.reshape(table.rows, -1).astype(np.float32)
        # A gap of a number may stay; an array is taken whole.
        wrong = np.isinf(values) if self.kind != "array" else ~np.isfinite(values)
        if wrong.any():
            row = int(np.flatnonzero(wrong.any(axis=1))[0])
            raise InvalidInput(
                f"column '{self.name}', row {row}: an infinite or far too large number, or a gap "
                "in an array; expected numbers within the range of float32"
            )
        return values

    def _one_hot(self, texts: Array) -> Array:
        place: dict[Any, int] = {value: at for at, value in enumerate(self.categories)}
        found = np.zeros((len(texts), self.width), np.float32)
        for row, text in enumerate(texts):
            at = place.get(self.fill if text is None else text)
            if at is not None:
                found[row, at] = 1.0
        return found


def numbers(column: Array) -> Array:
    """Numbers or booleans as float64, NaN for what is missing."""
    if column.dtype == object:
        return np.array([np.nan if value is None else float(value) for value in column])
    return column.astype(np.float64)


def most_frequent(texts: Iterable[str | None], most: int) -> list[str]:
    """The values, the most frequent ones first, ties by their names."""
    known = np.array([text for text in texts if text is not None], dtype=str)
    values, counts = np.unique(known, return_counts=True)
    often = sorted(zip((-counts).tolist(), values.tolist(), strict=True))
    return [value for _, value in often[:most]]


def encoded(features: Sequence[Feature], table: Table) -> Array:
    """What a server makes of these rows by the card: float32 `[rows, width]`, side by side."""
    if len(features) == 1:  # pictures, mostly: not held twice
        return features[0].encoded(table)
    found = np.empty((table.rows, sum(feature.width for feature in features)), np.float32)
    start = 0
    for feature in features:
        found[:, start : start + feature.width] = feature.encoded(table)
        start += feature.width
    return found


def card_of(features: Sequence[Feature]) -> dict[str, Any]:
    """`preprocessing` of the card; columns besides are ignored, such as the target."""
    return {"columns": [feature.card() for feature in features], "extra": "ignore"}
