"""What both clients are before anything is asked of them: options, and the sender made of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from aiaas_client._config import DEFAULT_DEADLINE, MAX_ANSWER_BYTES, Limits, Timeouts
from aiaas_client._send.core import Core
from aiaas_client._send.endpoints import BreakerPolicy
from aiaas_client._send.options import sticky
from aiaas_client._send.pacing import RateLimit
from aiaas_client._send.retry import RetryPolicy

if TYPE_CHECKING:
    import ssl

Sends = TypeVar("Sends", bound=Core)
SendsWith = TypeVar("SendsWith")  # a transport
Around = TypeVar("Around")  # middleware

DEFAULT_TIMEOUTS = Timeouts()
DEFAULT_LIMITS = Limits()
DEFAULT_RETRY = RetryPolicy()
DEFAULT_BREAKER = BreakerPolicy()


class Configured(Generic[Sends, SendsWith, Around]):
    """A client as it is configured; what its arguments mean stands at `Client`."""

    _sender: Sends
    _sender_type: Any  # what makes a sender of these arguments

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        timeout: float | Timeouts = DEFAULT_TIMEOUTS,
        deadline: float = DEFAULT_DEADLINE,
        retry: RetryPolicy = DEFAULT_RETRY,
        max_retries: int | None = None,
        http_client: Any = None,
        backend: str = "httpx2",
        transport: SendsWith | None = None,
        headers: Mapping[str, str] | None = None,
        middleware: Sequence[Around] = (),
        limits: Limits = DEFAULT_LIMITS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        verify: bool | str | ssl.SSLContext = True,
        trust_env: bool = False,
        allow_insecure_http: bool = False,
        breaker: BreakerPolicy | None = DEFAULT_BREAKER,
        hedge_after: float | None = None,
        pace: bool = True,
    ) -> None:
        self._sender = self._sender_type(
            base_url,
            api_key=api_key,
            timeout=timeout,
            deadline=deadline,
            retry=retry,
            max_retries=max_retries,
            headers=headers,
            limits=limits,
            max_answer_bytes=max_answer_bytes,
            verify=verify,
            trust_env=trust_env,
            allow_insecure_http=allow_insecure_http,
            breaker=breaker,
            hedge_after=hedge_after,
            pace=pace,
            transport=transport,
            http_client=http_client,
            backend=backend,
            middleware=middleware,
        )

    def __repr__(self) -> str:
        urls = self._sender.urls
        state = ", closed" if self.is_closed else ""
        return f"<{type(self).__name__} {urls[0] if len(urls) == 1 else list(urls)}{state}>"

    @property
    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._sender.is_closed

    @property
    def rate_limits(self) -> list[RateLimit]:
        """What servers have told of their limits, for the key of this client; empty before the
        first answer that tells of one, and with `pace=False`."""
        return self._sender.rate_limits

    def with_options(
        self,
        *,
        timeout: float | Timeouts | None = None,
        deadline: float | None = None,
        max_retries: int | None = None,
        headers: Mapping[str, str] | None = None,
        sticky_key: str | None = None,
    ) -> Self:
        """Give a client that differs in these, on the same connections.

        Args:
            timeout: `Timeouts`, or seconds for reading and writing.
            deadline: Seconds for a whole call.
            max_retries: Attempts after the first.
            headers: Sent in addition to, or in place of, those of this client.
            sticky_key: Says who calls, where the calls of a model are split among versions: equal
                keys get the same one.
        Raises:
            ConfigurationError: a value that an option cannot have.
        """
        other = copy.copy(self)
        sender = self._sender.with_options(
            timeout=timeout, deadline=deadline, max_retries=max_retries, headers=headers
        )
        other._sender = sticky(sender, sticky_key)
        return other
