"""Keys: default deny, compared in constant time, guessing slowed down.

An address that fails 20 times within a minute is answered 429 until the minute is over. An
address that has shown the right key before keeps its access, so that a neighbour behind the same
proxy cannot lock it out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from hmac import compare_digest
from urllib.parse import parse_qsl, unquote_to_bytes

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.events import OPERATOR, Identity, Refusal
from aiaas_server.http.errors import HttpError
from aiaas_server.http.incoming import Headers, RequestContext

MAX_FAILURES = 20
WINDOW = 60.0
MAX_ADDRESSES = 10_000

_CHALLENGE = ((b"www-authenticate", b'Bearer realm="aiaas"'),)
_whole_key = re.compile(rb"aias_[a-z0-9]{12}_").search
_KEY_PARAMETERS = frozenset({"api_key", "api-key", "apikey", "x-api-key", "access_token"})


class FailureTable:
    """Counts failed attempts an address in windows of one minute; its size is bounded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[float, int]] = {}  # address -> window start, failures
        self._proven: dict[str, None] = {}

    def seconds_blocked(self, address: str) -> float:
        """Seconds for which `address` is refused unheard; 0.0 when it is not."""
        if not self._failures or address in self._proven:
            return 0.0
        start, failures = self._failures.get(address, (0.0, 0))
        return max(0.0, start + WINDOW - self._clock()) if failures >= MAX_FAILURES else 0.0

    def failed(self, address: str) -> None:
        """Count a failure."""
        now = self._clock()
        start, failures = self._failures.pop(address, (now, 0))
        if now - start >= WINDOW:
            start, failures = now, 0
        self._failures[address] = (start, failures + 1)
        if len(self._failures) > MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]

    def succeeded(self, address: str) -> None:
        """Remember that `address` has shown the right key."""
        if address not in self._proven:
            self._proven[address] = None
            if len(self._proven) > MAX_ADDRESSES:
                del self._proven[next(iter(self._proven))]


FindKey = Callable[[bytes], Identity | None]
"""Whose a key is; None for one that is not good."""


def one_key(key: str) -> FindKey:
    """The keys of a server with one static key: who carries it is the operator."""
    known = key.encode()
    return lambda given: OPERATOR if compare_digest(given, known) else None


Refused = Callable[[Refusal], None]
"""Is told of requests that were turned away for who asked; must be quick."""


def nobody(refusal: Refusal) -> None:
    """Nobody wants to know."""


def refusal_of(context: RequestContext) -> Refusal:
    """Of a key that is good, and may not do what was asked."""
    tenant, key_id = context.caller.identity[:2]
    return Refusal(403, ErrorCode.FORBIDDEN.value, context.address, context.act, tenant, key_id)


class KeyCheck:
    """Lets a request pass when it carries a key that is good.

    Args:
        refused: Is told of those that do not.
    """

    def __init__(
        self, find: FindKey, failures: FailureTable | None = None, refused: Refused = nobody
    ) -> None:
        self._find = find
        self._failures = failures or FailureTable()
        self._refused = refused

    def check(self, headers: Headers, query: bytes, address: str, path: str = "") -> Identity:
        """Whose request it is.

        Args:
            query: Of the request's target, undecoded.
            address: The client's; failures are counted by it.
            path: Of the target, decoded.
        Raises:
            HttpError: 401 for no key or a wrong one, 400 for a key given twice or in the URL,
                429 after too many failures.
        """
        try:
            return self._check(headers, query, address, path)
        except HttpError as error:
            self._refused(Refusal(error.status, error.code.value, address))
            raise

    def _check(self, headers: Headers, query: bytes, address: str, path: str) -> Identity:
        blocked = self._failures.seconds_blocked(address)
        if blocked:
            raise HttpError(
                429,
                ErrorCode.RATE_LIMITED,
                "too many failed authentications from this address",
                retry_after=blocked,
            )
        if "aias_" in path and _whole_key(path.encode("utf-8", "replace")):
            raise _key_in_url()
        given = _key_of(headers, query)
        identity = None if given is None else self._find(given)
        if identity is None:
            self._failures.failed(address)
            message = "expected a valid API key in Authorization: Bearer or X-API-Key"
            raise HttpError(401, ErrorCode.UNAUTHORIZED, message, headers=_CHALLENGE)
        self._failures.succeeded(address)
        return identity


def _key_of(headers: Headers, query: bytes) -> bytes | None:
    if query:
        _refuse_key_in_url(query)
    authorization = headers.get(b"authorization")
    key = headers.get(b"x-api-key")
    if authorization is None:
        return key
    if key is not None:
        message = "expected one of Authorization and X-API-Key, got both"
        raise HttpError(400, ErrorCode.INVALID_REQUEST, message)
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def _refuse_key_in_url(query: bytes) -> None:
    try:
        names = {name.lower() for name, _ in parse_qsl(query.decode("latin-1"), True)}
    except ValueError:  # more parameters than the parser counts
        names = set()
    if names & _KEY_PARAMETERS or _whole_key(unquote_to_bytes(query)):
        raise _key_in_url()


def _key_in_url() -> HttpError:
    message = "an API key in the URL is refused; send Authorization: Bearer or X-API-Key"
    return HttpError(400, ErrorCode.INVALID_REQUEST, message)
