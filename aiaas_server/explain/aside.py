"""`Aside`: runs rows of a version when nobody else wants it.

A piece at a time: before each, callers go first, and nothing is handed in while anything waits or
runs. In the queue it has the lowest priority. Pieces are as long as a run that takes a few
milliseconds, which is the longest that a caller who comes meanwhile has to wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aiaas_server.core.errors import ModelUnavailable, QueueFull
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.batching import concat
from aiaas_server.core.schedule.requests import Outcome

Array = npt.NDArray[Any]

PAUSE: Final = 0.001
"""Seconds before each piece, and between two looks at a model that is busy."""
FIRST_ROWS: Final = 16
MOST_ROWS: Final = 4096
SHORT_NS, LONG_NS = 4_000_000, 16_000_000
"""A run below makes the next piece longer, one above shorter."""


class Aside:
    """Runs of one version.

    Attributes:
        rows: Run so far.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._piece = FIRST_ROWS
        self.rows = 0

    @property
    def model(self) -> LoadedModel:
        """The version, or what has taken its place in a reload."""
        while self._model.successor is not None:
            self._model = self._model.successor
        return self._model

    async def run(
        self, tensors: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """The outputs of any number of rows, rows first, as of a model that batches.

        Args:
            tensors: Rows first, also where the model takes one at a time and without them.
        Raises:
            ServerError: As `Scheduler.submit`, but for a full queue, which is waited for.
        """
        rows = len(next(iter(tensors.values())))
        parts: list[dict[str, Array]] = []
        start = 0
        while start < rows:
            batched = self.model.signature.max_batch_size
            size = min(self._piece, batched) if batched else 1
            some = {name: array[start : start + size] for name, array in tensors.items()}
            start += size
            if batched:
                parts.append((await self._turn(some, outputs)).outputs)
            else:
                one = {name: array[0] for name, array in some.items()}
                made = (await self._turn(one, outputs)).outputs
                parts.append({name: np.asarray(array)[None] for name, array in made.items()})
        return concat(parts)

    async def _turn(self, tensors: Mapping[str, Array], outputs: Sequence[str]) -> Outcome:
        while True:
            await asyncio.sleep(PAUSE)
            model = self.model
            if model.scheduler.pending:
                continue
            rows = model.signature.check(tensors)
            names = model.signature.select(outputs)
            batching = model.config.dynamic_batching
            lowest = 0 if batching is None else batching.priority_levels
            try:
                outcome = await model.scheduler.submit(tensors, names, rows, lowest)
            except QueueFull:
                continue
            except ModelUnavailable:
                if model.successor is None:
                    raise
                continue
            self.rows += rows
            self._learn(rows, outcome)
            return outcome

    def _learn(self, rows: int, outcome: Outcome) -> None:
        if outcome.infer_ns > LONG_NS:
            self._piece = max(self._piece // 2, 1)
        elif outcome.infer_ns < SHORT_NS and rows >= self._piece:
            self._piece = min(self._piece * 2, MOST_ROWS)
