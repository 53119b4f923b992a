"""Which of several base URLs gets the next attempt; pure bookkeeping, no I/O.

An endpoint that fails three times in a row is passed over for a while if there are others; one that
fails half of its calls is not called at all for a while: its circuit breaker opens.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from aiaas_client import _errors as errors

logger = logging.getLogger("aiaas_client")

EJECT_AFTER = 3  # consecutive failures
EJECT_SECONDS = 5.0  # doubling with each failed probe
MAX_EJECT_SECONDS = 60.0
BUCKETS = 10  # of the window in which a breaker counts

# 503s and 504s that speak of one model or one queue, not of the endpoint.
_OF_THE_MODEL = frozenset(
    {
        "model_unavailable",
        "model_not_ready",
        "queue_full",
        "queue_timeout",
        "deadline_exceeded",
        "control_disabled",
        "inference_failed",
        "too_many_connections",  # it speaks of this client
    }
)


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


@dataclass(slots=True)
class Endpoint:
    """One base URL and what is known of it."""

    url: str
    breaker: Breaker | None
    in_flight: int = 0
    failures: int = 0
    ejections: int = 0
    ejected_until: float | None = None
    probing: bool = False
    last_used: int = 0


class Endpoints:
    """Least in flight first; ejected after three failures in a row, back after one good probe."""

    def __init__(
        self,
        urls: Collection[str],
        breaker: BreakerPolicy | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._endpoints = [Endpoint(url, Breaker(breaker) if breaker else None) for url in urls]
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._uses = 0

    def __len__(self) -> int:
        return len(self._endpoints)

    def take(self, avoid: Collection[str] = ()) -> Endpoint:
        """Choose an endpoint and count a call in; `release` or `forget` it afterwards.

        Raises:
            CircuitOpenError: every circuit is open.
        """
        with self._lock:
            chosen = self._endpoints[0]
            is_closed = chosen.breaker is None or chosen.breaker.opened_at is None
            if len(self._endpoints) > 1 or not is_closed:
                chosen = self._choose(self._passable(), avoid)
            self._uses += 1
            chosen.in_flight += 1
            chosen.last_used = self._uses
            if chosen.ejected_until is not None:
                chosen.probing = True
            if chosen.breaker is not None:
                chosen.breaker.enter()
            return chosen

    def has_other(self, than: Collection[str]) -> bool:
        """Whether an endpoint exists that is not among `than`."""
        return any(endpoint.url not in than for endpoint in self._endpoints)

    def release(self, endpoint: Endpoint, error: BaseException | None) -> None:
        """Count a call out and learn from its end."""
        failed = error is not None and is_endpoint_fault(error)
        with self._lock:
            endpoint.in_flight -= 1
            endpoint.probing = False
            now = self._monotonic()
            if endpoint.breaker is not None:
                self._tell_breaker(endpoint, endpoint.breaker, error, failed, now)
            if failed:
                self._count_failure(endpoint, now)
            else:
                if endpoint.ejected_until is not None:
                    logger.info("%s: back", endpoint.url)
                endpoint.failures = endpoint.ejections = 0
                endpoint.ejected_until = None

    def forget(self, endpoint: Endpoint) -> None:
        """Count a call out that says nothing about the endpoint: it was cancelled."""
        with self._lock:
            endpoint.in_flight -= 1
            endpoint.probing = False
            if endpoint.breaker is not None:
                endpoint.breaker.forget()

    def _tell_breaker(
        self,
        endpoint: Endpoint,
        breaker: Breaker,
        error: BaseException | None,
        failed: bool,
        now: float,
    ) -> None:
        # An only server that cannot be reached is starting, most likely: asking again costs nobody
        # anything, and retries wait for it.
        unreachable = isinstance(error, errors.APIConnectionError) and error.phase == "connect"
        if unreachable and len(self._endpoints) == 1:
            breaker.forget()
            return
        was_open = breaker.opened_at is not None
        breaker.record(failed, now)
        is_open = breaker.opened_at is not None
        if is_open != was_open:
            state = "opened, half of the recent calls failed" if is_open else "closed"
            logger.info("%s: circuit %s", endpoint.url, state)

    def _passable(self) -> list[Endpoint]:
        now = self._monotonic()
        passable = [e for e in self._endpoints if e.breaker is None or e.breaker.wait(now) <= 0]
        if not passable:
            raise self._circuit_open(now)
        return passable

    def _choose(self, passable: list[Endpoint], avoid: Collection[str]) -> Endpoint:
        if len(passable) == 1:
            return passable[0]
        now = self._monotonic()
        wanted = [e for e in passable if e.url not in avoid] or passable
        for endpoint in wanted:
            until = endpoint.ejected_until
            if until is not None and now >= until and not endpoint.probing:
                return endpoint  # half open: this call is the probe
        healthy = [e for e in wanted if e.ejected_until is None]
        return min(healthy or wanted, key=lambda e: (e.in_flight, e.last_used))

    def _count_failure(self, endpoint: Endpoint, now: float) -> None:
        endpoint.failures += 1
        if endpoint.failures < EJECT_AFTER and endpoint.ejected_until is None:
            return
        seconds = min(EJECT_SECONDS * 2**endpoint.ejections, MAX_EJECT_SECONDS)
        endpoint.ejections = min(endpoint.ejections + 1, 16)
        endpoint.ejected_until = now + seconds
        if len(self._endpoints) > 1:
            logger.info(
                "%s: failed %d times in a row, passed over for %g s",
                endpoint.url,
                endpoint.failures,
                seconds,
            )

    def _circuit_open(self, now: float) -> errors.CircuitOpenError:
        waits = [e.breaker.wait(now) for e in self._endpoints if e.breaker is not None]
        urls = ", ".join(endpoint.url for endpoint in self._endpoints)
        return errors.CircuitOpenError(
            f"{urls}: not called, half of the recent calls failed; next try in {min(waits):.1f} s",
            retry_after=min(waits),
        )


def is_endpoint_fault(error: BaseException) -> bool:
    """Whether a failed attempt speaks against the endpoint, not against the request or model."""
    if isinstance(error, errors.APIStatusError):
        return error.status_code in (500, 502, 503, 504) and error.code not in _OF_THE_MODEL
    if isinstance(error, (errors.PoolTimeoutError, errors.DeadlineExceededError)):
        return False
    kinds = (errors.APIConnectionError, errors.APITimeoutError, errors.ProtocolError)
    return isinstance(error, kinds)
