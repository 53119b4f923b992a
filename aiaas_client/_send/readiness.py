"""`wait_ready`, for both clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiaas_client import _errors as errors
from aiaas_client._api import oip as calls
from aiaas_client._api.failures import clean
from aiaas_client._send.options import positive
from aiaas_client._send.work import Pause, Within

if TYPE_CHECKING:
    from aiaas_client._config import Clock
    from aiaas_client._send.work import Work

_FIRST_POLL, _SLOWEST_POLL = 0.05, 1.0  # seconds between two looks


def readiness(sender: Any, timeout: float, model: str | None) -> Work[None]:
    """Ask until the answer is yes.

    Raises:
        DeadlineExceededError: it was not within `timeout` seconds; its cause tells why.
    """
    poll = ReadyPoll(sender.clock, timeout, model)
    while (left := poll.left()) > 0:
        try:
            if (yield Within(poll.call, {"deadline": left, "max_retries": 0})):
                return
            poll.refused(None)
        except errors.AiaasError as error:
            poll.refused(error)
        yield Pause(poll.pause())
    raise poll.error() from poll.cause


class ReadyPoll:
    """How long to go on asking, and what to say in the end."""

    def __init__(self, clock: Clock, timeout: float, model: str | None) -> None:
        self._timeout = positive("timeout", timeout)
        self._clock = clock
        self._ends = clock.monotonic() + timeout
        self._model = model
        self._pause = _FIRST_POLL
        self._reason = ""
        self.call = calls.ready(model)
        self.cause: errors.AiaasError | None = None

    def left(self) -> float:
        """Seconds until the end of the wait; 0 or less when it is over."""
        return self._ends - self._clock.monotonic()

    def refused(self, error: errors.AiaasError | None) -> None:
        """Note one answer; `error` is None where it was a plain "not ready".

        Raises:
            AiaasError: the error itself, where waiting cannot help.
        """
        if isinstance(
            error,
            errors.ClientClosedError | errors.AuthenticationError | errors.ConfigurationError,
        ):
            raise error
        if isinstance(error, errors.CircuitOpenError) and self.cause is not None:
            return  # what opened the circuit says more
        self.cause = error
        self._reason = "it answers, and says that it is not ready" if error is None else str(error)

    def pause(self) -> float:
        """Seconds until the next look."""
        seconds = min(self._pause, max(self.left(), 0.0))
        self._pause = min(self._pause * 2, _SLOWEST_POLL)
        return seconds

    def error(self) -> errors.DeadlineExceededError:
        """What to raise when the wait is over."""
        what = "the server" if self._model is None else f"model '{self._model}'"
        text = f"{what} was not ready within {self._timeout:g} s"
        why = f"; last: {clean(self._reason)}" if self._reason else ""
        return errors.DeadlineExceededError(text + why, phase="deadline", model=self._model)
