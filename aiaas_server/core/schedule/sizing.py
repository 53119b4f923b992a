"""How large the batches of a version should be: its batch curve, in a unit that fits its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic_ns, thread_time_ns
from typing import Literal

from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.schedule.requests import Batch, Request
from aiaas_server.core.statistics import Statistics

Clock = Callable[[], int]
Unit = Literal["rows", "elements", "bytes"]

_TELL = 16  # runs between two entries into the statistics, which cost as much as a tiny run


def clock_of(providers: Sequence[str], threads: int) -> Clock:
    """What to measure runs by.

    Where a run is the work of one thread, that thread's own time tells what the run costs, however
    busy the machine is; elsewhere only the time by the clock does.
    """
    lone = threads == 1 and set(providers) <= {"CPUExecutionProvider"}
    return thread_time_ns if lone else monotonic_ns


class Sizing:
    """What is known of one version, kept in its statistics too.

    Args:
        unit: What a size counts: rows where all have one shape, elements where they are padded to
            one length, and bytes of input where shapes differ and only equal ones are joined. So
            one curve tells of all shapes: it is the amount of data that counts.

    Attributes:
        curve: By sizes in that unit.
        clock: Tells the ns that a run took, in the thread that makes it.
    """

    def __init__(
        self,
        unit: Unit,
        curve: BatchCurve,
        statistics: Statistics,
        clock: Clock = monotonic_ns,
    ) -> None:
        self.curve = curve
        self.clock = clock
        self._unit = unit
        self._statistics = statistics
        self._runs = 0
        self._tell()

    def of_row(self, request: Request) -> int:
        """The size of a row of `request`; 0 where there is nothing to compare it with."""
        if self._unit == "rows":
            return 1
        if self._unit == "elements":
            return request.length
        return request.size // (request.rows or 1)

    def measured(self, batch: Batch) -> None:
        """Take note that `batch` ran.

        A model whose largest batches pay and run on the event loop is as quick as it can be:
        noting that would cost it a part of what there is to gain.
        """
        if not batch.work_ns and self.curve.is_full:
            return
        rows = batch.rows + batch.spare
        if self._unit == "rows":
            size = rows
        elif self._unit == "elements":
            size = rows * batch.length
        else:
            size = batch.size * rows // (batch.rows or 1)
        if not size:
            return
        before = self.curve.cap
        self.curve.measured(size, batch.work_ns or batch.compute_ns)
        self._runs += 1
        if self.curve.cap != before or self._runs % _TELL == 0:
            self._tell()

    def _tell(self) -> None:
        curve = self.curve
        if curve.cap:
            points = [{"size": size, "ns": ns} for size, ns in curve.points().items()]
            self._statistics.batch_curve = {"unit": self._unit, "cap": curve.cap, "points": points}
