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
from aiaas_server.core.events import CALLER, Caller, InferenceRecord, Observer, Units
from aiaas_server.core.schedule.requests import Outcome, Request, Tap
from aiaas_server.core.statistics import FailureReason, Statistics

_log = logging.getLogger("aiaas_server")
_units = lru_cache(1024)(Units)
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
            self._tell(request.rows, rows, queue_ns, ran_ns, total_ns, None, request.caller)
        if self.tap is not None:
            self.show(request.inputs, outcome, request.caller)

    def failed(self, request: Request, error: ServerError | None, total_ns: int) -> None:
        """An accepted request gets `error`; None when its caller has gone."""
        self._statistics.pending -= 1
        reason = self._count_failure(error, total_ns)
        if self.observers:
            ran = _run_of(request) or (0, total_ns, 0)
            self._tell(request.rows, *ran, total_ns, reason, request.caller)

    def tell_alone(self, rows: int, took_ns: int) -> None:
        """Tell of a request that was run the moment it came; it is counted by the caller."""
        self._tell(rows, rows, 0, took_ns, took_ns, None)

    def failed_alone(self, rows: int, error: ServerError, took_ns: int) -> None:
        """A request that was run the moment it came has failed."""
        reason = self._count_failure(error, took_ns)
        if self.observers:
            self._tell(rows, rows, 0, took_ns, took_ns, reason)

    def refused(self, error: ServerError) -> ServerError:
        """A request was not accepted; gives `error` back, to be raised."""
        reason = self._count_failure(error, 0)
        if self.observers:
            self._tell(0, 0, 0, 0, 0, reason)
        return error

    def hit(self, rows: int, total_ns: int) -> None:
        """A request was answered from the response cache."""
        self._statistics.hit(total_ns)
        if self.observers:
            self._tell(rows, 0, 0, 0, total_ns, None)

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
        rows: int,
        batch_rows: int,
        queue_ns: int,
        compute_ns: int,
        total_ns: int,
        failure: FailureReason | None,
        caller: Caller | None = None,
    ) -> None:
        record = InferenceRecord(
            self._name,
            self._version,
            _units(rows),
            batch_rows,
            queue_ns / 1e9,
            compute_ns / 1e9,
            total_ns / 1e9,
            failure,
            CALLER.get() if caller is None else caller,
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


def _run_of(request: Request) -> tuple[int, int, int] | None:
    """Items, ns in the queue and ns of the run that `request` was part of; None without a run."""
    if isinstance(request.answer, Outcome):  # ready, and held too long
        return request.answer.batch_rows, request.answer.queue_ns, request.answer.compute_ns
    batch = request.batch
    if batch is None or not batch.started_ns:
        return None
    return batch.rows, batch.started_ns - request.accepted_ns, batch.compute_ns


def _reason(error: ServerError | None) -> FailureReason:
    if error is None:
        return "CANCELED"
    if isinstance(error, _REJECTED):
        return "REJECTED"
    return "OTHER" if isinstance(error, InvalidInput) else "BACKEND"
