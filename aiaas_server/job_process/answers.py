"""`Answers`: what a version says of many rows, as arrays, gathered piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aiaas_client.protocol.predictions import Classification, ImageClassification, Regression
from aiaas_server.core.errors import InvalidInput, ServerError

Array = np.ndarray[Any, Any]


class Answers(NamedTuple):
    """What a version answers to rows.

    Attributes:
        classes: The labels, in the order of the columns of `scores`; empty of values.
        scores: `[rows, classes]`; NaN in rows that failed. None of values.
        values: `[rows]`. None of classes.
        failed: What was wrong with rows that got no answer.
        told: `[rows]` the labels as it tells them, which need not be those of the best score.
    """

    classes: tuple[str, ...]
    scores: Array | None
    values: Array | None
    failed: Mapping[int, str]
    told: Array | None = None

    @property
    def labels(self) -> Array:
        """The label of each row; None where it failed."""
        assert self.scores is not None, "it answers with values"
        if self.told is not None:
            return self.told
        best = np.argmax(np.where(np.isnan(self.scores), -np.inf, self.scores), axis=1)
        found: Array = np.array(self.classes, dtype=object)[best]
        found[list(self.failed)] = None
        return found


class Gathered:
    """Predictions of consecutive rows, kept as arrays rather than as objects."""

    def __init__(self) -> None:
        self.rows = 0
        self._failed: dict[int, str] = {}
        self._values: list[Array] = []
        self._told: list[Array] = []
        self._scores: list[tuple[tuple[str, ...], Array]] = []

    def add(self, predictions: Sequence[Any]) -> None:
        """What was answered to the next rows.

        Raises:
            InvalidInput: They are neither labels nor numbers.
        """
        whole = [one for one in predictions if not isinstance(one, ServerError)]
        for row, one in enumerate(predictions, self.rows):
            if isinstance(one, ServerError):
                self._failed[row] = one.message
        self.rows += len(predictions)
        if self._numbers(whole):
            found = [one.value if isinstance(one, Regression) else np.nan for one in predictions]
            self._values.append(np.array(found, np.float64))
            return
        scored = [None if isinstance(one, ServerError) else scores_of(one) for one in predictions]
        classes = tuple(dict.fromkeys(label for scores in scored if scores for label in scores))
        self._scores.append((classes, _matrix(scored, classes)))
        told = [None if isinstance(one, ServerError) else one.label for one in predictions]
        self._told.append(np.array(told, dtype=object))

    def _numbers(self, whole: Sequence[Any]) -> bool:
        for one in whole:
            if not isinstance(one, Classification | ImageClassification | Regression):
                raise InvalidInput(
                    f"expected a version that tells labels or numbers, got {type(one).__name__}"
                )
        return isinstance(whole[0], Regression) if whole else bool(self._values)

    def answers(self) -> Answers:
        """Of all rows so far.

        Raises:
            InvalidInput: No row got an answer.
        """
        if self.rows == len(self._failed):
            first = next(iter(self._failed.values()), "")
            text = f"no row got an answer; the first: {first}" if first else "there are no rows"
            raise InvalidInput(text)
        if self._values:
            return Answers((), None, self._padded(), self._failed)
        classes = tuple(sorted({label for known, _ in self._scores for label in known}))
        blocks = [_widened(known, block, classes) for known, block in self._scores]
        told = np.concatenate(self._told)
        return Answers(classes, np.concatenate(blocks), None, self._failed, told)

    def _padded(self) -> Array:
        """Numbers; pieces before the first answer were taken for labels, and have none."""
        before = sum(len(block) for _, block in self._scores)
        return np.concatenate([np.full(before, np.nan), *self._values])


def _matrix(scored: Sequence[Mapping[str, float] | None], classes: Sequence[str]) -> Array:
    """`[rows, classes]`; a class that a row does not name has 0."""
    rows = [
        [np.nan] * len(classes) if one is None else [one.get(label, 0.0) for label in classes]
        for one in scored
    ]
    return np.array(rows, np.float64).reshape(len(scored), len(classes))


def _widened(known: Sequence[str], block: Array, classes: Sequence[str]) -> Array:
    """A block with the columns of all classes, in their order."""
    place = {label: column for column, label in enumerate(known)}
    failed = np.isnan(block).all(axis=1)  # also where the block has no column at all
    wide = np.zeros((len(block), len(classes)))
    for column, label in enumerate(classes):
        if label in place:
            wide[:, column] = block[:, place[label]]
    wide[failed] = np.nan
    return wide


def scores_of(one: Classification | ImageClassification) -> dict[str, float]:
    """The scores of the labels that it tells."""
    if isinstance(one, ImageClassification):
        return {found.label: found.score for found in one.top} or {one.label: one.score}
    return dict(one.scores) or {one.label: one.score}
