"""A circuit breaker: an endpoint that fails half of its calls is left alone for a while."""

from __future__ import annotations

from dataclasses import dataclass

BUCKETS = 10


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When the circuit of an endpoint opens.

    Attributes:
        failure_ratio: Opens at this share of failed calls, 0 < ratio ≤ 1.
        min_calls: Calls in the window below which it never opens.
        window: Seconds that count.
        open_for: Seconds until one probe is let through.
    """

    failure_ratio: float = 0.5
    min_calls: int = 20
    window: float = 10.0
    open_for: float = 5.0


class Breaker:
    """Counts the calls of one endpoint in a sliding window; not locked, times are handed in."""

    __slots__ = ("_calls", "_failures", "_policy", "_probing", "_slot", "opened_at")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.opened_at: float | None = None
        self._probing = False
        self._slot = 0
        self._calls = [0] * BUCKETS
        self._failures = [0] * BUCKETS

    def wait(self, now: float) -> float:
        """Seconds until a call may pass; 0.0 when one may now."""
        if self.opened_at is None:
            return 0.0
        left = self.opened_at + self._policy.open_for - now
        return max(left, 0.0) if left > 0 or not self._probing else self._policy.open_for

    def enter(self) -> None:
        """A call passes; through an open circuit it is the one probe."""
        if self.opened_at is not None:
            self._probing = True

    def forget(self) -> None:
        """A call ended without a verdict, cancelled for example."""
        self._probing = False

    def record(self, failed: bool, now: float) -> None:
        """A call ended; open, close or re-open the circuit by how."""
        if self.opened_at is not None:
            self._end_probe(failed, now)
            return
        self._advance(now)
        index = self._slot % BUCKETS
        self._calls[index] += 1
        if failed:
            self._failures[index] += 1
            self._open_if_failing(now)

    def _end_probe(self, failed: bool, now: float) -> None:
        if not self._probing:
            return  # a call from before the circuit opened
        self._probing = False
        self.opened_at = now if failed else None
        self._clear()

    def _advance(self, now: float) -> None:
        slot = int(now * BUCKETS / self._policy.window)
        if slot == self._slot:
            return
        for stale in range(max(self._slot + 1, slot - BUCKETS + 1), slot + 1):
            self._calls[stale % BUCKETS] = self._failures[stale % BUCKETS] = 0
        self._slot = slot

    def _open_if_failing(self, now: float) -> None:
        calls = sum(self._calls)
        enough = calls >= self._policy.min_calls
        if enough and sum(self._failures) >= self._policy.failure_ratio * calls:
            self.opened_at = now
            self._clear()

    def _clear(self) -> None:
        self._calls = [0] * BUCKETS
        self._failures = [0] * BUCKETS
