"""W3C trace context: the caller's `traceparent`, for whatever runs in the request's own task.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from contextvars import ContextVar

_TRACEPARENT: ContextVar[str] = ContextVar("traceparent", default="")
_form = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch


def current_traceparent() -> str:
    """The `traceparent` of the request that this task answers; "" when it has none."""
    return _TRACEPARENT.get()


def continue_trace(traceparent: bytes) -> None:
    """Take up the caller's trace; a malformed header starts none, as the standard asks."""
    _TRACEPARENT.set(traceparent.decode("ascii") if _form(traceparent) else "")
