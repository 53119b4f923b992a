"""Content codings: what a request body is wrapped in, and what the answer may be wrapped in."""

from __future__ import annotations

from functools import lru_cache

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.errors import HttpError

IDENTITY = "identity"
_CODINGS = frozenset({IDENTITY, "gzip", "deflate"})
ACCEPTED = (b"accept-encoding", b"gzip, deflate")


@lru_cache(maxsize=256)
def answer_coding(accept_encoding: bytes) -> str:
    """Choose among `identity`, `gzip` and `deflate` the entry with the greatest `q`.

    The first one wins ties, no `q` means 1; other codings and `*` are ignored (protocol 6).
    An entry with `q=0` is never chosen.
    """
    best, best_weight = IDENTITY, 0.0
    for entry in accept_encoding.decode("latin-1").split(","):
        name, _, parameters = entry.partition(";")
        weight = _weight(parameters)
        if name.strip().lower() in _CODINGS and weight > best_weight:
            best, best_weight = name.strip().lower(), weight
    return best


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            return _quality(value.strip())
    return 1.0


def _quality(value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def body_coding(content_encoding: bytes) -> str:
    """Read `Content-Encoding`: `gzip`, `deflate`, or `identity` for that and for nothing.

    Raises:
        HttpError: 415 with `Accept-Encoding` for any other coding, several ones included.
    """
    name = content_encoding.decode("latin-1").strip().lower() or IDENTITY
    if name in _CODINGS:
        return name
    raise HttpError(
        415,
        ErrorCode.UNSUPPORTED_ENCODING,
        f"Content-Encoding: expected identity, gzip or deflate, got {name[:64]!r}",
        headers=(ACCEPTED,),
    )
