"""The whole answer of any call: `with_raw_response` of clients, handles and resources."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from inspect import isawaitable, isroutine
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from aiaas_client._errors import InputError, ProtocolError

if TYPE_CHECKING:
    from aiaas_client._api.call import Call, Headers, Response
    from aiaas_client._config import ServerFacts

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawResponse(Generic[T]):
    """A whole answer, and how to read it.

    Attributes:
        status: The HTTP status.
        headers: Looked up without regard to case.
        body: The bytes, decompressed.
        attempts: Requests it took.
        elapsed: Seconds it took, retries and waits included.
        request_id: The id the server knows the call by.
        endpoint: Base URL that answered.
    """

    status: int
    headers: Headers
    body: bytes = field(repr=False)  # it may hold a secret, such as a new key
    attempts: int
    elapsed: float
    request_id: str
    endpoint: str
    _parse: Callable[[], T] = field(repr=False)

    def parse(self) -> T:
        """Read the answer as the ordinary call would have.

        Raises:
            ProtocolError: it cannot be trusted.
        """
        return self._parse()


def raw(call: Call[T]) -> Call[RawResponse[T]]:
    """Make a call give its whole answer."""

    def keep(response: Response) -> RawResponse[T]:
        return RawResponse(
            response.status,
            response.headers,
            bytes(response.body),
            response.attempts,
            response.elapsed,
            response.request_id,
            response.endpoint,
            lambda: call.parse(response),
        )

    return replace(call, parse=keep)  # type: ignore[arg-type,return-value]  # the type changes


class Keeping:
    """A sender, of threads or of a loop, that keeps the last whole answer."""

    def __init__(self, sender: Any, kept: list[RawResponse[Any]]) -> None:
        self._sender = sender
        self._kept = kept

    @property
    def facts(self) -> ServerFacts:
        """What has been learned about the servers."""
        facts: ServerFacts = self._sender.facts
        return facts

    @property
    def clock(self) -> Any:
        """The time that the sender goes by."""
        return self._sender.clock

    def stream(self, call: Any, /) -> Any:
        """Streams are given as they are: nothing of them is kept."""
        return self._sender.stream(call)

    def send(self, call: Call[Any], /) -> Any:
        """Send a call, keep its answer, and read it."""
        answer = self._sender.send(raw(call))
        return self._read_later(answer) if isawaitable(answer) else self._read(answer)

    def with_options(self, **options: Any) -> Keeping:
        """Give a sender that differs in these and keeps in the same place."""
        return Keeping(self._sender.with_options(**options), self._kept)

    def _read(self, answer: RawResponse[T]) -> T:
        self._kept[:] = [answer]
        return answer.parse()

    async def _read_later(self, answer: Any) -> Any:
        return self._read(await answer)


class WithRawResponse:
    """The same methods, each giving a `RawResponse`: `handle.with_raw_response.infer(x=...)`.

    Of a call that takes several requests (such as a model's metadata first) it is the last answer;
    `.parse()` gives what the call itself would have. What gives no answer of its own, such as
    `client.with_raw_response.models` or `.model(name)`, is wrapped in turn.

    Args:
        owner: The client, handle or resource whose methods these are.
        sender: What its calls go through.
    """

    def __init_subclass__(cls, of: Any = None) -> None:
        if of is not None:
            of._view = cls

    def __init__(self, owner: Any, sender: Any) -> None:
        self._open: Callable[[Keeping], Any] = lambda keeping: _through(owner, keeping)
        self._sender = sender

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._member(name)

    def _member(self, name: str) -> Any:
        member = getattr(self._open(Keeping(self._sender, [])), name)
        if _sends(member):
            return self._inner(member, lambda keeping: getattr(self._open(keeping), name))
        if not isroutine(member):
            return member

        def call(*args: Any, **options: Any) -> Any:
            return self._call(name, args, options)

        return call

    def _call(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        kept: list[RawResponse[Any]] = []
        try:
            value = getattr(self._open(Keeping(self._sender, kept)), name)(*args, **options)
        except ProtocolError as error:
            return _unreadable(kept, error)
        if isawaitable(value):
            return _awaited(name, kept, value)
        if _sends(value) and not kept:  # a handle that was asked for is read from an answer
            return self._inner(value, lambda one: getattr(self._open(one), name)(*args, **options))
        return _answered(name, kept, value)

    def _inner(self, value: Any, reopen: Callable[[Keeping], Any]) -> WithRawResponse:
        inner: WithRawResponse = type(value.with_raw_response)(None, self._sender)
        inner._open = reopen
        return inner


class Whole(Generic[P, T]):
    """A method of a `WithRawResponse`, typed by the one whose whole answers it gives."""

    def __init__(self, method: Callable[Concatenate[Any, P], T]) -> None:
        self._name = method.__name__

    def __get__(self, view: WithRawResponse, owner: type) -> Callable[P, RawResponse[T]]:
        call: Callable[P, RawResponse[T]] = view._member(self._name)
        return call


class AsyncWhole(Generic[P, T]):
    """As `Whole`, of a method whose answer is awaited."""

    def __init__(self, method: Callable[Concatenate[Any, P], Awaitable[T]]) -> None:
        self._name = method.__name__

    def __get__(self, view: WithRawResponse, owner: type) -> Callable[P, Awaitable[RawResponse[T]]]:
        call: Callable[P, Awaitable[RawResponse[T]]] = view._member(self._name)
        return call


async def _awaited(name: str, kept: list[RawResponse[Any]], value: Any) -> RawResponse[Any]:
    try:
        return _answered(name, kept, await value)
    except ProtocolError as error:
        return _unreadable(kept, error)


def _answered(name: str, kept: list[RawResponse[Any]], value: Any) -> RawResponse[Any]:
    if not kept:  # a generator, a batcher, or what was known already
        raise InputError(f"{name} sends no single request: call it without with_raw_response")
    return replace(kept[-1], _parse=lambda: value)


def _unreadable(kept: list[RawResponse[Any]], error: ProtocolError) -> RawResponse[Any]:
    """The answer as it came; reading it tells what is wrong with it."""
    if not kept:
        raise error

    def parse() -> Any:
        raise error

    return replace(kept[-1], _parse=parse)


def _sends(value: object) -> bool:
    """Whether it is a handle or a resource."""
    return hasattr(value, "_sender")


def _through(owner: Any, keeping: Keeping) -> Any:
    """A copy of a client, handle or resource whose calls go through `keeping`."""
    other = copy.copy(owner)
    other._sender = keeping
    return other
