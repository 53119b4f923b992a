"""What carries a sender's attempts: a library it knows, the caller's client or transport."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from aiaas_client._send.core import CallState, Core
from aiaas_client._send.middleware import check_kinds
from aiaas_client._send.options import check_backend, check_http_client, loaded

if TYPE_CHECKING:
    from aiaas_client._send.endpoints import Endpoint
    from aiaas_client._transport.wire import WireRequest

T = TypeVar("T")
Place = tuple[str, str]  # a module, and the name of a class in it


class Backends(Core):
    """The choice of a transport, and the way of an attempt to it, for threads and tasks alike.

    What is awaited in tasks is handed on here as it comes.
    """

    _asynchronous: ClassVar[bool]
    _backends: ClassVar[Mapping[str, Place]]
    _borrowed: ClassVar[Place]
    _chain: ClassVar[Callable[..., Any]]  # `chain`, or `achain`

    def _check(self, backend: str, http_client: Any, middleware: Sequence[Any]) -> None:
        check_kinds(middleware, asynchronous=self._asynchronous)
        check_backend(backend, self._backends)
        self._backend = backend
        if http_client is not None:
            check_http_client(http_client, asynchronous=self._asynchronous)

    def _attempt(self, state: CallState[T]) -> Any:
        endpoint = self._shared.endpoints.take(state.avoid)
        if self._may_hedge(state.call):
            return self._hedged(state, endpoint)
        return self._exchange(state, endpoint)

    def _pipeline(self) -> Callable[[WireRequest], Any]:
        send: Callable[[WireRequest], Any] = self._open_transport().send
        return self._chain(self._middleware, send) if self._middleware else send

    def _new_transport(self) -> Any:
        if self._given_transport is not None:
            return self._given_transport
        if self._http_client is not None:
            return loaded(self._borrowed)(self._http_client, self._max_answer_bytes)
        pooled = loaded(self._backends[self._backend])
        return pooled(self._trust(), self._limits, self._max_answer_bytes)

    @abstractmethod
    def _open_transport(self) -> Any:
        """Give the transport, made with the first call that needs it."""

    @abstractmethod
    def _exchange(self, state: CallState[T], endpoint: Endpoint) -> Any:
        """Make one attempt at one endpoint, and read its answer."""

    @abstractmethod
    def _hedged(self, state: CallState[T], first: Endpoint) -> Any:
        """Ask a second endpoint when the first is slow; the first good answer wins."""
