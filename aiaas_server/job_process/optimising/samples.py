"""What a version's graph gets for rows of a data set: through its own preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.events import Caller
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.job_process.optimising.made import Feed
from aiaas_server.job_process.served import Served
from aiaas_server.jobs.table import Table

_PIECE = 32  # rows of one sample


class _Seen:
    """A tap of the model: the tensors of each run, copied."""

    def __init__(self) -> None:
        self.feeds: list[dict[str, Array]] = []

    def __call__(self, inputs: Mapping[str, Array], outcome: Outcome, caller: Caller) -> None:
        self.feeds.append({name: array.copy() for name, array in inputs.items()})


def samples_of(served: Served, table: Table) -> list[Feed]:
    """Tensors of the rows, in pieces of few rows where the model takes several.

    Raises:
        InvalidInput: The table lacks a column.
    """
    scheduler = served.model.scheduler
    before, seen = scheduler.tap, _Seen()
    scheduler.tap = seen
    try:
        served.predict(served.payloads(table))
    finally:
        scheduler.tap = before
    if not served.model.signature.max_batch_size:
        return list(seen.feeds)
    return [piece for feed in seen.feeds for piece in _pieces(feed)]


def _pieces(feed: Feed) -> list[Feed]:
    rows = len(next(iter(feed.values())))
    return [
        {name: array[at : at + _PIECE] for name, array in feed.items()}
        for at in range(0, rows, _PIECE)
    ]


def batch_of(samples: Sequence[Feed], rows: int) -> Feed:
    """So many rows of the first sample, repeated as often as it takes."""
    first = samples[0]
    there = len(next(iter(first.values())))
    return {name: array[np.arange(rows) % there] for name, array in first.items()}
