"""Defaults, small value objects, and where the base URL and the key come from."""

from __future__ import annotations

import ipaddress
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiaas_client._errors import ConfigurationError, OptionTypeError

VERSION = "0.1.0"  # the distribution's; reading its metadata would cost each start 10 ms
BASE_URL_VARIABLE = "AIAAS_BASE_URL"
API_KEY_VARIABLE = "AIAAS_API_KEY"

DEFAULT_DEADLINE = 60.0
LOCAL_ENDPOINT = "local:"  # stands for the base URL where models run in this process
MAX_ANSWER_BYTES = 64 << 20
MAX_SERVER_TIMEOUT_MS = 300_000  # the longest time a server takes in X-Request-Timeout-Ms
IDLE_EXPIRY = 45.0  # below the server's 60 s, so that we close an idle connection first


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for each phase of one attempt; None leaves only the deadline.

    Attributes:
        connect: To open a connection, TLS included.
        read: Between two pieces of the answer, and until the first one.
        write: For each piece of the request.
        pool: To wait for a free connection.
    """

    connect: float | None = 5.0
    read: float | None = 30.0
    write: float | None = 30.0
    pool: float | None = 5.0

    @classmethod
    def of(cls, value: float | Timeouts) -> Timeouts:
        """Give `value` itself, or one number as the timeout of reading and writing."""
        return value if isinstance(value, Timeouts) else cls(read=value, write=value)

    def clipped(self, left: float) -> Timeouts:
        """Give these timeouts, none longer than `left` seconds."""
        if left >= self.longest():
            return self
        return Timeouts(*(left if phase is None else min(phase, left) for phase in self._phases()))

    def longest(self) -> float:
        """Give the longest of these timeouts, infinity where one has no end of its own."""
        return max(math.inf if phase is None else phase for phase in self._phases())

    def _phases(self) -> tuple[float | None, ...]:
        return self.connect, self.read, self.write, self.pool


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections one client keeps.

    Attributes:
        max_connections: Open at the same time, for all endpoints.
        max_keepalive_connections: Kept open while idle.
        keepalive_expiry: Seconds after which an idle one is closed.
    """

    max_connections: int = 100
    max_keepalive_connections: int = 100
    keepalive_expiry: float = IDLE_EXPIRY


async def _async_sleep(seconds: float) -> None:
    import asyncio  # not needed by programs that use threads

    await asyncio.sleep(seconds)


@dataclass(slots=True)
class ServerFacts:
    """What a client has learned about its servers; all its handles share it.

    Attributes:
        needs_wire: False where calls stay in this process, so that nothing need be encoded.
        reads_binary: Whether binary tensors are understood; None until an answer has told.
        tasks: By a model's name and version what its card tells: the task, and whether it takes
            files.
    """

    needs_wire: bool = True
    reads_binary: bool | None = None
    tasks: dict[tuple[str, str | None], tuple[str, bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, sleep and chance, in one place that tests can replace.

    Attributes:
        monotonic: Seconds of a clock that never goes back; deadlines and waits go by it.
        wall: Seconds since the epoch, for dates that a server names.
        sleep: Waits so many seconds, in threads.
        async_sleep: As `sleep`, on an event loop.
        random: A number from 0 up to 1, which spreads the waits between attempts.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    async_sleep: Callable[[float], Awaitable[None]] = _async_sleep
    random: Callable[[], float] = random.random


SYSTEM_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What one call, or a client made by `with_options`, does differently; None: as before."""

    timeout: float | Timeouts | None = None
    deadline: float | None = None
    max_retries: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def resolve_base_urls(
    base_url: str | Sequence[str] | None, *, with_key: bool, allow_insecure_http: bool
) -> tuple[str, ...]:
    """Give the endpoints, checked, without trailing slashes.

    Raises:
        ConfigurationError: none given, not an http or https URL, or a key would travel in clear.
    """
    given = os.environ.get(BASE_URL_VARIABLE, "") if base_url is None else base_url
    urls = given.split(",") if isinstance(given, str) else _texts(given)
    endpoints = tuple(dict.fromkeys(url.strip().rstrip("/") for url in urls if url.strip()))
    if not endpoints:
        raise ConfigurationError(
            f"base_url: expected an address like 'http://127.0.0.1:8000', got nothing "
            f"(neither as an argument nor in {BASE_URL_VARIABLE})"
        )
    for url in endpoints:
        _check_url(url, with_key=with_key, allow_insecure_http=allow_insecure_http)
    return endpoints


def _texts(given: object) -> list[str]:
    urls = []
    for url in given if isinstance(given, Iterable) else [given]:
        if not isinstance(url, str):
            kind = type(url).__name__
            raise OptionTypeError(f"base_url: expected text or a list of texts, got {kind}")
        urls.append(url)
    return urls


def _check_url(url: str, *, with_key: bool, allow_insecure_http: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"base_url {url!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigurationError(f"base_url: expected http://host or https://host, got {url!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            f"base_url: expected no user name, query or fragment, got one for {host!r}"
        )
    if parts.scheme == "http" and with_key and not allow_insecure_http and not _is_loopback(host):
        raise ConfigurationError(
            f"base_url {url!r}: the key would travel unencrypted; use https://, "
            "or say allow_insecure_http=True"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve_api_key(api_key: str | None) -> str | None:
    """Give the key, from the argument or the environment; None without one.

    Raises:
        ConfigurationError: it holds characters that no header can carry.
    """
    key = os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key
    if key is not None and not isinstance(key, str):
        raise OptionTypeError(f"api_key: expected text, got {type(key).__name__}")
    if not key:
        return None
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationError("api_key: expected printable ASCII without spaces")
    return key


def user_agent() -> str:
    """Name this SDK and its version to the server."""
    return f"aiaas-client/{VERSION}"
