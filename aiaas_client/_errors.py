"""Every exception the SDK raises, in one tree; nothing of the HTTP library leaks.

    AiaasError
    ├── ConfigurationError (ValueError)         a client that cannot be built as asked
    │   └── OptionTypeError (TypeError)         an option of a type it cannot have
    ├── ClientClosedError (RuntimeError)        used after `close()`
    ├── InputError (ValueError)                 found before the wire, from the model's metadata
    │   ├── MissingInputError  UnknownInputError  ShapeError  DtypeError
    │   └── MissingFileError (FileNotFoundError)
    ├── APIConnectionError (ConnectionError)    no connection, or it broke
    ├── APITimeoutError (TimeoutError)          one phase took too long: `.phase`
    │   ├── DeadlineExceededError               the whole call took too long
    │   └── PoolTimeoutError                    no free connection in time
    ├── CircuitOpenError                        not sent: the endpoint fails too often
    ├── RolledBackError                         a guarded promotion that was waited for went back
    ├── JobFailedError                          a job that was waited for failed: `.code`, `.log`
    ├── JobCancelledError                       a job that was waited for was cancelled
    ├── ProtocolError                           an answer that cannot be trusted
    ├── BulkError                               some items of a bulk call failed: `.failures`
    │   └── BlockError                          rows of `infer_array` failed: `.start`, `.stop`
    └── APIStatusError                          the server answered, and not with 200
        ├── BadRequestError              400    ├── LoadFailedError  ModelNotReadyError
        ├── AuthenticationError          401
        ├── PermissionDeniedError        403
        ├── NotFoundError                404    ├── ModelNotFoundError  VersionNotFoundError
        ├── MethodNotAllowedError        405
        ├── RequestTimeoutError          408
        ├── ConflictError                409
        ├── PreconditionFailedError      412
        ├── PayloadTooLargeError         413
        ├── UriTooLongError              414
        ├── UnsupportedMediaTypeError    415
        ├── UnprocessableError           422    ├── OutputTooLargeError  ModelRejectedError
        ├── RateLimitError               429
        │   ├── QuotaExceededError       429 quota_exceeded
        │   └── BudgetExceededError      429 budget_exceeded
        ├── HeadersTooLargeError         431
        ├── InternalServerError          5xx    ├── InferenceFailedError  ModelCrashedError
        ├── NotSupportedError            501    (also a 404 or 405 on an optional endpoint)
        ├── BadGatewayError              502
        ├── ServiceUnavailableError      503    ├── QueueFullError  QueueTimeoutError
        │                                       ├── ModelUnavailableError  DrainingError
        │                                       ├── ControlDisabledError  TooManyConnectionsError
        │                                       └── StateUnavailableError
        ├── GatewayTimeoutError          504    └── ServerDeadlineError (DeadlineExceededError)
        └── StorageFullError             507

All of them pickle, and all carry `request_id`, `model`, `attempts` and `elapsed` (seconds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from aiaas_client.protocol.errors import ErrorCode

E = TypeVar("E", bound="AiaasError")

_LONGEST_MESSAGE = 4096  # characters


class AiaasError(Exception):
    """Any failure the SDK reports.

    Attributes:
        message: What went wrong, in words.
        request_id: The id the server knows this call by; empty when it was not told.
        model: The model called, if the call had one.
        attempts: Requests sent for this call, the first included; 0 when none left the machine.
        elapsed: Seconds from the start of the call to its failure.
        endpoint: Base URL of the last attempt; empty when none was made.
        index: The item's place in the input of a bulk call; None elsewhere.
    """

    def __init__(
        self,
        message: str = "",
        *,
        request_id: str = "",
        model: str | None = None,
        attempts: int = 0,
        elapsed: float = 0.0,
        endpoint: str = "",
    ) -> None:
        message = _presentable(message)
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.model = model
        self.attempts = attempts
        self.elapsed = elapsed
        self.endpoint = endpoint
        self.index: int | None = None

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        told = ((key, value) for key, value in vars(self).items() if key != "message")
        shown = [f"{key}={_short(value)}" for key, value in told if value not in ("", None, 0, b"")]
        return f"{type(self).__name__}({', '.join([repr(self.message), *shown])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(vars(self)))


def escaped(character: str) -> str:
    """Write a character that terminals act on, or that nobody sees, as Python would."""
    return character.encode("unicode_escape").decode("ascii")


def _presentable(message: str) -> str:
    """Whatever found its way into a message: it steers no terminal and floods no log."""
    if message.isprintable() and len(message) <= _LONGEST_MESSAGE:
        return message
    cut = message[:_LONGEST_MESSAGE]
    text = "".join(one if one == "\n" or one.isprintable() else escaped(one) for one in cut)
    return text if len(cut) == len(message) else f"{text}..."


def complete(error: AiaasError, text: str) -> None:
    """Add to an error's message, who was asked for example."""
    error.message = _presentable(error.message + text)
    error.args = (error.message, *error.args[1:])


def _short(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _rebuild(cls: type[E], args: tuple[Any, ...], state: dict[str, Any]) -> E:
    error = cls.__new__(cls)
    error.args = args
    vars(error).update(state)
    return error


class ConfigurationError(AiaasError, ValueError):
    """The client cannot be built or used as asked."""


class OptionTypeError(ConfigurationError, TypeError):
    """An option has a type that it cannot have."""


class ClientClosedError(AiaasError, RuntimeError):
    """The client was used after `close()`, or closed during the call; closing is final."""

    TEXT = "this client was closed; make a new one"


class InputError(AiaasError, ValueError):
    """Inputs that the model cannot take, found before anything was sent.

    Attributes:
        tensor: Name of the input, if one is to blame.
        expected: What the model's metadata asks for, in words.
        got: What was given, in words.
    """

    def __init__(
        self,
        message: str = "",
        *,
        tensor: str = "",
        expected: str = "",
        got: str = "",
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.tensor = tensor
        self.expected = expected
        self.got = got


class MissingInputError(InputError):
    """An input that the model requires was not given."""


class UnknownInputError(InputError):
    """An input was given that the model does not have."""


class ShapeError(InputError):
    """An input's shape does not fit the model's."""


class DtypeError(InputError):
    """An input's element type cannot become the model's without loss."""


class MissingFileError(InputError, FileNotFoundError):
    """A payload is the path of a file that is not there."""

    def __new__(cls, *args: Any, **context: Any) -> Self:
        return OSError.__new__(cls, *args)  # ValueError's, which comes first, cannot make one


class APIConnectionError(AiaasError, ConnectionError):
    """No connection could be made, or it broke before the answer was complete.

    Attributes:
        phase: `connect` (nothing was sent), `idle` (a kept connection had died before the first
            byte of the answer) or `exchange` (it broke on the way).
    """

    def __init__(self, message: str = "", *, phase: str = "exchange", **context: Any) -> None:
        super().__init__(message, **context)
        self.phase = phase


class APITimeoutError(AiaasError, TimeoutError):
    """One phase of a request took longer than its timeout.

    Attributes:
        phase: `connect`, `read`, `write`, `pool` or `deadline`.
    """

    def __init__(self, message: str = "", *, phase: str = "", **context: Any) -> None:
        super().__init__(message, **context)
        self.phase = phase


class DeadlineExceededError(APITimeoutError):
    """The call as a whole, with its retries and waits, took longer than its deadline."""


class PoolTimeoutError(APITimeoutError):
    """All connections of the pool stayed busy for the pool timeout."""


class CircuitOpenError(AiaasError):
    """Nothing was sent: the endpoints failed too often; `retry_after` seconds to the next probe."""

    def __init__(
        self, message: str = "", *, retry_after: float | None = None, **context: Any
    ) -> None:
        super().__init__(message, **context)
        self.retry_after = retry_after


class RolledBackError(AiaasError):
    """A rollout that was waited for ended without its version in production; the text says why."""


class JobFailedError(AiaasError):
    """A job that was waited for has failed; the text says why, and ends with its last lines.

    Attributes:
        job: Its id.
        code: `failed`, `invalid_input`, `out_of_memory`, `timeout`, `lost`, `storage_full`,
            `diverged` or `parity`.
        details: What else the job told of it, such as the rows that differ.
        log: The last lines that it printed.
    """

    def __init__(
        self,
        message: str = "",
        *,
        job: str = "",
        code: str = "",
        details: Mapping[str, Any] | None = None,
        log: Sequence[str] = (),
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.job = job
        self.code = code
        self.details = dict(details or {})
        self.log = list(log)


class JobCancelledError(AiaasError):
    """A job that was waited for was cancelled; `job` is its id."""

    def __init__(self, message: str = "", *, job: str = "", **context: Any) -> None:
        super().__init__(message, **context)
        self.job = job


class ProtocolError(AiaasError):
    """The answer breaks the protocol, so nothing in it is believed."""


class BulkError(AiaasError):
    """Some items of a bulk call failed.

    Attributes:
        failures: The errors of the failed items that were kept, by position in the input.
        count: How many items failed, kept or not.
    """

    def __init__(
        self,
        message: str = "",
        *,
        failures: Mapping[int, Exception] | None = None,
        count: int | None = None,
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.failures: dict[int, Exception] = dict(failures or {})
        self.count = len(self.failures) if count is None else count


class BlockError(BulkError):
    """Rows that travelled together failed, and `infer_array` with them.

    Attributes:
        start, stop: The first of the rows, and the one after the last; `.failures` has their error
            under `start`.
    """

    def __init__(self, message: str = "", *, start: int = 0, stop: int = 0, **context: Any) -> None:
        super().__init__(message, **context)
        self.start = start
        self.stop = stop


class APIStatusError(AiaasError):
    """The server answered with something other than 200.

    Attributes:
        status_code: The HTTP status.
        code: The server's stable error code (`ErrorCode`), or empty from a server that has none.
        retryable: The server's own word on whether a repeat can help; None when it gave none.
        retry_after: Seconds the server asked to wait; None when it did not ask.
        body: The answer's first bytes, for the log.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        code: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        body: bytes = b"",
        **context: Any,
    ) -> None:
        super().__init__(message, **context)
        self.status_code = status_code
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.body = body


class BadRequestError(APIStatusError):
    """400: the request is wrong."""


class LoadFailedError(BadRequestError):
    """400 `load_failed`: the model or its configuration is bad; the old version keeps serving."""


class ModelNotReadyError(BadRequestError):
    """400 `model_not_ready`: the version exists and cannot serve."""


class AuthenticationError(APIStatusError):
    """401: no key, or not a valid one."""


class PermissionDeniedError(APIStatusError):
    """403: the key does not allow this."""


class NotFoundError(APIStatusError):
    """404: no such thing, or it is another tenant's."""


class ModelNotFoundError(NotFoundError):
    """404 `model_not_found`."""


class VersionNotFoundError(NotFoundError):
    """404 `version_not_found`: the model exists, this version does not."""


class MethodNotAllowedError(APIStatusError):
    """405: the route exists, not with this method."""


class RequestTimeoutError(APIStatusError):
    """408: the server waited too long for the request's bytes."""


class ConflictError(APIStatusError):
    """409: the state does not allow this now."""


class PreconditionFailedError(APIStatusError):
    """412: the object was changed since you read it; read it again, then decide."""


class PayloadTooLargeError(APIStatusError):
    """413: the request is larger than the server takes."""


class UriTooLongError(APIStatusError):
    """414: the address is longer than the server takes."""


class UnsupportedMediaTypeError(APIStatusError):
    """415: an encoding the server does not know."""


class UnprocessableError(APIStatusError):
    """422: understood, and refused."""


class OutputTooLargeError(UnprocessableError):
    """422 `output_too_large`: the answer would exceed the server's limit; send fewer rows."""


class ModelRejectedError(UnprocessableError):
    """422 `model_rejected`: the server looked at the model and refuses it; the text says why."""


class RateLimitError(APIStatusError):
    """429: over the rate or quota; `.retry_after` says when to come back.

    Attributes:
        limit: Its name, such as "requests_per_second"; empty where the server did not tell.
        remaining: What is left of it; None where the server did not tell.
    """

    limit: str = ""
    remaining: int | None = None


class QuotaExceededError(RateLimitError):
    """429 `quota_exceeded`: the tenant has as much stored, deployed or queued as it may."""


class BudgetExceededError(RateLimitError):
    """429 `budget_exceeded`: the tenant has spent what it may in this month."""


class HeadersTooLargeError(APIStatusError):
    """431: more header bytes than the server takes."""


class InternalServerError(APIStatusError):
    """Any 5xx that has no class of its own: the server failed."""


class InferenceFailedError(InternalServerError):
    """500 `inference_failed`: the model failed on these inputs."""


class ModelCrashedError(InternalServerError):
    """500 `model_crashed`: the model's process died of this call; sending it again is no help."""


class NotSupportedError(APIStatusError):
    """501, or 404 and 405 on an optional endpoint: this server does not have the feature."""


class BadGatewayError(APIStatusError):
    """502: a proxy got no proper answer from the server."""


class ServiceUnavailableError(APIStatusError):
    """503: not now."""


class QueueFullError(ServiceUnavailableError):
    """503 `queue_full`: as many requests wait as the server allows."""


class QueueTimeoutError(ServiceUnavailableError):
    """503 `queue_timeout`: waited in the queue for as long as allowed."""


class ModelUnavailableError(ServiceUnavailableError):
    """503 `model_unavailable`: the version is loading or unloading."""


class ControlDisabledError(ServiceUnavailableError):
    """503 `control_disabled`: this server does not load or unload on request."""


class DrainingError(ServiceUnavailableError):
    """503 `draining`: the server is shutting down."""


class TooManyConnectionsError(ServiceUnavailableError):
    """503 `too_many_connections`: the server has as many as it takes."""


class StateUnavailableError(ServiceUnavailableError):
    """503 `state_unavailable`: the server's database or store does not answer."""


class StorageFullError(APIStatusError):
    """507 `storage_full`: the server has no room to write; what only reads goes on."""


class GatewayTimeoutError(APIStatusError):
    """504: no answer in time behind the server or a proxy."""


class ServerDeadlineError(GatewayTimeoutError, DeadlineExceededError):
    """504 `deadline_exceeded`: the server dropped the request because its time was up."""


STATUS_CLASSES: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    405: MethodNotAllowedError,
    408: RequestTimeoutError,
    409: ConflictError,
    412: PreconditionFailedError,
    413: PayloadTooLargeError,
    414: UriTooLongError,
    415: UnsupportedMediaTypeError,
    422: UnprocessableError,
    429: RateLimitError,
    431: HeadersTooLargeError,
    500: InternalServerError,
    501: NotSupportedError,
    502: BadGatewayError,
    503: ServiceUnavailableError,
    504: GatewayTimeoutError,
    507: StorageFullError,
}

CODE_CLASSES: Mapping[ErrorCode, type[APIStatusError]] = {
    ErrorCode.INVALID_REQUEST: BadRequestError,
    ErrorCode.INVALID_JSON: BadRequestError,
    ErrorCode.LOAD_FAILED: LoadFailedError,
    ErrorCode.MODEL_NOT_READY: ModelNotReadyError,
    ErrorCode.UNAUTHORIZED: AuthenticationError,
    ErrorCode.FORBIDDEN: PermissionDeniedError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.MODEL_NOT_FOUND: ModelNotFoundError,
    ErrorCode.VERSION_NOT_FOUND: VersionNotFoundError,
    ErrorCode.CONFLICT: ConflictError,
    ErrorCode.PRECONDITION_FAILED: PreconditionFailedError,
    ErrorCode.MODEL_REJECTED: ModelRejectedError,
    ErrorCode.STORAGE_FULL: StorageFullError,
    ErrorCode.STATE_UNAVAILABLE: StateUnavailableError,
    ErrorCode.METHOD_NOT_ALLOWED: MethodNotAllowedError,
    ErrorCode.REQUEST_TIMEOUT: RequestTimeoutError,
    ErrorCode.PAYLOAD_TOO_LARGE: PayloadTooLargeError,
    ErrorCode.URI_TOO_LONG: UriTooLongError,
    ErrorCode.UNSUPPORTED_ENCODING: UnsupportedMediaTypeError,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: UnsupportedMediaTypeError,
    ErrorCode.OUTPUT_TOO_LARGE: OutputTooLargeError,
    ErrorCode.RATE_LIMITED: RateLimitError,
    ErrorCode.QUOTA_EXCEEDED: QuotaExceededError,
    ErrorCode.BUDGET_EXCEEDED: BudgetExceededError,
    ErrorCode.HEADERS_TOO_LARGE: HeadersTooLargeError,
    ErrorCode.INFERENCE_FAILED: InferenceFailedError,
    ErrorCode.MODEL_CRASHED: ModelCrashedError,
    ErrorCode.INTERNAL: InternalServerError,
    ErrorCode.NOT_SUPPORTED: NotSupportedError,
    ErrorCode.QUEUE_FULL: QueueFullError,
    ErrorCode.QUEUE_TIMEOUT: QueueTimeoutError,
    ErrorCode.MODEL_UNAVAILABLE: ModelUnavailableError,
    ErrorCode.CONTROL_DISABLED: ControlDisabledError,
    ErrorCode.DRAINING: DrainingError,
    ErrorCode.TOO_MANY_CONNECTIONS: TooManyConnectionsError,
    ErrorCode.DEADLINE_EXCEEDED: ServerDeadlineError,
}

_CODES = frozenset(code.value for code in ErrorCode)


def status_class(status: int, code: str = "") -> type[APIStatusError]:
    """Give the class for an answer: by its code where that fits its status, else by status."""
    fallback = InternalServerError if status >= 500 else APIStatusError
    by_status = STATUS_CLASSES.get(status, fallback)
    by_code = code_class(code)
    return by_code if by_code is not None and issubclass(by_code, by_status) else by_status


def code_class(code: str) -> type[APIStatusError] | None:
    """Give the class of a stable code; None for one that is not ours."""
    return CODE_CLASSES.get(ErrorCode(code)) if code in _CODES else None
