"""Which of several base URLs gets the next attempt; pure bookkeeping, no I/O."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass

from aiaas_client import _errors as errors
from aiaas_client._breaker import Breaker, BreakerPolicy

EJECT_AFTER = 3  # consecutive failures
EJECT_SECONDS = 5.0  # doubling with each failed probe
MAX_EJECT_SECONDS = 60.0

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
    }
)


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
            now = self._monotonic()
            passable = [e for e in self._endpoints if e.breaker is None or e.breaker.wait(now) <= 0]
            if not passable:
                raise self._circuit_open(now)
            chosen = self._choose(passable, avoid, now)
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
                endpoint.breaker.record(failed, now)
            if failed:
                self._count_failure(endpoint, now)
            else:
                endpoint.failures = endpoint.ejections = 0
                endpoint.ejected_until = None

    def forget(self, endpoint: Endpoint) -> None:
        """Count a call out that says nothing about the endpoint: it was cancelled."""
        with self._lock:
            endpoint.in_flight -= 1
            endpoint.probing = False
            if endpoint.breaker is not None:
                endpoint.breaker.forget()

    def _choose(self, passable: list[Endpoint], avoid: Collection[str], now: float) -> Endpoint:
        if len(passable) == 1:
            return passable[0]
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
