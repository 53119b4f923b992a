"""`Served`: a version in this process, answering as a server would that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.management import CARD_FILE, MODEL_FILE
from aiaas_client.protocol.predictions import Classification, ImageClassification, Regression
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.describe.card import Card, read_card
from aiaas_server.core.errors import InvalidInput, ServerError
from aiaas_server.core.events import NOBODY
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.predict import CallContext, Predictor, run_rows
from aiaas_server.jobs.table import Table
from aiaas_server.repository.one_bundle import OneBundle
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.tasks import Tasks

Array = np.ndarray[Any, Any]

_NAME: Final = "model"
_ROWS: Final = 512  # of one call
_LONG: Final = 7 * 24 * 3600.0  # seconds: the job itself ends sooner


class Answers(NamedTuple):
    """What a version answers to rows.

    Attributes:
        classes: The labels, in the order of the columns of `scores`; empty of values.
        scores: `[rows, classes]`; NaN in rows that failed. None of values.
        values: `[rows]`. None of classes.
        failed: What was wrong with rows that got no answer.
    """

    classes: tuple[str, ...]
    scores: Array | None
    values: Array | None
    failed: Mapping[int, str]

    @property
    def labels(self) -> Array:
        """The label of each row; None where it failed."""
        assert self.scores is not None, "it answers with values"
        best = np.argmax(np.where(np.isnan(self.scores), -np.inf, self.scores), axis=1)
        found: Array = np.array(self.classes, dtype=object)[best]
        found[list(self.failed)] = None
        return found


class Served:
    """One version. From one thread.

    Attributes:
        card: None where it has none.
        model: As it is loaded.
        directory: Of its files.
    """

    def __init__(self, directory: Path, threads: int = 1) -> None:
        self.directory = directory
        card = directory / CARD_FILE
        self.card: Card | None = read_card(card.read_bytes()) if card.exists() else None
        siblings = tuple(
            path.name for path in directory.iterdir() if path.name not in (MODEL_FILE, CARD_FILE)
        )
        repository = OneBundle(directory, _NAME, siblings)
        bundles = Bundles(repository.read_beside, Tasks().open)
        opening = partial(open_session, providers=("cpu",), intra_op_threads=threads)
        settings = Settings(intra_op_threads=threads, instances=1)
        self._pool = ModelPool(repository, opening, settings, (), bundles)
        self._loop = asyncio.new_event_loop()
        self._predictor = Predictor(self._pool.obtain)
        self._loop.run_until_complete(self._pool.load(_NAME))
        model = self._pool.find(_NAME)
        assert model is not None, "it was loaded"
        self.model: LoadedModel = model

    def close(self) -> None:
        """Unload it."""
        self._loop.run_until_complete(self._pool.close())
        self._loop.close()

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """Tensors in, tensors out; any number of rows."""
        rows = len(next(iter(inputs.values()))) if self.model.signature.max_batch_size else 1
        call = CallContext(self._loop.time() + _LONG, NOBODY)
        work = run_rows(self.model, inputs, rows, tuple(outputs), call)
        return dict(self._loop.run_until_complete(work))

    def predict(
        self, payloads: Sequence[Any], params: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """A `Prediction` or a `ServerError` for each payload, as its task takes them.

        Raises:
            InvalidInput: It has no task.
        """
        deadline = self._loop.time() + _LONG
        work = self._predictor.predict(self.model, payloads, params or {}, deadline)
        return list(self._loop.run_until_complete(work))

    def payloads(self, table: Table) -> list[Any]:
        """The rows as payloads of the version's task: records, texts or pictures.

        Raises:
            InvalidInput: The table has no column for it; the message names those that it wants.
        """
        task = self.model.task
        if task is None:
            raise InvalidInput("the version has no card with a task: nothing says what it answers")
        if task.input == "features":
            fast = self._array_of(table)
            return _records(self._columns(table), table) if fast is None else fast(table)
        kind = {"text": "text", "image": "image"}.get(task.input)
        for name, found in table.fields:
            if found == kind or (kind == "text" and found == "category"):
                return list(table[name])
        raise InvalidInput(f"the data set has no column of kind '{task.input}'")

    def _columns(self, table: Table) -> list[tuple[str, str]]:
        columns = _listed(self.model.task)
        missing = [name for name, _ in columns if name not in table]
        if missing:
            raise InvalidInput(
                f"the data set lacks the columns {', '.join(missing[:8])}; "
                f"it has {', '.join(table.names[:32])}"
            )
        return columns

    def answers(
        self, table: Table, progress: Callable[[int, int], object] = lambda done, rows: None
    ) -> Answers:
        """What it answers to every row: labels with scores, or values.

        Args:
            progress: Is called with the rows that are done, and all.
        """
        of_pictures = self.card is not None and self.card.task == "image-classification"
        params = {"top_k": len(self.card.labels)} if self.card and of_pictures else {}
        found: list[Any] = []
        for start in range(0, table.rows, _ROWS):
            part = table.take(slice(start, start + _ROWS))
            found += self.predict(self.payloads(part), params)
            progress(len(found), table.rows)
        return _answers(found)

    def _array_of(self, table: Table) -> Callable[[Table], list[Any]] | None:
        """Of one column of arrays whose values are the columns of a card: lists of values."""
        if self.model.task is None or self.model.task.input != "features" or self.card is None:
            return None
        arrays = [name for name, kind in table.fields if kind == "array"]
        if len(arrays) != 1 or any(name in table for name, _ in _listed(self.model.task)):
            return None
        name = arrays[0]
        return lambda part: part[name].reshape(part.rows, -1).astype(float).tolist()


@contextmanager
def served(directory: Path, threads: int = 1) -> Iterator[Served]:
    """A version from its directory, unloaded afterwards.

    Raises:
        LoadFailed: It cannot be loaded.
    """
    found = Served(directory, threads)
    try:
        yield found
    finally:
        found.close()


def _listed(task: Any) -> list[tuple[str, str]]:
    """Name and kind of the columns that a task of records wants."""
    return [(column["name"], column["kind"]) for column in getattr(task, "columns", ())]


def _records(columns: Sequence[tuple[str, str]], table: Table) -> list[dict[str, Any]]:
    cells = {}
    for name, kind in columns:
        values = table[name].tolist()
        if kind in ("category", "text"):
            values = [None if value is None else str(value) for value in values]
        else:
            values = [None if value != value else value for value in values]
        cells[name] = values
    names = list(cells)
    return [dict(zip(names, row, strict=True)) for row in zip(*cells.values(), strict=True)]


def _answers(found: Sequence[Any]) -> Answers:
    failed = {row: one.message for row, one in enumerate(found) if isinstance(one, ServerError)}
    whole = [one for one in found if not isinstance(one, ServerError)]
    if not whole:
        text = f"no row got an answer; the first: {failed[0]}" if failed else "there are no rows"
        raise InvalidInput(text)
    if isinstance(whole[0], Regression):
        values = np.array([np.nan if row in failed else one.value for row, one in enumerate(found)])
        return Answers((), None, values, failed)
    if not isinstance(whole[0], Classification | ImageClassification):
        raise InvalidInput(
            f"expected a version that tells labels or numbers, got {type(whole[0]).__name__}"
        )
    scored = [None if row in failed else _scores(one) for row, one in enumerate(found)]
    classes = tuple(sorted({label for scores in scored if scores for label in scores}))
    scores = np.array(
        [[np.nan if one is None else one.get(label, 0.0) for label in classes] for one in scored]
    )
    return Answers(classes, scores, None, failed)


def _scores(one: Classification | ImageClassification) -> dict[str, float]:
    if isinstance(one, ImageClassification):
        return {found.label: found.score for found in one.top} or {one.label: one.score}
    return dict(one.scores) or {one.label: one.score}
