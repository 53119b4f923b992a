"""What becomes of every request of a version: counted, and told to the observers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import (
    DeadlineExceeded,
    Draining,
    InvalidInput,
    ModelUnavailable,
    QueueFull,
    QueueTimeout,
    ServerError,
)
from aiaas_server.core.events import CALLER, Caller, Ending, InferenceRecord, Observer, Units
from aiaas_server.core.schedule.requests import Outcome, Request, Tap
from aiaas_server.core.signature import total_bytes
from aiaas_server.core.statistics import FailureReason, Statistics

_log = logging.getLogger("aiaas_server")
_units = lru_cache(1024)(Units)
NOTHING: Final[Mapping[str, Array]] = {}
Sizes = tuple[int, int]
"""Bytes of tensors, in and out."""
_REJECTED: Final = (DeadlineExceeded, Draining, ModelUnavailable, QueueFull, QueueTimeout)


class Accounts:
    """Counts into the statistics of one version, and tells its observers.

    A request is told of once: by `answered` or `failed` if it was accepted, by `failed_alone` or
    `tell_alone` if it never queued, by `refused`, or by `hit`.

    Attributes:
        observers: Who looks on.
        tap: Who sees the tensors, if anybody does.
    """

    def __init__(
        self,
        name: str,
        version: int,
        statistics: Statistics,
        observers: Sequence[Observer],
        owner: str = "default",
    ) -> None:
        self._owner = owner
        self._name = name
        self._version = version
        self._statistics = statistics
        self.observers = tuple(observers)
        self.tap: Tap | None = None

    def executed(self, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """One successful run over `rows` items."""
        self._statistics.executed(rows, input_ns, infer_ns, output_ns)

    def accepted(self, request: Request) -> None:
        """`request` waits for its answer from now on."""
        self._statistics.pending += 1
        if self.observers or self.tap is not None:
            request.caller = CALLER.get()

    def answered(self, request: Request, outcome: Outcome, total_ns: int) -> None:
        """An accepted request gets `outcome`, `total_ns` after it was accepted."""
        self._statistics.pending -= 1
        queue_ns = outcome.queue_ns
        self._statistics.succeeded(
            request.rows,
            total_ns,
            queue_ns,
            outcome.input_ns,
            outcome.infer_ns,
            outcome.output_ns,
        )
        if self.observers:
            rows, ran_ns = outcome.batch_rows, outcome.compute_ns
            units = _units(request.rows, 0, 0, request.size, total_bytes(outcome.outputs))
            self._tell(units, rows, queue_ns, ran_ns, total_ns, None, request.caller)
        if self.tap is not None:
            self.show(request.inputs, outcome, request.caller)

    def failed(self, request: Request, error: ServerError | None, total_ns: int) -> None:
        """An accepted request gets `error`; None when its caller has gone."""
        self._statistics.pending -= 1
        reason = self._count_failure(error, total_ns)
        if self.observers:
            ran = _run_of(request, total_ns)
            ending: Ending = "abandoned" if ran and _left(error) else "failed"
            units = _units(request.rows, 0, 0, request.size, 0)
            run = ran or (0, total_ns, 0)
            self._tell(units, *run, total_ns, reason, request.caller, ending)

    def tell_alone(self, inputs: Mapping[str, Array], outcome: Outcome) -> None:
        """Tell of a request that was run the moment it came; it is counted by the caller."""
        rows, took_ns = outcome.batch_rows, outcome.infer_ns
        units = _units(rows, 0, 0, total_bytes(inputs), total_bytes(outcome.outputs))
        self._tell(units, rows, 0, took_ns, took_ns, None)

    def failed_alone(
        self,
        rows: int,
        error: ServerError,
        took_ns: int,
        inputs: Mapping[str, Array] = NOTHING,
    ) -> ServerError:
        """A request that was run the moment it came has failed; gives `error` back.

        Args:
            inputs: Of one that has run, and whose caller did not wait so long.
        """
        reason = self._count_failure(error, took_ns)
        if self.observers:
            ending: Ending = "abandoned" if _left(error) else "failed"
            units = _units(rows, 0, 0, total_bytes(inputs), 0)
            self._tell(units, rows, 0, took_ns, took_ns, reason, ending=ending)
        return error

    def refused(self, error: ServerError) -> ServerError:
        """A request was not accepted; gives `error` back, to be raised."""
        reason = self._count_failure(error, 0)
        if self.observers:
            self._tell(_units(0), 0, 0, 0, 0, reason, ending="failed")
        return error

    def hit(self, rows: int, sizes: Sizes, total_ns: int) -> None:
        """A request was answered from the response cache."""
        self._statistics.hit(total_ns)
        if self.observers:
            self._tell(_units(rows, 0, 0, *sizes), 0, 0, 0, total_ns, None, ending="cached")

    def show(
        self, inputs: Mapping[str, Array], outcome: Outcome, caller: Caller | None = None
    ) -> None:
        """Show the tap an answered request; who asked is the caller of this task by default."""
        tap = self.tap
        who = CALLER.get() if caller is None else caller
        if tap is None or who.shadow:
            return
        try:
            tap(inputs, outcome, who)
        except Exception:  # whoever looks on must not cost the caller the answer
            _log.exception("the tap of model '%s' failed", self._name)

    def _count_failure(self, error: ServerError | None, total_ns: int) -> FailureReason:
        reason = _reason(error)
        self._statistics.failed(reason, total_ns)
        return reason

    def _tell(
        self,
        units: Units,
        batch_rows: int,
        queue_ns: int,
        compute_ns: int,
        total_ns: int,
        failure: FailureReason | None,
        caller: Caller | None = None,
        ending: Ending = "answered",
    ) -> None:
        record = InferenceRecord(
            self._name,
            self._version,
            units,
            batch_rows,
            queue_ns / 1e9,
            compute_ns / 1e9,
            total_ns / 1e9,
            failure,
            CALLER.get() if caller is None else caller,
            ending,
            compute_ns * units.rows // batch_rows if batch_rows else 0,
            owner=self._owner,
        )
        for observer in self.observers:
            try:
                observer(record)
            except Exception:  # whoever looks on must not cost the caller the answer
                _log.exception("an observer of model '%s' failed", self._name)


def past_deadline(model: str) -> DeadlineExceeded:
    """What a request is told whose deadline passed before its answer was ready."""
    return DeadlineExceeded(f"the deadline passed before model '{model}' answered")


def _left(error: ServerError | None) -> bool:
    """Whether nobody waits for the answer any more, rather than that there is none."""
    return error is None or isinstance(error, DeadlineExceeded)


def _run_of(request: Request, total_ns: int) -> tuple[int, int, int] | None:
    """Items, ns in the queue and ns of the run that `request` was part of; None without a run.

    Of a run that goes on, what it has taken so far.
    """
    if isinstance(request.answer, Outcome):  # ready, and held too long
        return request.answer.batch_rows, request.answer.queue_ns, request.answer.compute_ns
    batch = request.batch
    if batch is None or not batch.started_ns:
        return None
    queue_ns = batch.started_ns - request.accepted_ns
    return batch.rows, queue_ns, batch.compute_ns or total_ns - queue_ns


def _reason(error: ServerError | None) -> FailureReason:
    if error is None:
        return "CANCELED"
    if isinstance(error, _REJECTED):
        return "REJECTED"
    return "OTHER" if isinstance(error, InvalidInput) else "BACKEND"
