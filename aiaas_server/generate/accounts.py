"""What becomes of every answer: counted, told to the observers, and shown on the metrics page."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aiaas_server.core.errors import (
    DeadlineExceeded,
    Draining,
    InvalidInput,
    ModelUnavailable,
    QueueFull,
)
from aiaas_server.core.events import Caller, Ending, InferenceRecord, Units
from aiaas_server.core.generation import Served
from aiaas_server.core.statistics import FailureReason

_log = logging.getLogger("aiaas_server")
_REJECTED: Final = (DeadlineExceeded, Draining, ModelUnavailable, QueueFull)

DURATIONS: Final = tuple(0.01 * 2**power for power in range(14))
"""Upper bounds of a request's time and of the time to its first token, seconds."""
PER_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""Of the time of each further token. Source of both: OpenTelemetry's conventions for GenAI."""


class Times:
    """How often it took how long; written by one thread.

    Attributes:
        counts: One for each bound and one above them, not cumulative.
        total: Seconds, of all.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


@dataclass(slots=True)
class Counts:
    """Numbers of one generator since it was opened; each is written by one thread.

    Attributes:
        tokens_in: Of the prompts that were accepted.
        tokens_out: Of the answers.
        tokens_cached: Of the prompts, found in the cache.
        guessed: Tokens guessed ahead; `guessed_right` those that were kept.
        preemptions: Answers whose slot was taken, to be worked out anew.
        running: Answers that have a slot; `waiting` those that have none.
        network: What the network tells of its memory.
        first_token: Acceptance to the first token.
        each_token: Time of each token behind it, averaged over an answer.
        requests: Acceptance to the end of answers that were complete.
    """

    slots: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    guessed: int = 0
    guessed_right: int = 0
    preemptions: int = 0
    running: int = 0
    waiting: int = 0
    network: Mapping[str, float] = field(default_factory=dict)
    first_token: Times = field(default_factory=lambda: Times(DURATIONS))
    each_token: Times = field(default_factory=lambda: Times(PER_TOKEN))
    requests: Times = field(default_factory=lambda: Times(DURATIONS))


@dataclass(slots=True)
class Course:
    """How one answer went; times of `time.monotonic_ns`, 0 where it did not come to that.

    Attributes:
        rows: Answers in the largest step that it was part of.
        ran_ns: Time of the runs that it was part of.
        own_ns: Its part of that, the others of each run having theirs.
    """

    caller: Caller
    tokens_in: int
    accepted_ns: int = field(default_factory=time.monotonic_ns)
    admitted_ns: int = 0
    first_ns: int = 0
    last_ns: int = 0
    tokens_out: int = 0
    rows: int = 0
    ran_ns: int = 0
    own_ns: int = 0


class Accounts:
    """Counts answers into the statistics of one version, and tells its observers; on the loop."""

    def __init__(self, served: Served, counts: Counts) -> None:
        self._served = served
        self._counts = counts

    def accepted(self, course: Course) -> None:
        """An answer will be written."""
        self._served.statistics.pending += 1
        self._counts.tokens_in += course.tokens_in

    def refused(self, error: Exception, caller: Caller) -> Exception:
        """None will be written; gives `error` back, to be raised."""
        reason = _reason(error)
        self._served.statistics.failed(reason, 0)
        self._tell(Course(caller, 0), 0, 0, 0, reason)
        return error

    def ended(self, course: Course, error: Exception | None, *, cancelled: bool) -> None:
        """An answer that was accepted is over."""
        now = time.monotonic_ns()
        total = now - course.accepted_ns
        queued = (course.admitted_ns or now) - course.accepted_ns
        statistics = self._served.statistics
        statistics.pending -= 1
        reason: FailureReason | None = None
        if error is None and not cancelled:
            statistics.succeeded(1, total, queued, 0, course.ran_ns, 0)
            self._counts.requests.add(total / 1e9)
        else:
            reason = "CANCELED" if error is None else _reason(error)
            statistics.failed(reason, total)
        if course.tokens_out > 1:
            took = (course.last_ns - course.first_ns) / 1e9
            self._counts.each_token.add(took / (course.tokens_out - 1))
        if course.first_ns:
            self._counts.first_token.add((course.first_ns - course.accepted_ns) / 1e9)
        left = error is None or isinstance(error, DeadlineExceeded)
        ran: Ending = "abandoned" if course.ran_ns and left else "failed"
        self._tell(course, 1, queued, total, reason, "answered" if reason is None else ran)

    def _tell(
        self,
        course: Course,
        rows: int,
        queue_ns: int,
        total_ns: int,
        failure: FailureReason | None,
        ending: Ending = "failed",
    ) -> None:
        record = InferenceRecord(
            self._served.name,
            self._served.version,
            Units(rows, course.tokens_in, course.tokens_out),
            course.rows,
            queue_ns / 1e9,
            course.ran_ns / 1e9,
            total_ns / 1e9,
            failure,
            course.caller,
            ending,
            course.own_ns,
            owner=self._served.owner,
        )
        for observer in self._served.observers:
            try:
                observer(record)
            except Exception:  # whoever looks on must not cost the caller the answer
                _log.exception("an observer of model '%s' failed", self._served.name)


def _reason(error: Exception) -> FailureReason:
    if isinstance(error, _REJECTED):
        return "REJECTED"
    return "OTHER" if isinstance(error, InvalidInput) else "BACKEND"
