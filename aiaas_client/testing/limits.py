"""A limit of requests over time, as a server with tenants has it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from aiaas_client.protocol.jsontext import PYDANTIC_JSON


class FakeLimit:
    """So many requests in a window; all of them may come at once.

    Attributes:
        admitted, refused: Requests so far.
    """

    def __init__(
        self, requests: int, window: int, path: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if requests < 1 or window < 1:
            raise ValueError(f"limit: expected 1 or more of both, got {requests} in {window} s")
        self.admitted = self.refused = 0
        self.path = path
        self._quota, self._window = requests, window
        self._clock = clock
        self._left, self._at = float(requests), clock()
        self._lock = threading.Lock()

    def take(self) -> tuple[bytes | None, Sequence[tuple[str, str]]]:
        """Count a request: the body of its answer if it is refused, and headers of whichever it
        gets."""
        with self._lock:
            now = self._clock()
            rate = self._quota / self._window
            self._left = min(self._quota, self._left + (now - self._at) * rate)
            self._at = now
            is_refused = self._left < 1
            self._left -= 0 if is_refused else 1
            self.refused += is_refused
            self.admitted += not is_refused
            reset = max(1, math.ceil((self._quota - self._left) / rate))
            left = math.floor(self._left)
        told = [
            ("RateLimit-Policy", f'"requests";q={self._quota};w={self._window}'),
            ("RateLimit", f'"requests";r={left};t={1 if is_refused else reset}'),
        ]
        return (self._refusal(), [*told, ("Retry-After", "1")]) if is_refused else (None, told)

    def _refusal(self) -> bytes:
        text = f"requests_per_second: {self._quota} may be asked in {self._window} s"
        content = {"error": text, "code": "rate_limited", "retryable": True}
        return PYDANTIC_JSON.dumps(content)
