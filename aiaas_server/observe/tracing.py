"""W3C trace context: the caller's trace, for observers, logs and whatever the request calls.

Source: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiaas_server.core.events import ORIGIN, Origin

MAX_TRACESTATE = 512  # characters that every party must be able to pass on

_form = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch


def current_traceparent() -> str:
    """The `traceparent` of the request that this task answers; "" when it has none."""
    return ORIGIN.get().traceparent


def take_up(request_id: bytes, headers: Mapping[bytes, bytes]) -> None:
    """Note who asks; a malformed `traceparent` starts no trace, as the standard asks."""
    traceparent = headers.get(b"traceparent", b"")
    if not _form(traceparent):
        ORIGIN.set(Origin(request_id.decode("ascii")))
        return
    state = headers.get(b"tracestate", b"")
    tracestate = state.decode() if len(state) <= MAX_TRACESTATE and state.isascii() else ""
    ORIGIN.set(Origin(request_id.decode("ascii"), traceparent.decode("ascii"), tracestate))
