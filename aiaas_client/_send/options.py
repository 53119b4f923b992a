"""Options of a client, checked as they come in, and the headers made of them."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from os import PathLike
from typing import Any, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._api.call import RawHeaders
from aiaas_client._config import Timeouts, user_agent

Sends = TypeVar("Sends", bound=Any)  # calls

STICKY_KEY = "X-Sticky-Key"
_KEYS = frozenset({b"authorization", b"x-api-key", b"api-key"})
LONGEST = 1e9
"""Seconds that stand for any longer time, endless ones too: sockets and clocks take no more."""


def of_type(name: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Refuse an option of a type that it cannot have.

    Raises:
        OptionTypeError: names the option, what was expected and what came.
    """
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise errors.OptionTypeError(f"{name}: expected {wanted}, got {type(value).__name__}")


def positive(name: str, seconds: float) -> float:
    """Check a duration; gives it, at most `LONGEST`.

    Raises:
        ConfigurationError: it is not a number above 0.
    """
    of_type(name, seconds, (int, float), "seconds")
    if not seconds > 0:
        raise errors.ConfigurationError(f"{name}: expected seconds above 0, got {seconds!r}")
    return min(seconds, LONGEST)


def counted(name: str, value: int) -> int:
    """Check a number of things.

    Raises:
        ConfigurationError: it is not a whole number from 0 on.
    """
    of_type(name, value, int, "a whole number")
    if value < 0:
        raise errors.ConfigurationError(f"{name}: expected 0 or more, got {value}")
    return value


def timeouts_of(value: float | Timeouts) -> Timeouts:
    """Check timeouts, given as such or as one number.

    Raises:
        ConfigurationError: one of them is not a number above 0.
    """
    if not isinstance(value, Timeouts):
        return Timeouts.of(positive("timeout", value))
    for name in ("connect", "read", "write", "pool"):
        seconds = getattr(value, name)
        if seconds is not None:
            positive(f"timeout: {name}", seconds)
    return value


def verification(value: Any) -> Any:
    """Check what certificates are verified with.

    Raises:
        OptionTypeError: neither a boolean nor a path nor a context.
        ConfigurationError: a path where there is nothing, or no certificates.
    """
    if isinstance(value, bool) or hasattr(value, "wrap_socket"):
        return value
    if isinstance(value, str | PathLike):
        return _certificates(os.fspath(value))
    wanted = "True, False, the path of a CA bundle or an ssl.SSLContext"
    raise errors.OptionTypeError(f"verify: expected {wanted}, got {type(value).__name__}")


def _certificates(path: str) -> str:
    """Check a CA bundle now: a call would tell of it as of a server that cannot be reached."""
    import ssl

    if not os.path.exists(path):  # noqa: PTH110  # a path of any characters, the empty one too
        raise errors.ConfigurationError(f"verify: no file or directory {path!r}")
    if os.path.isfile(path):  # noqa: PTH113
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:  # ssl.SSLError is one
            reason = getattr(error, "reason", None) or error.strerror or str(error)
            raise errors.ConfigurationError(
                f"verify: expected a file of certificates in PEM, got {path!r}: {reason}"
            ) from None
    return path


def base_headers(key: str | None, extra: Mapping[str, str]) -> RawHeaders:
    """Give the headers of every request: the SDK's own, and the caller's in addition."""
    own = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
    if key is not None:
        own["Authorization"] = f"Bearer {key}"
    return merged([_raw_header(name, value) for name, value in own.items()], extra)


def merged(known: RawHeaders, extra: Mapping[str, str]) -> RawHeaders:
    """Give `known` with `extra` in addition, or in place of those of the same name.

    Raises:
        ConfigurationError: a name or a value that no header can carry.
    """
    of_type("headers", extra, Mapping, "a mapping of name to value")
    added = [_raw_header(name, value) for name, value in extra.items()]
    replaced = {name.lower() for name, _ in added}
    return [header for header in known if header[0].lower() not in replaced] + added


def key_of(headers: RawHeaders) -> bytes:
    """What headers say of who asks; empty where they say nothing."""
    return b"\n".join(value for name, value in headers if name.lower() in _KEYS)


def _raw_header(name: str, value: str) -> tuple[bytes, bytes]:
    of_type("headers: name", name, str, "text")
    of_type(f"header {name!r}", value, str, "text")
    if "\r" in name + value or "\n" in name + value or "\0" in name + value:
        raise errors.ConfigurationError(f"header {name!r}: expected one line")
    try:
        return name.encode("ascii"), value.encode("latin-1")
    except UnicodeEncodeError as error:
        # The encoder's own error holds the value, which may be a key: only its reason is told.
        raise errors.ConfigurationError(f"header {name!r}: {error.reason}") from None


def open_local(kind: str, path: str | PathLike[str] | None, options: Mapping[str, Any]) -> Any:
    """Make a transport that runs models in this process."""
    try:
        module = importlib.import_module("aiaas_client._transport.local")
        return getattr(module, kind)(path, **options)
    except ModuleNotFoundError as error:
        extra = "server" if options.get("data") is None else "server,platform"
        raise errors.ConfigurationError(
            f"local models need the server part ({error.name} is not installed): "
            f'pip install "aiaas-client[{extra}]"'
        ) from error


def check_backend(backend: str, known: Iterable[str]) -> None:
    """Refuse a library that does not send, or is not here.

    Raises:
        ConfigurationError: names what was expected, or what to install.
    """
    if backend not in known:
        expected = " or ".join(map(repr, known))
        raise errors.ConfigurationError(f"backend: expected {expected}, got {backend!r}")
    if find_spec(backend) is None:
        raise errors.ConfigurationError(
            f'backend: {backend} is not installed: pip install "aiaas-client[{backend}]"'
        )


def loaded(place: tuple[str, str]) -> Any:
    """Give the transport of a module, which is loaded with its first request only."""
    module, name = place
    return getattr(importlib.import_module(module), name)


def check_http_client(http_client: object, *, asynchronous: bool) -> None:
    """Refuse a client of another kind or library.

    Raises:
        OptionTypeError: names what was expected and what came.
    """
    from aiaas_client._transport.borrowed import is_http_client

    if not is_http_client(http_client, asynchronous=asynchronous):
        wanted = "AsyncClient" if asynchronous else "Client"
        raise errors.OptionTypeError(
            f"http_client: expected httpx2.{wanted} or httpx.{wanted}, "
            f"got {type(http_client).__module__}.{type(http_client).__qualname__}"
        )


def sticky(sender: Sends, key: str | None) -> Sends:
    """The sender; with a key, one whose calls tell it.

    Raises:
        ConfigurationError: it is not what servers take.
    """
    if key is None:
        return sender
    of_type("sticky_key", key, str, "text")
    if re.fullmatch(r"[!-~]{1,128}", key) is None:
        raise errors.ConfigurationError(
            f"sticky_key: expected 1 to 128 visible ASCII characters, got {key[:64]!r}"
        )
    told: Sends = sender.with_options(headers={STICKY_KEY: key})
    return told
