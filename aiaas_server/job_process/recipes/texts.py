"""Texts of a column as the server's text tasks read them, and what a text recipe shares."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

import numpy as np
from pydantic import Field

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.recipes.pictures import only_column
from aiaas_server.jobs.recipes.recipe import (
    Array,
    Exported,
    Fitted,
    Params,
    Recipe,
    TaskKind,
    Training,
    Watch,
)
from aiaas_server.jobs.table import Table
from aiaas_server.tasks.text import Encoder, TextSettings, check_text, mean_of_rows

_ROWS_AT_ONCE: Final = 64  # texts that are encoded to one length


class TextParams(Params):
    """What all text recipes share."""

    strength: float = Field(
        default=1.0,
        gt=0.0,
        le=1e6,
        description="The larger, the closer it follows the examples (C of scikit-learn).",
    )


P = TypeVar("P", bound=TextParams)


class TextRecipe(Recipe[P]):
    """Labels of texts, by a logistic regression over features of them."""

    task: ClassVar[TaskKind] = "classification"
    kinds: ClassVar[frozenset[ColumnKind]] = frozenset({"text", "category"})
    modules: ClassVar[tuple[str, ...]] = ("sklearn", "onnx")

    def fit(self, params: P, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        name = only_column(data.features, ("text", "category"), "texts")
        data = with_text(data, name, watch)
        return self.fit_texts(params, read_texts(data.features, name), data, watch, name)

    @abstractmethod
    def fit_texts(
        self, params: P, texts: list[str], data: Training, watch: Watch, name: str
    ) -> Fitted:
        """Train on texts that were checked."""


def with_text(data: Training, name: str, watch: Watch) -> Training:
    """What is learned from without the rows that have no text: real tables have a few.

    Raises:
        InvalidInput: A class is left without any.
    """
    kept = np.array([_is_text(value) for value in data.features[name]], bool)
    if kept.all():
        return data
    target = data.target[kept]
    if len(gone := np.setdiff1d(data.target, target)):
        label = data.classes[int(gone[0])]
        raise InvalidInput(f"column '{name}': expected texts of each class, got none of '{label}'")
    watch.log(f"{len(kept) - len(target)} rows without a text in '{name}' are not learned from")
    weights = None if data.weights is None else data.weights[kept]
    features = data.features.take(np.flatnonzero(kept))
    return data._replace(features=features, target=target, weights=weights)


def read_texts(table: Table, name: str) -> list[str]:
    """The texts of a column.

    Raises:
        InvalidInput: One is missing, empty or far too long; the row is named.
    """
    most = TextSettings().max_characters
    found = []
    for row, value in enumerate(table[name]):
        try:
            found.append(check_text(value, most))
        except InvalidInput as error:
            raise InvalidInput(f"column '{name}', row {row}: {error.message}") from None
    return found


def answered(table: Table, name: str, classes: int, answer: Callable[[list[str]], Array]) -> Array:
    """`(rows, classes)`: what `answer` gives for the texts; NaN for what is no text."""
    most = TextSettings().max_characters
    kept = [row for row, value in enumerate(table[name]) if _is_text(value)]
    found = np.full((table.rows, classes), np.nan)
    if kept:
        found[kept] = answer([check_text(table[name][row], most) for row in kept])
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


class Windows(NamedTuple):
    """Texts cut as a server cuts them.

    Attributes:
        ids: Of each window, one array a window.
        owners: The text of each.
    """

    ids: list[Array]
    owners: Array


def windows_of(encoder: Encoder, texts: list[str]) -> Windows:
    """The ids of all windows of all texts, without padding."""
    ids: list[Array] = []
    owners: list[int] = []
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        found = encoder.encode(texts[start : start + _ROWS_AT_ONCE])
        rows = next(iter(found.tensors.values()))
        ids += [row[:size] for row, size in zip(rows, found.sizes, strict=True)]
        owners += [start + owner for owner in found.owners]
    return Windows(ids, np.array(owners))


def shares(owners: Array, weights: Array | None) -> Array:
    """The weight of each window: that of its text, divided among its windows."""
    counts = np.bincount(owners)
    whole = np.ones(len(counts)) if weights is None else weights
    found: Array = (whole / np.maximum(counts, 1))[owners]
    return found


def averaged(scores: Array, owners: Array) -> Array:
    """The mean of the windows of each text, as the task reckons it."""
    found: Array = mean_of_rows(scores, owners.tolist())
    return found


def exported(
    directory: Path, model: bytes, classes: tuple[str, ...], settings: TextSettings, **more: Any
) -> Exported:
    """Write the graph, and say what its card says."""
    (directory / "model.onnx").write_bytes(model)
    card: dict[str, Any] = {
        "task": "text-classification",
        "labels": list(classes),
        "preprocessing": settings.model_dump(mode="json", exclude_defaults=True),
        "postprocessing": {"output": "probabilities"},
        **more,
    }
    return Exported(card)
