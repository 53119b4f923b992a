"""One table from what went wrong to what the client is told.

Domain errors carry no status code; `ROWS` gives each its status, code and whether trying again
can help. `HttpError` is for what only HTTP knows: routes, methods, headers, codings.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from starlette.exceptions import HTTPException

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import CodecError
from aiaas_server.core import errors as core
from aiaas_server.observe.tracing import current_traceparent

logger = logging.getLogger("aiaas_server")

Header = tuple[bytes, bytes]
MAX_TEXT = 512


class HttpError(Exception):
    """A refusal that HTTP itself decides, with its status and extra headers."""

    def __init__(
        self,
        status: int,
        code: ErrorCode,
        message: str,
        *,
        headers: tuple[Header, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers
        self.retry_after = retry_after


def bad_request(message: str) -> HttpError:
    """A 400 that says what was expected."""
    return HttpError(400, ErrorCode.INVALID_REQUEST, message)


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is told: status, code, and whether the same request may be retried."""

    status: int
    code: ErrorCode
    retryable: bool = False
    tells_when: bool = False  # answers carry Retry-After


ROWS: Mapping[type[core.ServerError], Row] = {
    core.InvalidInput: Row(400, ErrorCode.INVALID_REQUEST),
    core.ModelNotReady: Row(400, ErrorCode.MODEL_NOT_READY),
    core.LoadFailed: Row(400, ErrorCode.LOAD_FAILED),
    core.NotAllowed: Row(403, ErrorCode.FORBIDDEN),
    core.ModelNotFound: Row(404, ErrorCode.MODEL_NOT_FOUND),
    core.VersionNotFound: Row(404, ErrorCode.VERSION_NOT_FOUND),
    core.NotFound: Row(404, ErrorCode.NOT_FOUND),
    core.Conflict: Row(409, ErrorCode.CONFLICT),
    core.StaleRevision: Row(412, ErrorCode.PRECONDITION_FAILED),
    core.PayloadTooLarge: Row(413, ErrorCode.PAYLOAD_TOO_LARGE),
    core.OutputTooLarge: Row(422, ErrorCode.OUTPUT_TOO_LARGE),
    core.LimitReached: Row(429, ErrorCode.RATE_LIMITED, True, True),
    core.QuotaExceeded: Row(429, ErrorCode.QUOTA_EXCEEDED, False, True),
    core.BudgetExceeded: Row(429, ErrorCode.BUDGET_EXCEEDED, False, True),
    core.ModelCrashed: Row(500, ErrorCode.MODEL_CRASHED),
    core.InferenceFailed: Row(500, ErrorCode.INFERENCE_FAILED),
    core.OutOfMemory: Row(422, ErrorCode.INFERENCE_FAILED),
    core.Rejected: Row(422, ErrorCode.MODEL_REJECTED),
    core.NotSupported: Row(501, ErrorCode.NOT_SUPPORTED),
    core.ControlDisabled: Row(503, ErrorCode.CONTROL_DISABLED),
    core.ModelUnavailable: Row(503, ErrorCode.MODEL_UNAVAILABLE, True, True),
    core.QueueFull: Row(503, ErrorCode.QUEUE_FULL, True, True),
    core.QueueTimeout: Row(503, ErrorCode.QUEUE_TIMEOUT, True, True),
    core.Draining: Row(503, ErrorCode.DRAINING, True, True),
    core.StateUnavailable: Row(503, ErrorCode.STATE_UNAVAILABLE, True, True),
    core.StorageFull: Row(507, ErrorCode.STORAGE_FULL),
    core.DeadlineExceeded: Row(504, ErrorCode.DEADLINE_EXCEEDED, True),
}

_RETRYABLE_STATUSES = frozenset({408, 429, 503})
_STATUS_CODES: Mapping[int, ErrorCode] = {
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it goes out: status, body fields, extra headers."""

    status: int
    code: ErrorCode
    message: str
    retryable: bool = False
    headers: tuple[Header, ...] = ()

    def body(self, request_id: str) -> bytes:
        """Write the JSON error body; the text is cut at 512 characters."""
        text = self.message[:MAX_TEXT].encode("utf-8", "replace").decode()
        return orjson.dumps(
            {
                "error": text,
                "code": self.code.value,
                "retryable": self.retryable,
                "request_id": request_id,
            }
        )


def problem_of(error: Exception, request_id: bytes = b"") -> Problem:
    """Translate any exception.

    What is not known is a 500 that tells nothing; the log has it, with the request's id and trace.
    """
    if isinstance(error, core.ServerError):
        return _from_row(error)
    if isinstance(error, CodecError):
        return _from_codec(error)
    if isinstance(error, HttpError):
        headers = error.headers + _retry_after(error.retry_after)
        retryable = error.status in _RETRYABLE_STATUSES
        return Problem(error.status, error.code, error.message, retryable, headers)
    if isinstance(error, HTTPException):
        code = _STATUS_CODES.get(error.status_code, ErrorCode.INVALID_REQUEST)
        extra = tuple((k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items())
        return Problem(error.status_code, code, str(error.detail), headers=extra)
    logger.error(
        "unexpected error, request %s, trace %s",
        request_id.decode("ascii"),
        current_traceparent() or "-",
        exc_info=error,
    )
    return Problem(500, ErrorCode.INTERNAL, "internal error")


def _from_row(error: core.ServerError) -> Problem:
    row = next((ROWS[kind] for kind in type(error).__mro__ if kind in ROWS), None)
    if row is None:
        logger.error("domain error without a row", exc_info=error)
        return Problem(500, ErrorCode.INTERNAL, "internal error")
    wait = (error.retry_after or 1.0) if row.tells_when else None
    # What the runtime says of a failure may name its internals: that is for the log.
    inside = isinstance(error, core.InferenceFailed) and row.status == 500
    message = "the model failed while running on this input" if inside else error.message
    return Problem(row.status, row.code, message, row.retryable, _retry_after(wait))


def _from_codec(error: CodecError) -> Problem:
    status = 413 if error.code is ErrorCode.PAYLOAD_TOO_LARGE else 400
    return Problem(status, error.code, error.message)


def _retry_after(seconds: float | None) -> tuple[Header, ...]:
    """Whole seconds, at least 1, spread by a fifth so that clients do not come back at once."""
    if seconds is None:
        return ()
    spread = seconds * random.uniform(0.8, 1.2)
    return ((b"retry-after", b"%d" % max(1, round(spread))),)
