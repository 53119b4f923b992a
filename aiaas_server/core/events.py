"""One record of every request, for those who want to look on."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple, Protocol

from .statistics import FailureReason


class Origin(NamedTuple):
    """Who asks, as far as the caller said.

    Attributes:
        request_id: The id under which the caller and the log know the request.
        traceparent: W3C trace context of the caller, well-formed, or "".
        tracestate: What belongs to it, or "".
    """

    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""


NOBODY = Origin()
ORIGIN: ContextVar[Origin] = ContextVar("aiaas_origin", default=NOBODY)
"""Of the request that this task answers; read when it is accepted."""


class InferenceRecord(NamedTuple):
    """One request, answered or failed.

    Attributes:
        rows: Items in the request.
        batch_rows: Items in the execution it was part of, 0 if it never ran.
        queue_seconds: Acceptance to start of the execution.
        compute_seconds: The execution: input, run and output.
        total_seconds: Acceptance to answer.
        failure: None when it succeeded.
        origin: Who asked.
    """

    model: str
    version: int
    rows: int
    batch_rows: int
    queue_seconds: float
    compute_seconds: float
    total_seconds: float
    failure: FailureReason | None
    origin: Origin = NOBODY


class Observer(Protocol):
    """Called on the event loop once a request, before its answer leaves; must be quick."""

    def __call__(self, record: InferenceRecord) -> None: ...
