"""What the request's header list says, read in one pass, and the headers of every answer."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import count

from starlette.types import Scope

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.errors import HttpError

Headers = dict[bytes, bytes]
HeaderList = list[tuple[bytes, bytes]]

NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_STORE = (b"cache-control", b"no-store")
JSON_TYPE = (b"content-type", b"application/json")
BINARY_TYPE = (b"content-type", b"application/octet-stream")

_own_id = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch
_digits = re.compile(rb"[0-9]{1,18}").fullmatch


def read_headers(scope: Scope) -> Headers:
    """Collect the header list in a dictionary; repeated names are joined with a comma."""
    pairs = scope["headers"]
    headers: Headers = dict(pairs)
    if len(headers) != len(pairs):
        headers = {}
        for name, value in pairs:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def _numbered_ids() -> Callable[[], bytes]:
    """Count upwards from a random start: unique in this process and, in practice, anywhere."""
    prefix = os.urandom(8).hex().encode()
    numbers = count(1)
    return lambda: b"%s-%x" % (prefix, next(numbers))


_next_id = _numbered_ids()
os.register_at_fork(after_in_child=lambda: globals().update(_next_id=_numbered_ids()))


def request_id_of(headers: Headers) -> bytes:
    """Keep the client's `X-Request-Id` if it is plain, else make one."""
    given = headers.get(b"x-request-id")
    return given if given is not None and _own_id(given) else _next_id()


def deadline_seconds(headers: Headers, default: float, longest: float) -> float:
    """Read `X-Request-Timeout-Ms`: how long this request may take, in seconds.

    Raises:
        HttpError: 400 unless it is a whole number of milliseconds from 1 to `longest`.
    """
    text = headers.get(b"x-request-timeout-ms")
    if text is None:
        return default
    milliseconds = int(text) if _digits(text) else 0
    if not 1 <= milliseconds <= longest * 1000:
        shown = text[:64].decode("latin-1")
        raise HttpError(
            400,
            ErrorCode.INVALID_REQUEST,
            f"X-Request-Timeout-Ms: expected 1 to {int(longest * 1000)}, got {shown!r}",
        )
    return milliseconds / 1000


def content_length(headers: Headers) -> int | None:
    """Read `Content-Length`; None when the body is chunked or absent.

    Raises:
        HttpError: 400 when it is not a number.
    """
    text = headers.get(b"content-length")
    if text is None:
        return None
    if not _digits(text):
        raise HttpError(400, ErrorCode.INVALID_REQUEST, "Content-Length: expected a number")
    return int(text)
