"""Streams of events, followed across broken connections; `client.models.changes` is one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._api import management as calls
from aiaas_client._send.sender import AsyncStream, Stream

if TYPE_CHECKING:
    from aiaas_client._api.call import Call, StreamCall
    from aiaas_client.protocol.management import Change

Feed = TypeVar("Feed")  # a stream of changes
Told = TypeVar("Told")  # an event as it is read
Heard = TypeVar("Heard")  # and as it is handed on

PATIENCE = 60.0  # seconds without a server
_NO_DEADLINE = 1e9  # seconds
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds
PASSING = (
    errors.APIConnectionError,
    errors.APITimeoutError,
    errors.BadGatewayError,
    errors.CircuitOpenError,
    errors.GatewayTimeoutError,
    errors.RateLimitError,
    errors.ServiceUnavailableError,
)


class ChangeFeed(Generic[Feed]):
    """The changes of a registry as they happen."""

    _sender: Any
    _follow: Any  # makes the stream: `follow`, or `afollow`

    def changes(self, *, after: int | None = None, patience: float = PATIENCE) -> Feed:
        """Follow what changes in the registry, whoever changes it: a stream without end.

        A connection that breaks is made again, and goes on after the last change that was told.
        Leaving the loop, or closing the stream, ends it.

        Args:
            after: The `seq` of a change that is known: begin with the one behind it; by default
                with the next that happens.
            patience: Seconds that no server may be reached.
        Raises:
            NotSupportedError: this server has no registry.
            APIConnectionError: no server was reached for so long; in the iteration, like all.
        """
        found: Feed = self._follow(self._sender, FollowingChanges(after, patience))
        return found


class Following(ABC, Generic[Told, Heard]):
    """What is known of a stream that is being followed, and how long to wait after a break."""

    is_over = False
    """Whether its last event was told."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._wait = 0.0
        self._waited = 0.0

    @abstractmethod
    def call(self) -> StreamCall[Told]:
        """What to ask for now."""

    @abstractmethod
    def heard(self, told: Told) -> Heard:
        """Note an event, and give it."""

    def check(self) -> Call[bool] | None:
        """What tells, after a proper end of the stream, whether there is no more to come."""
        return None

    def pause(self, failure: errors.AiaasError | None) -> float:
        """Seconds to wait before the next connection; `failure` is None after a proper end.

        Raises:
            AiaasError: the failure, where it is final.
        """
        if failure is not None and not isinstance(failure, PASSING):
            raise failure
        is_silence = isinstance(failure, errors.APITimeoutError) and failure.phase == "read"
        if failure is None or is_silence:
            self._waited = 0.0  # the server was there
        elif self._waited >= self._patience:
            raise failure
        wait = self._wait = min(max(self._wait * 2, _FIRST_WAIT), _LONGEST_WAIT)
        self._waited += wait
        return wait

    def _news(self) -> None:
        """Something was told: the next break is a first one."""
        self._wait = self._waited = 0.0


class FollowingChanges(Following["tuple[str, Change]", "Change"]):
    """A change feed without end."""

    def __init__(self, after: int | None, patience: float) -> None:
        super().__init__(patience)
        self._last = "" if after is None else str(int(after))

    def call(self) -> StreamCall[tuple[str, Change]]:
        """What to ask for now."""
        return calls.changes(self._last)

    def heard(self, told: tuple[str, Change]) -> Change:
        """Note a change, and give it."""
        self._last, change = told
        self._news()
        return change


def follow(sender: Any, following: Following[Any, Heard]) -> Stream[Heard]:
    """Follow from threads."""

    def events() -> Generator[Heard, None, None]:
        patient = sender.with_options(deadline=_NO_DEADLINE, max_retries=0)
        while True:
            failure = None
            try:
                with patient.stream(following.call()) as stream:
                    for told in stream:
                        yield following.heard(told)
                        if following.is_over:
                            return
                if (check := following.check()) is not None and sender.send(check):
                    return
            except errors.AiaasError as error:
                failure = error
            sender.clock.sleep(following.pause(failure))

    return Stream(events())


def afollow(sender: Any, following: Following[Any, Heard]) -> AsyncStream[Heard]:
    """Follow from an event loop."""

    async def events() -> AsyncGenerator[Heard, None]:
        patient = sender.with_options(deadline=_NO_DEADLINE, max_retries=0)
        while True:
            failure = None
            try:
                async with aclosing(patient.stream(following.call())) as stream:
                    async for told in stream:
                        yield following.heard(told)
                        if following.is_over:
                            return
                if (check := following.check()) is not None and await sender.send(check):
                    return
            except errors.AiaasError as error:
                failure = error
            await sender.clock.async_sleep(following.pause(failure))

    return AsyncStream(events())
