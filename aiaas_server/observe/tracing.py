"""W3C trace context: the caller's trace, for observers, logs and whatever the request calls.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiaas_server.core.events import CALLER

MAX_TRACESTATE = 512  # characters that every party must be able to pass on

_form = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch


def current_traceparent() -> str:
    """The `traceparent` of the request that this task answers; "" when it has none."""
    return CALLER.get().traceparent


def trace_of(headers: Mapping[bytes, bytes]) -> tuple[str, str]:
    """The caller's `traceparent` and `tracestate`, each "" where there is none.

    A malformed `traceparent` starts no trace, as the standard asks.
    """
    traceparent = headers.get(b"traceparent", b"")
    if not _form(traceparent):
        return "", ""
    state = headers.get(b"tracestate", b"")
    tracestate = state.decode() if len(state) <= MAX_TRACESTATE and state.isascii() else ""
    return traceparent.decode("ascii"), tracestate
