"""Keys as they are sent, what is kept of them, and the server's own secret.

A key is `aias_`, twelve characters that name it, `_`, 43 characters of 32 random bytes, and six of
a checksum, which tells a key that was cut from one that is unknown before anything is looked up.
What is kept is a keyed hash: against 256 random bits a slow one would only give attackers a way to
burn the processor.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from aiaas_server.state.prepare import DataRefused

PREFIX: Final = "aias_"
SECRET_FILE: Final = "secret"
_ID: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_key = re.compile(rb"aias_([a-z0-9]{12})_([A-Za-z0-9_-]{43})([A-Za-z0-9_-]{6})").fullmatch
_LEAST: Final = 32  # bytes of the server's secret


class SecretRefused(DataRefused):
    """The server's secret cannot be used; the message tells the operator why."""


class NewKey(NamedTuple):
    """A key that nobody has yet: its id, and the whole of it."""

    id: str
    text: str


def new_key() -> NewKey:
    """Draw a key."""
    name = "".join(secrets.choice(_ID) for _ in range(12))
    body = f"{PREFIX}{name}_{secrets.token_urlsafe(32)}"
    return NewKey(name, body + _checksum(body.encode()))


def key_id(given: bytes) -> str | None:
    """The id of a key that is whole; None of what is no key."""
    found = _key(given)
    if found is None or _checksum(given[:-6]).encode() != found[3]:
        return None
    return found[1].decode()


def hashed(pepper: bytes, given: bytes) -> bytes:
    """What is kept of a key."""
    return hmac.digest(pepper, given, "sha256")


class ServerSecret:
    """The secret of one server, from which others are derived.

    Args:
        master: 32 bytes or more.
    """

    def __init__(self, master: bytes) -> None:
        self._master = master

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose; they tell nothing of those for another."""
        return hmac.digest(self._master, b"aiaas/" + purpose.encode(), hashlib.sha256)

    @classmethod
    def of(cls, data: Path, given: Path | None = None) -> ServerSecret:
        """The secret of a data directory: a file in it, made if there is none.

        Args:
            given: A file elsewhere, such as one that several servers of a database share.
        Raises:
            SecretRefused: It cannot be read, or is too short.
        """
        path = given or data / SECRET_FILE
        try:
            if given is None and not path.exists():
                _make(path)
            found = path.read_bytes()
        except OSError as error:
            raise SecretRefused(f"the secret {path}: {error.strerror}") from None
        if len(found) < _LEAST:
            raise SecretRefused(
                f"the secret {path}: expected {_LEAST} bytes or more, got {len(found)}"
            )
        return cls(found)


def _make(path: Path) -> None:
    """Write a secret that is whole or not there; of two who make one, the first counts."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(_LEAST))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            path.hardlink_to(partial)
    finally:
        partial.unlink(missing_ok=True)


def _checksum(body: bytes) -> str:
    return urlsafe_b64encode(crc32(body).to_bytes(4, "big")).decode().rstrip("=")
