"""When a failed attempt is made again, and after how long.

The rules: 2 retries with full jitter from 0.1 s doubling to 2 s, on connection failure and on
408, 429, 502, 503, 504; the server's own delay is a floor, and one that does not fit into the
deadline ends the call at once; a budget keeps retries below 10 % of calls (and 10); a read that
timed out is repeated only elsewhere; what is not safe to repeat is repeated only when it cannot
have run. A kept connection that died while idle costs one free retry.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._config import SYSTEM_CLOCK, Clock

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

RETRYABLE_STATUSES = frozenset({408, 429, 502, 503, 504})
NEVER_RAN_STATUSES = frozenset({408, 429, 503})  # safe to repeat even for what is not idempotent


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast failed attempts are repeated.

    Attributes:
        max_retries: Attempts after the first one; 0 turns retries off.
        initial_backoff: Seconds; the first wait is a random part of it.
        max_backoff: Seconds; waits double up to this.
        budget_ratio: Retries allowed for each call made, over the life of the client.
        budget_reserve: Retries allowed on top, from the start.
        clock: Time, sleep and chance.
    """

    max_retries: int = 2
    initial_backoff: float = 0.1
    max_backoff: float = 2.0
    budget_ratio: float = 0.1
    budget_reserve: float = 10.0
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)

    def backoff(self, retry: int) -> float:
        """Seconds before retry number `retry` (0 is the first): full jitter."""
        ceiling = min(self.max_backoff, self.initial_backoff * 2.0 ** min(retry, 64))
        return self.clock.random() * ceiling


class RetryBudget:
    """Retries that are left: a reserve, plus a part of one for each call."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._ratio = policy.budget_ratio
        self._left = float(policy.budget_reserve)
        self._most = max(10.0 * policy.budget_reserve, 1.0)
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count a call."""
        with self._lock:
            self._left = min(self._left + self._ratio, self._most)

    def spend(self) -> bool:
        """Take one retry; False when none is left."""
        with self._lock:
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True


class Attempts:
    """One call's attempts: counts them, and judges each failure.

    Attributes:
        count: Requests sent so far.
        avoid: Endpoints that a further attempt must not go to, if there are others.
    """

    __slots__ = (
        "_budget",
        "_delay",
        "_free_used",
        "_has_other",
        "_policy",
        "_retries",
        "_retryable",
        "avoid",
        "count",
        "deadline",
        "max_retries",
        "started",
    )

    def __init__(
        self,
        policy: RetryPolicy,
        budget: RetryBudget,
        *,
        deadline: float,
        max_retries: int,
        retryable: bool,
        has_other: Callable[[set[str]], bool],
    ) -> None:
        self._policy = policy
        self._budget = budget
        self._retryable = retryable
        self._has_other = has_other
        self._free_used = False
        self._retries = 0
        self._delay = 0.0
        self.max_retries = max_retries
        self.started = policy.clock.monotonic()
        self.deadline = self.started + deadline
        self.count = 0
        self.avoid: set[str] = set()
        budget.earn()

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self._policy.clock.monotonic()

    def elapsed(self) -> float:
        """Seconds since the call began."""
        return self._policy.clock.monotonic() - self.started

    def may_hedge(self) -> bool:
        """Whether a second request may be sent beside the one under way."""
        return self._retryable and self._budget.spend()

    def should_retry(self, error: BaseException) -> bool:
        """Judge a failed attempt; True sets the delay that `wait` tells."""
        if not isinstance(error, errors.AiaasError) or not self._is_repeatable(error):
            return False
        if _died_idle(error) and not self._free_used:
            self._free_used = True
            self._delay = 0.0
            return True
        if self._retries >= self.max_retries:
            return False
        self._delay = max(self._policy.backoff(self._retries), retry_after_of(error) or 0.0)
        if self._delay >= self.left() or not self._budget.spend():
            return False
        self._retries += 1
        self.avoid.add(error.endpoint)
        return True

    def _is_repeatable(self, error: errors.AiaasError) -> bool:
        if isinstance(error, errors.APIStatusError):
            statuses = RETRYABLE_STATUSES if self._retryable else NEVER_RAN_STATUSES
            return error.status_code in statuses and error.retryable is not False
        if isinstance(error, errors.APIConnectionError):
            return self._retryable or error.phase == "connect"
        if isinstance(error, errors.PoolTimeoutError | errors.DeadlineExceededError):
            return False
        if isinstance(error, errors.APITimeoutError):
            if error.phase == "connect":
                return True
            return self._retryable and self._has_other(self.avoid | {error.endpoint})
        return False

    def wait(self, state: RetryCallState) -> float:
        """Seconds before the next attempt, as tenacity asks for it."""
        return self._delay

    def tenacity_arguments(self) -> dict[str, Any]:
        """The same arguments for `Retrying` and, but for sleep, `AsyncRetrying`."""
        from tenacity import retry_if_exception, stop_never

        return {
            "retry": retry_if_exception(self.should_retry),
            "wait": self.wait,
            "stop": stop_never,
            "reraise": True,
        }

    def run(self, attempt: Callable[[], T]) -> T:
        """Make attempts until one succeeds or its failure is final."""
        try:
            return attempt()
        except errors.AiaasError as error:
            if self.max_retries == 0 and not _died_idle(error):
                raise
            first = _Replay(error)
        from tenacity import Retrying

        retrying = Retrying(sleep=self._policy.clock.sleep, **self.tenacity_arguments())

        def again() -> T:
            first.raise_once()
            return attempt()

        return retrying(again)

    async def arun(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """As `run`, on an event loop."""
        try:
            return await attempt()
        except errors.AiaasError as error:
            if self.max_retries == 0 and not _died_idle(error):
                raise
            first = _Replay(error)
        from tenacity import AsyncRetrying

        retrying = AsyncRetrying(sleep=self._policy.clock.async_sleep, **self.tenacity_arguments())

        async def again() -> T:
            first.raise_once()
            return await attempt()

        return await retrying(again)


class _Replay:
    """Gives tenacity the failure of the first attempt, which was made without it.

    A call that succeeds at once, nearly every one, thus pays nothing for retries, not even the
    import.
    """

    __slots__ = ("_error",)

    def __init__(self, error: errors.AiaasError) -> None:
        self._error: errors.AiaasError | None = error

    def raise_once(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def _died_idle(error: errors.AiaasError) -> bool:
    return isinstance(error, errors.APIConnectionError) and error.phase == "idle"


def retry_after_of(error: errors.AiaasError) -> float | None:
    """Seconds the server asked to wait; None when it did not."""
    return error.retry_after if isinstance(error, errors.APIStatusError) else None


def parse_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read `retry-after-ms` or `Retry-After` into seconds; None for nothing or nonsense.

    Args:
        headers: Of the answer, looked up in lower case.
        now: Seconds since the epoch, for the date form.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1e3
    text = headers.get("retry-after")
    seconds = _number(text)
    return _until(text, now) if seconds is None and text else seconds


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if value >= 0 and math.isfinite(value) else None


def _until(text: str, now: float) -> float | None:
    from email.utils import parsedate_to_datetime  # rarely needed, and not cheap to load

    try:
        moment = parsedate_to_datetime(text.strip()).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        return None
    return max(moment - now, 0.0)
