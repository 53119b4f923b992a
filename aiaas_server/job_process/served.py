"""`Served`: a version in this process, answering as a server would that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.management import CARD_FILE, MODEL_FILE
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.describe.card import Assets, Card, read_card
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.events import NOBODY
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.predict import CallContext, Predictor, run_rows
from aiaas_server.generate import open_generator
from aiaas_server.job_process.answers import Answers, Gathered
from aiaas_server.jobs.table import Field, Table
from aiaas_server.repository.one_bundle import OneBundle
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.tasks import Tasks
from aiaas_server.tasks.task import read_labels

__all__ = ["Answers", "Served", "served"]

Array = np.ndarray[Any, Any]

_NAME: Final = "model"
_ROWS: Final = 512  # of one call
_COSTLY_ROWS: Final = 64  # of pictures and the like, which become large tensors
_MOST_LABELS: Final = 1000  # that a task of pictures tells
_LONG: Final = 7 * 24 * 3600.0  # seconds: the job itself ends sooner


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
        bundles = Bundles(repository.read_beside, Tasks().open, open_generator)
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

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its card; empty where it has none."""
        if self.card is None or not self.card.labels:
            return ()
        beside = Assets(lambda name: (self.directory / name).read_bytes(), self.card.assets)
        return read_labels(self.card, beside)

    def columns(self, fields: Sequence[Field]) -> list[str]:
        """The columns that its payloads are made of.

        Raises:
            InvalidInput: It has no task, or there is no column for it; the message names what it
                wants.
        """
        task = self.model.task
        if task is None:
            raise InvalidInput("the version has no card with a task: nothing says what it answers")
        if task.input == "features":
            return self._of_features(fields)
        kinds = ("text", "category") if task.input == "text" else (task.input,)
        for kind in kinds:  # a column of labels is read as text only where there is no other
            for name, found in fields:
                if found == kind:
                    return [name]
        raise InvalidInput(f"the data set has no column of kind '{task.input}'")

    def _of_features(self, fields: Sequence[Field]) -> list[str]:
        wanted = [name for name, _ in _listed(self.model.task)]
        names = [field.name for field in fields]
        arrays = [name for name, kind in fields if kind == "array"]
        if len(arrays) == 1 and self.card is not None and not set(wanted) & set(names):
            return arrays  # its values are the columns of the card
        missing = [name for name in wanted if name not in names]
        if missing:
            raise InvalidInput(
                f"the data set lacks the columns {', '.join(missing[:8])}; "
                f"it has {', '.join(names[:32])}"
            )
        return wanted

    def payloads(self, table: Table) -> list[Any]:
        """The rows as payloads of the version's task: records, texts, pictures, lists of values.

        Raises:
            InvalidInput: The table has no column for it; the message names those that it wants.
        """
        names = self.columns(table.fields)
        assert self.model.task is not None, "it has columns"
        if self.model.task.input != "features":
            return list(table[names[0]])
        if len(names) == 1 and table.kind(names[0]) == "array":
            return list(table[names[0]].reshape(table.rows, -1).astype(float).tolist())
        return _records(_listed(self.model.task), table)

    @property
    def rows_at_once(self) -> int:
        """Of one call: what is prepared for it lies in memory."""
        costly = bool(getattr(self.model.task, "costs", True))  # those that loop do not say
        return _COSTLY_ROWS if costly else _ROWS

    @property
    def params(self) -> dict[str, Any]:
        """Of its calls, so that it tells the scores of all labels, as far as it can."""
        of_pictures = self.card is not None and self.card.task == "image-classification"
        return {"top_k": min(len(self.labels), _MOST_LABELS)} if of_pictures else {}

    def answers(
        self, table: Table, progress: Callable[[int, int], object] = lambda done, rows: None
    ) -> Answers:
        """What it answers to every row: labels with scores, or values.

        Args:
            progress: Is called with the rows that are done, and all.
        """
        each = self.rows_at_once
        starts = range(0, table.rows, each)
        parts = (table.take(slice(start, start + each)) for start in starts)
        return self.answers_of(parts, table.rows, progress)

    def answers_of(
        self,
        parts: Iterable[Table],
        rows: int,
        progress: Callable[[int, int], object] = lambda done, rows: None,
    ) -> Answers:
        """The same, of rows that come part by part."""
        found, params = Gathered(), self.params
        for part in parts:
            found.add(self.predict(self.payloads(part), params))
            progress(found.rows, rows)
        return found.answers()


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


def _text(value: Any) -> str:
    """As a record has it; a column of integers with gaps holds them as floats."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _records(columns: Sequence[tuple[str, str]], table: Table) -> list[dict[str, Any]]:
    cells = {}
    for name, kind in columns:
        values = table[name].tolist()
        if kind in ("category", "text"):
            values = [None if value is None or value != value else _text(value) for value in values]
        else:
            values = [None if value != value else value for value in values]
        cells[name] = values
    names = list(cells)
    return [dict(zip(names, row, strict=True)) for row in zip(*cells.values(), strict=True)]
