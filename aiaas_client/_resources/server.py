"""Calls about a server itself, for threads and tasks alike; both clients are such."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import oip as calls
from aiaas_client._api.call import Response
from aiaas_client._api.raw import raw_call
from aiaas_client._resources.account import AsyncAccount, ThreadAccount
from aiaas_client._resources.monitoring import AsyncFeedback, ThreadFeedback
from aiaas_client._resources.work import AsyncWork, ThreadWork
from aiaas_client._send.flavours import Metadata, Truth
from aiaas_client._send.raw import WithRawResponse

if TYPE_CHECKING:
    from aiaas_client._config import Timeouts
    from aiaas_client.protocol.messages import ServerMetadata  # in the bases below

AnyResponse = TypeVar("AnyResponse")  # a `Response`, or an awaitable of it


class ServerCalls(Generic[Truth, Metadata, AnyResponse]):
    """What can be asked of a server."""

    _sender: Any

    @property
    def with_raw_response(self) -> WithRawResponse:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return WithRawResponse(self, self._sender)

    def health(self) -> Truth:
        """Whether the server lives.

        Raises:
            APIConnectionError: it cannot be reached.
        """
        found: Truth = self._sender.send(calls.health())
        return found

    def ready(self) -> Truth:
        """Whether the server takes inference now.

        Raises:
            APIConnectionError: it cannot be reached.
        """
        found: Truth = self._sender.send(calls.ready())
        return found

    def metadata(self) -> Metadata:
        """Name, version and extensions of the server, a `ServerMetadata`.

        Raises:
            NotFoundError: this server does not tell them.
            AiaasError: anything else.
        """
        found: Metadata = self._sender.send(calls.server_metadata())
        return found

    def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        content: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        retryable: bool | None = None,
        timeout: float | Timeouts | None = None,
        deadline: float | None = None,
    ) -> AnyResponse:
        """Send any request to the server, with this client's key, retries and deadline.

        Args:
            method: The HTTP method.
            path: From the root of the base URL, "/v2/health/live" for example; with its query.
            json: A body, sent as JSON.
            content: A body, sent as it is; give its `Content-Type` in `headers`.
            headers: Sent in addition to, or in place of, those of this client.
            retryable: Whether it is safe to send it again even if the first one ran; by default
                that is true of every method but POST and PATCH.
            timeout: `Timeouts`, or seconds for reading and writing, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
        Returns:
            The answer, whose status is a 2xx.
        Raises:
            APIStatusError: any other status.
            ConfigurationError: arguments that make no request.
        """
        call = raw_call(method, path, json=json, content=content, retryable=retryable)
        sender = self._sender.with_options(timeout=timeout, deadline=deadline, headers=headers)
        found: AnyResponse = sender.send(call)
        return found


class ThreadServerCalls(
    ServerCalls[bool, "ServerMetadata", Response], ThreadFeedback, ThreadWork, ThreadAccount
):
    """Calls about a server, from threads."""


class AsyncServerCalls(
    ServerCalls[
        Coroutine[Any, Any, bool],
        Coroutine[Any, Any, "ServerMetadata"],
        Coroutine[Any, Any, Response],
    ],
    AsyncFeedback,
    AsyncWork,
    AsyncAccount,
):
    """Calls about a server, from an event loop."""
