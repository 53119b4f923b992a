"""The reference of a version: what its inputs and predictions look like, as counts in bins.

Bins are fixed when the profile is made: quantiles of the reference for numbers, the values
themselves for categories. Counts in fixed bins are exact and add up over windows and nodes; no
value that was sent is kept, but for the names of categories that came often.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Card
from aiaas_server.core.signature import Signature
from aiaas_server.monitor.features import Block, Layout, Role

Source = Literal["golden", "training", "traffic"]
Document = dict[str, Any]

MOST_BINS, LEAST_BINS, ROWS_A_BIN = 20, 4, 25
MOST_CATEGORIES: Final = 50
FEW_VALUES: Final = 10  # so many different numbers are categories
OFTEN: Final = 5  # times that a text must have come for its name to be kept
ROWS_A_CATEGORY: Final = 10
LEAST_ROWS: Final = 20
FORMAT: Final = 1


class Feature(NamedTuple):
    """One feature of the reference.

    Attributes:
        edges: Of numbers, ascending, between the bins.
        values: Of categories: the known ones, numbers ascending; what is none of them has a bin
            behind them.
        counts: One a bin; the last counts missing values.
    """

    name: str
    role: Role
    kind: Literal["number", "category"]
    edges: tuple[float, ...]
    values: tuple[str | float, ...]
    counts: tuple[int, ...]

    @property
    def bins(self) -> int:
        """How many there are, that of missing values included."""
        return len(self.counts)

    @property
    def cuts(self) -> Array:
        """The edges, and one before the missing values: NaN is behind all numbers."""
        return np.array([*self.edges, np.nan])

    def counted(self, values: Array, cuts: Array | None = None) -> Array:
        """Count values of this feature, `(items,)`: float64, or objects where they are texts.

        Args:
            cuts: Its own, where they are known already.
        """
        if self.kind == "number":
            places = (self.cuts if cuts is None else cuts).searchsorted(values, side="right")
        elif values.dtype == object:
            known = {value: place for place, value in enumerate(self.values)}
            last = self.bins - 1
            other = last - 1
            places = np.array([last if v is None else known.get(v, other) for v in values], np.intp)
        else:
            places = _places_of_numbers(np.array(self.values, np.float64), values)
        return np.bincount(places, minlength=self.bins)


class _Form(BaseModel):
    format: Literal[1]
    source: Source
    rows: Annotated[int, Field(ge=0)]
    features: list[Feature]
    vectors: dict[str, list[FiniteFloat]]


class Profile:
    """The features of a version's reference.

    Args:
        vectors: Mean vectors of embeddings, by tensor.

    Attributes:
        id: The same for the same bins: counts of one id may be added and compared.
    """

    def __init__(
        self,
        source: Source,
        rows: int,
        features: Sequence[Feature],
        vectors: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.source = source
        self.rows = rows
        self.features = tuple(features)
        self.vectors = {name: np.array(mean, np.float64) for name, mean in (vectors or {}).items()}
        self._cuts = [one.cuts for one in self.features]
        self._by_name = {(one.role, one.name): i for i, one in enumerate(self.features)}
        bins = [[f.name, f.role, f.kind, f.edges, f.values] for f in self.features]
        self.id = hashlib.sha256(json.dumps(bins).encode()).hexdigest()[:16]

    def empty(self) -> list[Array]:
        """Counts of nothing, one array a feature."""
        return [np.zeros(one.bins, np.int64) for one in self.features]

    def count(self, blocks: Sequence[Block], into: list[Array]) -> None:
        """Count items; what the reference does not know is left out."""
        for block in compared(blocks, self.vectors):
            columns = np.ascontiguousarray(block.values.T)
            for name, values in zip(block.names, columns, strict=True):
                place = self._by_name.get((block.role, name))
                if place is None:
                    continue
                feature = self.features[place]
                if feature.kind == "number" and values.dtype == object:
                    continue
                into[place] += feature.counted(values, self._cuts[place])

    def document(self) -> Document:
        """As it is kept; `read_profile` reads it."""
        return {
            "format": FORMAT,
            "source": self.source,
            "rows": self.rows,
            "features": [one._asdict() for one in self.features],
            "vectors": {name: mean.tolist() for name, mean in self.vectors.items()},
        }


def read_profile(document: Mapping[str, Any]) -> Profile:
    """Read what `Profile.document` wrote.

    Raises:
        ValueError: It is of a newer format.
    """
    if document["format"] != FORMAT:
        raise ValueError(f"profile: expected format {FORMAT}, got {document['format']}")
    features = [
        Feature(
            one["name"],
            one["role"],
            one["kind"],
            tuple(one["edges"]),
            tuple(one["values"]),
            tuple(one["counts"]),
        )
        for one in document["features"]
    ]
    return Profile(document["source"], document["rows"], features, document["vectors"])


def trusted_profile(document: Mapping[str, Any]) -> Profile:
    """Read a profile that a process made in which a stranger's model ran.

    Raises:
        ValueError: It is none.
    """
    try:
        made = _Form.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"profile: {first['msg']} at {first['loc'][:4]}") from None
    for feature in made.features:
        known = feature.edges if feature.kind == "number" else feature.values
        numbers = [value for value in known if not isinstance(value, str)]
        if len(feature.counts) != len(known) + 2 or min(feature.counts) < 0:
            raise ValueError(f"profile: the counts of '{feature.name[:64]}' fit no bins")
        if not all(map(isfinite, numbers)) or numbers != sorted(numbers):
            raise ValueError(f"profile: the bins of '{feature.name[:64]}' do not ascend")
        if len(numbers) not in (0, len(known)):
            raise ValueError(f"profile: '{feature.name[:64]}' mixes texts and numbers")
    return Profile(made.source, made.rows, made.features, made.vectors)


def make_profile(blocks: Sequence[Block], source: Source) -> Profile:
    """A profile of items that are the reference.

    Raises:
        ValueError: They are too few to be one.
    """
    rows = max((len(block.values) for block in blocks), default=0)
    if rows < LEAST_ROWS:
        raise ValueError(f"a reference needs at least {LEAST_ROWS} rows, got {rows}")
    vectors = {
        block.names[0]: np.nan_to_num(block.values).mean(axis=0)
        for block in blocks
        if block.kind == "vector"
    }
    features: dict[tuple[str, str], Feature] = {}
    for block in compared(blocks, vectors):
        for column, name in enumerate(block.names):
            made = _feature(name, block.role, block.values[:, column])
            if made is not None and (block.role, name) not in features:
                features[block.role, name] = made
    means = {name: mean.tolist() for name, mean in vectors.items()}
    return Profile(source, rows, list(features.values()), means)


def profile_from(
    signature: Signature,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array] | None = None,
    *,
    card: Card | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    source: Source = "golden",
) -> Profile | None:
    """The profile of a golden or training set; None where it has too few rows to be one.

    Args:
        signature: Of the version.
        inputs: By name, rows first; outputs are what the version answers to them.
        card: Names columns and classes.
    """
    layout = Layout(signature, card, labels)
    blocks = layout.inputs([inputs]) + layout.outputs([outputs or {}])
    try:
        return make_profile(blocks, source)
    except ValueError:
        return None


def compared(blocks: Sequence[Block], vectors: Mapping[str, Array]) -> list[Block]:
    """Vectors as two numbers each: their norm, and the cosine with the reference's mean vector."""
    found: list[Block] = []
    for block in blocks:
        if block.kind != "vector":
            found.append(block)
            continue
        name, values = block.names[0], block.values
        mean = vectors.get(name)
        if mean is None or mean.shape != values.shape[1:]:
            continue
        norms = np.linalg.norm(values, axis=1)
        scale = norms * np.linalg.norm(mean)
        cosines = np.divide(values @ mean, scale, out=np.zeros(len(values)), where=scale > 0)
        pair = np.stack([cosines, norms], axis=1)
        found.append(Block((f"{name}.cosine", f"{name}.norm"), block.role, "number", pair))
    return found


def _feature(name: str, role: Role, values: Array) -> Feature | None:
    if values.dtype == object:
        return _text_feature(name, role, values)
    present = values[~np.isnan(values)]
    different = np.unique(present)
    if len(different) <= FEW_VALUES:
        kinds: tuple[str | float, ...] = tuple(different.tolist())
        empty = Feature(name, role, "category", (), kinds, (0,) * (len(kinds) + 2))
        return empty._replace(counts=tuple(empty.counted(values).tolist()))
    bins = min(max(len(present) // ROWS_A_BIN, LEAST_BINS), MOST_BINS)
    finite = present[np.isfinite(present)]
    cuts: Array = (
        np.unique(np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1])) if len(finite) else finite
    )
    edges = tuple(float(cut) for cut in cuts)
    empty = Feature(name, role, "number", edges, (), (0,) * (len(edges) + 2))
    return empty._replace(counts=tuple(empty.counted(values).tolist()))


def _text_feature(name: str, role: Role, values: Array) -> Feature | None:
    """Texts that are categories; None of free text, whose length is a feature of its own."""
    counted = Counter(value for value in values if value is not None)
    if not counted or len(counted) > MOST_CATEGORIES:
        return None
    if role == "input" and len(counted) * ROWS_A_CATEGORY > len(values):
        return None
    often = OFTEN if role == "input" else 1  # labels are the model's own words
    kinds = tuple(sorted(text for text, times in counted.items() if times >= often))
    empty = Feature(name, role, "category", (), kinds, (0,) * (len(kinds) + 2))
    return empty._replace(counts=tuple(empty.counted(values).tolist()))


def _places_of_numbers(known: Array, values: Array) -> Array:
    """Places among `known`, ascending; what is none of them, then what is missing, stand behind."""
    places = np.searchsorted(known, values)
    near = np.minimum(places, max(len(known) - 1, 0))
    is_known = known[near] == values if len(known) else np.zeros(len(values), bool)
    places = np.where(is_known, near, len(known))
    places[np.isnan(values)] = len(known) + 1
    return places
