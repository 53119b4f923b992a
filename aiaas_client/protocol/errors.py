"""The stable error codes of the wire.

Every answer that is not 200 carries `{"error": text, "code": ErrorCode, "retryable": bool,
"request_id": text}`. Texts may change, codes do not: programs decide by `code`.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """What went wrong, in one word a program may compare with."""

    INVALID_REQUEST = "invalid_request"
    INVALID_JSON = "invalid_json"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    VERSION_NOT_FOUND = "version_not_found"
    CONFLICT = "conflict"
    PRECONDITION_FAILED = "precondition_failed"
    MODEL_REJECTED = "model_rejected"
    STORAGE_FULL = "storage_full"
    STATE_UNAVAILABLE = "state_unavailable"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    URI_TOO_LONG = "uri_too_long"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    OUTPUT_TOO_LARGE = "output_too_large"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXCEEDED = "quota_exceeded"
    BUDGET_EXCEEDED = "budget_exceeded"
    HEADERS_TOO_LARGE = "headers_too_large"
    INFERENCE_FAILED = "inference_failed"
    MODEL_CRASHED = "model_crashed"
    INTERNAL = "internal"
    NOT_SUPPORTED = "not_supported"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    MODEL_NOT_READY = "model_not_ready"
    MODEL_UNAVAILABLE = "model_unavailable"
    LOAD_FAILED = "load_failed"
    CONTROL_DISABLED = "control_disabled"
    DRAINING = "draining"
    TOO_MANY_CONNECTIONS = "too_many_connections"
    DEADLINE_EXCEEDED = "deadline_exceeded"
