"""How fast versions are, side by side: one thread each, in turn, round after round.

A machine is never quiet: what disturbs it disturbs all of them alike only if they take turns.
Latencies are of the call into the runtime with its checks, without HTTP and queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from aiaas_client.protocol.management import MODEL_FILE
from aiaas_server.core.model import LoadedModel
from aiaas_server.job_process.optimising.made import Feed
from aiaas_server.job_process.optimising.samples import batch_of
from aiaas_server.job_process.served import Served
from aiaas_server.runtimes.onnx import open_session

ROUNDS: Final = 7
BATCH: Final = 32
_LOADS: Final = 5
_SECONDS: Final = 0.03  # of one turn
_FEWEST: Final = 10  # calls of one turn, however slow


class Speed(NamedTuple):
    """Of one version on this machine.

    Attributes:
        load_ms: Median time to open the file.
        p50_ms, p99_ms: Latency of one row.
        rows_per_second: In batches as large as a server makes them, up to 32 rows.
        batch: Rows of such a batch; 1 where requests are not run together.
    """

    load_ms: float
    p50_ms: float
    p99_ms: float
    rows_per_second: float
    batch: int


def measure(
    versions: Mapping[str, Served],
    samples: Sequence[Feed],
    progress: Callable[[int, int], object] = lambda done, rounds: None,
) -> dict[str, Speed]:
    """Measure all of them, the parent first: it runs first in even rounds and last in odd ones."""
    loads = _loads({name: one.directory / MODEL_FILE for name, one in versions.items()})
    names = list(versions)
    joins = versions[names[0]].model.signature.max_batch_size > 0
    turns = {name: _Turn(one.model, samples, joins) for name, one in versions.items()}
    for at in range(ROUNDS):
        for name in names if at % 2 == 0 else reversed(names):
            turns[name].take()
        progress(at + 1, ROUNDS)
    return {
        name: Speed(loads[name], *turn.latencies(), turn.rate(), turn.batch)
        for name, turn in turns.items()
    }


def _loads(paths: Mapping[str, Path]) -> dict[str, float]:
    """Milliseconds to open each file; the median of several, in turns."""
    took: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(_LOADS):
        for name, path in paths.items():
            began = time.perf_counter()
            session = open_session(path, providers=("cpu",), intra_op_threads=1)
            took[name].append(1e3 * (time.perf_counter() - began))
            session.close()
    return {name: float(np.median(times)) for name, times in took.items()}


class _Turn:
    """One version that is measured.

    Args:
        joins: Whether samples have rows, as the parent takes them. A candidate whose rows are not
            independent gets them one by one: so a server runs them.
    """

    def __init__(self, model: LoadedModel, samples: Sequence[Feed], joins: bool) -> None:
        self._model = model
        self.batch = min(BATCH, max(model.signature.max_batch_size, 1))
        self._one = batch_of(samples, 1) if joins else samples[0]
        self._many = batch_of(samples, self.batch) if joins else samples[0]
        self._alone: list[float] = []
        self._together: list[float] = []
        for feed in (self._one, self._many):  # the first runs set up memory
            model.infer_now(feed)

    def take(self) -> None:
        """Measure for a moment."""
        self._alone += _timed(self._model, self._one)
        self._together += _timed(self._model, self._many)

    def latencies(self) -> tuple[float, float]:
        """Median and 99th percentile of one row, milliseconds."""
        p50, p99 = np.percentile(self._alone, [50, 99]).tolist()
        return 1e3 * p50, 1e3 * p99

    def rate(self) -> float:
        """Rows a second, by the median batch."""
        return self.batch / float(np.median(self._together))


def _timed(model: LoadedModel, feed: Feed) -> list[float]:
    found: list[float] = []
    end = time.perf_counter() + _SECONDS
    while True:
        began = time.perf_counter()
        model.infer_now(feed)
        now = time.perf_counter()
        found.append(now - began)
        if now >= end and len(found) >= _FEWEST:
            return found
