"""Counts of one process as plain documents, and the sum over several.

Counters and gauges of models are added over processes (`last_inference_ms` is the latest); what
only makes sense of one process, such as its memory, stays apart and is labelled with its worker.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from aiaas_server.core.measures import Family, family_of
from aiaas_server.core.pool.memory import resident_bytes
from aiaas_server.core.statistics import Statistics

GAUGES = ("pending", "memory_bytes", "load_ns")
"""Counts that end with their process; all others are cumulative and outlive it in the sums."""

LATEST = ("last_inference_ms", "load_ns")
"""Counts of which the greatest stands for all processes."""

OWN = "batch_curve"
"""What cannot be added: that of one process stands for all, and ends with it."""

Key = tuple[str, int]  # model name, version
Plain = dict[str, Any]

_STARTED = time.time()


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """What one process takes of the machine.

    Attributes:
        worker: Its number from 1; empty when it is the only one.
        started: Seconds since the epoch.
        cpu_seconds: CPU time in user and system mode since then.
        resident_bytes: Memory; 0 where the system does not tell.
        open_fds: Descriptors; 0 where the system does not tell.
    """

    worker: str
    started: float
    cpu_seconds: float
    resident_bytes: int
    open_fds: int

    @classmethod
    def now(cls, worker: str = "") -> Self:
        """Those of this process."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        return cls(worker, _STARTED, cpu, resident_bytes(), _open_descriptors())


@dataclass(frozen=True, slots=True)
class Totals:
    """The counts of the whole server.

    Attributes:
        statistics: By model and version.
        refusals: Error answers by code.
        processes: One entry a running process.
        families: What further parts tell.
    """

    statistics: Mapping[Key, Statistics]
    refusals: Mapping[str, int]
    processes: Sequence[ProcessFacts] = field(default_factory=tuple)
    families: Sequence[Family] = ()

    def as_json(self) -> Plain:
        """For another process; `from_json` reads it."""
        return {
            "models": [[*key, taken(counts)] for key, counts in self.statistics.items()],
            "refusals": dict(self.refusals),
            "processes": [asdict(process) for process in self.processes],
            "families": [family.plain() for family in self.families],
        }

    @classmethod
    def from_json(cls, document: Plain) -> Self:
        """Read what `as_json` wrote."""
        models = {(name, version): restored(c) for name, version, c in document["models"]}
        processes = tuple(ProcessFacts(**process) for process in document["processes"])
        families = tuple(family_of(plain) for plain in document.get("families", ()))
        return cls(models, document["refusals"], processes, families)


def taken(statistics: Statistics) -> Plain:
    """All counters of `statistics` as numbers, lists and objects."""
    return {name: getattr(statistics, name) for name in Statistics.__slots__}


def restored(plain: Plain) -> Statistics:
    """Statistics with the counters of `plain`."""
    statistics = Statistics()
    for name in Statistics.__slots__:
        if name in plain:
            setattr(statistics, name, plain[name])
    statistics.batches = {int(rows): batch for rows, batch in plain["batches"].items()}
    return statistics


def added(left: Plain, right: Plain) -> Plain:
    """The sum of two documents of `taken`, counter by counter."""
    latest = {name: max(left[name], right[name]) for name in LATEST}
    own = left.get(OWN) or right.get(OWN) or {}
    # Taken out before: those of two processes need not even be alike.
    summed = _sum({**left, OWN: {}}, {**right, OWN: {}})
    return {**summed, **latest, OWN: own}


def outlived(plain: Plain) -> Plain:
    """What remains of a process's counts when it has ended: all but the gauges."""
    return {**plain, **dict.fromkeys(GAUGES, 0), OWN: {}}


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, dict):
        return {key: _sum_of_member(left, right, key) for key in {**left, **right}}
    if isinstance(left, list):
        return [_sum(a, b) for a, b in zip(left, right, strict=True)]
    return left + right


def _sum_of_member(left: Plain, right: Plain, key: str) -> Any:
    if key not in left:
        return right[key]
    return _sum(left[key], right[key]) if key in right else left[key]


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path.iterdir costs far more here
    except OSError:
        return 0
