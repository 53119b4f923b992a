"""When a failed attempt is made again, and after how long.

The rules: 2 retries with full jitter from 0.1 s doubling to 2 s, on connection failure and on
408, 429, 502, 503, 504; the server's own delay is a floor, and one that does not fit into the
deadline ends the call at once; a budget keeps retries below 10 % of calls (and 10); a read that
timed out is repeated only elsewhere; what is not safe to repeat is repeated only when it cannot
have run. A kept connection that died while idle is replaced at once, by one of the retries there
are (and once where there are none). A server that has no place for another connection is asked
again until it has one: that is waiting for a connection, not repeating a call.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._config import SYSTEM_CLOCK, Clock

T = TypeVar("T")

logger = logging.getLogger("aiaas_client")

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
        until_deadline: Go on up to the deadline of the call, however many that are; for programs
            that outlive restarts of their server. `max_retries=0` still turns retries off.
        clock: Time, sleep and chance.
    """

    max_retries: int = 2
    initial_backoff: float = 0.1
    max_backoff: float = 2.0
    budget_ratio: float = 0.1
    budget_reserve: float = 10.0
    until_deadline: bool = False
    clock: Clock = field(default=SYSTEM_CLOCK, repr=False)

    def backoff(self, retry: int) -> float:
        """Seconds before retry number `retry` (0 is the first): full jitter."""
        ceiling = min(self.max_backoff, self.initial_backoff * 2.0 ** min(retry, 64))
        return self.clock.random() * ceiling


class Repeats:
    """The further attempts of one call whose first has failed: judges each failure.

    Args:
        policy: When and how often.
        failed: The failure of the first attempt, which was made without this: a call that succeeds
            at once, nearly every one, pays nothing for retries, not even an import.
        left: Tells the seconds until the deadline.
        spend: Takes one retry from the client's budget; False when none is left.
        max_retries: Attempts after the first.
        retryable: Whether sending the call again is safe even if it has run.
        avoid: Endpoints that a further attempt must not go to, if there are others; added to.
        has_other: Whether there are endpoints other than these.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        failed: errors.AiaasError,
        *,
        left: Callable[[], float],
        spend: Callable[[], bool],
        max_retries: int,
        retryable: bool,
        avoid: set[str],
        has_other: Callable[[set[str]], bool],
    ) -> None:
        self._policy = policy
        self._failed: errors.AiaasError | None = failed
        self._left = left
        self._spend = spend
        self._max_retries = max_retries
        self._retryable = retryable
        self._avoid = avoid
        self._has_other = has_other
        self._free_used = False
        self._retries = 0
        self._places = 0  # times that the server had no place for a connection
        self._delay = 0.0

    def should_retry(self, error: BaseException) -> bool:
        """Judge a failed attempt; True sets the delay."""
        if not isinstance(error, errors.AiaasError) or not self._is_repeatable(error):
            return False
        goes_on = self._replaces(error) or self._waits_for_place(error) or self._repeats(error)
        if goes_on:
            text = "attempt %d failed (%s), the next in %.3f s"
            logger.info(text, error.attempts, _named(error), self._delay)
        return goes_on

    def _replaces(self, error: errors.AiaasError) -> bool:
        """Whether a kept connection had died and is replaced at once; once in a call."""
        died = _died_idle(error) and not self._free_used
        if not died or self._retries >= max(self._max_retries, 1):
            return False
        self._free_used = True
        self._retries += 1
        self._delay = 0.0
        return True

    def _waits_for_place(self, error: errors.AiaasError) -> bool:
        if not isinstance(error, errors.TooManyConnectionsError) or self._max_retries == 0:
            return False
        self._delay = max(self._policy.backoff(self._places), retry_after_of(error) or 0.0)
        self._places += 1
        self._avoid.add(error.endpoint)
        return self._delay < self._left()

    def _repeats(self, error: errors.AiaasError) -> bool:
        endless = self._policy.until_deadline and self._max_retries > 0
        if self._retries >= self._max_retries and not endless:
            return False
        self._delay = max(self._policy.backoff(self._retries), retry_after_of(error) or 0.0)
        if self._delay >= self._left() or not (endless or self._spend()):
            return False
        self._retries += 1
        self._avoid.add(error.endpoint)
        return True

    def _is_repeatable(self, error: errors.AiaasError) -> bool:
        if isinstance(error, errors.APIStatusError):
            statuses = RETRYABLE_STATUSES if self._retryable else NEVER_RAN_STATUSES
            return error.status_code in statuses and error.retryable is not False
        if isinstance(error, errors.APIConnectionError):
            return self._retryable or error.phase == "connect"
        if isinstance(error, errors.CircuitOpenError):
            return self._policy.until_deadline
        if isinstance(error, errors.PoolTimeoutError | errors.DeadlineExceededError):
            return False
        if isinstance(error, errors.APITimeoutError):
            if error.phase == "connect":
                return True
            return self._retryable and self._has_other(self._avoid | {error.endpoint})
        return False

    def run(self, attempt: Callable[[], T]) -> T:
        """Make attempts until one succeeds or its failure is final."""
        from tenacity import Retrying

        def again() -> T:
            self._raise_first()
            return attempt()

        return Retrying(sleep=self._policy.clock.sleep, **self._rules())(again)

    async def arun(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """As `run`, on an event loop."""
        from tenacity import AsyncRetrying

        async def again() -> T:
            self._raise_first()
            return await attempt()

        return await AsyncRetrying(sleep=self._policy.clock.async_sleep, **self._rules())(again)

    def _rules(self) -> dict[str, Any]:
        """What `Retrying` and `AsyncRetrying` are told alike."""
        from tenacity import retry_if_exception, stop_never

        return {
            "retry": retry_if_exception(self.should_retry),
            "wait": lambda _: self._delay,
            "stop": stop_never,
            "reraise": True,
        }

    def _raise_first(self) -> None:
        error, self._failed = self._failed, None
        if error is not None:
            raise error


def _named(error: errors.AiaasError) -> str:
    """An error without its text, which may quote what a server said."""
    detail = getattr(error, "phase", "") or getattr(error, "status_code", "")
    return f"{type(error).__name__} {detail}".rstrip()


def ends_at_once(error: errors.AiaasError, max_retries: int) -> bool:
    """Whether a first failure is the last; without retries, that of a dead connection is not."""
    return max_retries == 0 and not _died_idle(error)


def most_telling(failures: Sequence[BaseException]) -> BaseException:
    """Of the failures of one race, give what a server answered; the last where none has."""
    answers = (one for one in failures if isinstance(one, errors.APIStatusError))
    return next(answers, failures[-1])


def _died_idle(error: errors.AiaasError) -> bool:
    return isinstance(error, errors.APIConnectionError) and error.phase == "idle"


def retry_after_of(error: errors.AiaasError) -> float | None:
    """Seconds the server, or an open circuit, asked to wait; None when neither did."""
    if isinstance(error, errors.APIStatusError | errors.CircuitOpenError):
        return error.retry_after
    return None


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
