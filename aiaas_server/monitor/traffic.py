"""How much a version is called, how it fails and where the time goes: counts that add up.

Latencies are counted in fixed bins, ten a decade from 10 us to 100 s, the same in every process:
windows and nodes are merged by adding, and a quantile is right to a tenth of a decade at worst.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self

import numpy as np

from aiaas_client.protocol.monitoring import Latency
from aiaas_server.core.events import InferenceRecord

Phase = Literal["total", "queue", "preprocess", "compute", "postprocess"]
PHASES: Final[tuple[Phase, ...]] = ("total", "queue", "preprocess", "compute", "postprocess")

_DECADE: Final = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)  # the R10 series
BOUNDS: Final = np.array([step * 10.0**power for power in range(-5, 2) for step in _DECADE])
"""Upper bounds in seconds; one more bin holds what is above."""

Document = dict[str, Any]


class Histogram:
    """Latencies of one phase.

    Attributes:
        counts: One for each of `BOUNDS`, and one above them.
        seconds: Their sum.
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = np.zeros(len(BOUNDS) + 1, np.int64)
        self.seconds = 0.0

    def add(self, seconds: np.ndarray) -> None:
        """Count some latencies."""
        places = np.searchsorted(BOUNDS, seconds, side="left")
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.seconds += float(seconds.sum())

    def merge(self, other: Histogram) -> None:
        """Add what another has counted."""
        self.counts += other.counts
        self.seconds += other.seconds

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """The latency in seconds that `share` of them do not exceed; 0 where there are none."""
        cumulated = np.cumsum(self.counts)
        total = int(cumulated[-1])
        if not total:
            return 0.0
        place = int(np.searchsorted(cumulated, share * total, side="left"))
        if place >= len(BOUNDS):
            return float(BOUNDS[-1])
        low = float(BOUNDS[place - 1]) if place else 0.0
        before = int(cumulated[place - 1]) if place else 0
        within = (share * total - before) / int(self.counts[place])
        return low + (float(BOUNDS[place]) - low) * within

    def told(self) -> Latency:
        """As it is told."""
        count = self.count
        return Latency(
            count=count,
            mean=self.seconds / count if count else 0.0,
            p50=self.quantile(0.5),
            p90=self.quantile(0.9),
            p99=self.quantile(0.99),
        )


class Traffic:
    """Counts of one version over some time.

    Attributes:
        requests: Answered and failed.
        rows: Items of those that were answered.
        failures: By reason.
        phases: Latencies of answered requests; of payloads, also before and after the model.
        batches: Requests by the size of the run they were part of, rounded up to a power of two.
        unseen: Answered requests whose tensors were not looked at, for want of time or room.
    """

    __slots__ = ("batches", "failures", "phases", "requests", "rows", "unseen")

    def __init__(self) -> None:
        self.requests = self.rows = self.unseen = 0
        self.failures: Counter[str] = Counter()
        self.batches: Counter[int] = Counter()
        self.phases: dict[Phase, Histogram] = {}

    def phase(self, name: Phase) -> Histogram:
        """The latencies of a phase."""
        found = self.phases.get(name)
        if found is None:
            found = self.phases[name] = Histogram()
        return found

    def add(self, records: Sequence[InferenceRecord]) -> None:
        """Count some requests of this version."""
        self.requests += len(records)
        answered = [record for record in records if record.failure is None]
        if len(answered) < len(records):
            self.failures.update([r.failure for r in records if r.failure is not None])
        if not answered:
            return
        self.rows += sum([record.units.rows for record in answered])
        times = np.array([(r.total_seconds, r.queue_seconds, r.compute_seconds) for r in answered])
        self.phase("total").add(times[:, 0])
        self.phase("queue").add(times[:, 1])
        self.phase("compute").add(times[:, 2])
        sizes = Counter([record.batch_rows for record in answered if record.batch_rows])
        for rows, count in sizes.items():
            self.batches[1 << (rows - 1).bit_length()] += count

    def merge(self, other: Traffic) -> None:
        """Add what another has counted."""
        self.requests += other.requests
        self.rows += other.rows
        self.unseen += other.unseen
        self.failures += other.failures
        self.batches += other.batches
        for name, histogram in other.phases.items():
            self.phase(name).merge(histogram)

    @property
    def failed(self) -> int:
        """Requests that failed, whoever is to blame."""
        return sum(self.failures.values())

    @property
    def faults(self) -> int:
        """Requests that failed by the model's or the server's fault: it was not the caller's."""
        return self.failures["BACKEND"] + self.failures["REJECTED"]

    def document(self) -> Document:
        """As it is kept; empty bins are left out."""
        return {
            "requests": self.requests,
            "rows": self.rows,
            "unseen": self.unseen,
            "failures": dict(self.failures),
            "batches": {str(size): count for size, count in self.batches.items()},
            "phases": {
                name: {
                    "seconds": histogram.seconds,
                    "counts": {
                        str(place): int(histogram.counts[place])
                        for place in np.flatnonzero(histogram.counts)
                    },
                }
                for name, histogram in self.phases.items()
            },
        }

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Read what `document` wrote."""
        found = cls()
        found.requests = document["requests"]
        found.rows = document["rows"]
        found.unseen = document["unseen"]
        found.failures.update(document["failures"])
        found.batches.update({int(size): count for size, count in document["batches"].items()})
        for name, plain in document["phases"].items():
            histogram = found.phase(name)
            histogram.seconds = plain["seconds"]
            for place, count in plain["counts"].items():
                histogram.counts[int(place)] = count
        return found
