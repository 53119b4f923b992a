"""Master keys: what wraps the key of each artefact, and is kept where artefacts are not.

A key is 32 bytes, written as 64 hexadecimal digits or as they are. A file may have several lines:
the first key wraps what is new, the others still open what was wrapped before. So a key is changed
by writing the new one in front of the old one and running `aiaas master-key rotate`; the file is
read again when it changes, and no server has to be started anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

_log = logging.getLogger("aiaas_server")

KEY_BYTES: Final = 32
_MOST_BYTES: Final = 1 << 16  # of a file of keys
_ID_LENGTH: Final = 16


class MasterKeyRefused(Exception):
    """A master key cannot be used; the message tells the operator why, and never the key."""


class MasterKey(NamedTuple):
    """One key and its name, a short hash of it that tells nothing of it."""

    id: str
    secret: bytes

    def __repr__(self) -> str:
        """Without the secret."""
        return f"MasterKey({self.id})"


class MasterKeys:
    """The keys of one server, the current one first.

    Args:
        keys: At least one.
        path: The file that they come from, read again when it changes; None where they come from
            the environment.
    """

    def __init__(self, keys: Sequence[MasterKey], path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stamp = None if path is None else _stamp(path)
        self._keys = {key.id: key for key in keys}
        self._current = keys[0]

    @classmethod
    def of(cls, file: Path | None, text: str | None) -> MasterKeys | None:
        """The keys that settings name; None where they name none.

        Raises:
            MasterKeyRefused: They cannot be read, or are no keys.
        """
        if file is not None:
            return cls(read_keys(file), file)
        if text is not None:
            return cls(parse_keys(text.encode(), "AIAAS_SERVER_MASTER_KEY"))
        return None

    @property
    def current(self) -> MasterKey:
        """The one that wraps what is new."""
        self._refresh()
        return self._current

    def has(self, master: str) -> bool:
        """Whether the key of that name is here."""
        if master not in self._keys:
            self._refresh()
        return master in self._keys

    def wrap(self, data_key: bytes) -> tuple[bytes, str]:
        """A data key as it is kept, and the name of the master key that opens it."""
        current = self.current
        return aes_key_wrap(current.secret, data_key), current.id

    def unwrap(self, wrapped: bytes, master: str) -> bytes:
        """A data key.

        Raises:
            MasterKeyRefused: The master key is not here, or what is kept was changed.
        """
        if not self.has(master):
            raise MasterKeyRefused(f"the master key {master} is not here, only {self.names()}")
        try:
            return aes_key_unwrap(self._keys[master].secret, wrapped)
        except (InvalidUnwrap, ValueError):
            text = f"a data key wrapped by master key {master} is damaged"
            raise MasterKeyRefused(text) from None

    def names(self) -> str:
        """All that are here, for people."""
        return ", ".join(self._keys)

    def _refresh(self) -> None:
        """Read the file again if it is another one; one that is unusable changes nothing."""
        if self._path is None or (stamp := _stamp(self._path)) == self._stamp:
            return
        with self._lock:
            try:
                keys = read_keys(self._path)
            except MasterKeyRefused as error:
                _log.error("the keys known before stay: %s", error)
            else:
                self._keys, self._current = {key.id: key for key in keys}, keys[0]
            self._stamp = stamp


def read_keys(path: Path) -> list[MasterKey]:
    """The keys of a file.

    Raises:
        MasterKeyRefused: It cannot be read, others may read it, or it holds no keys.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise MasterKeyRefused(f"the master key {path}: {error.strerror}") from None
    if mode & 0o007:
        raise MasterKeyRefused(f"the master key {path}: others may use it; run: chmod 600 {path}")
    return parse_keys(content, f"the master key {path}")


def parse_keys(content: bytes, where: str) -> list[MasterKey]:
    """Keys as a file or a variable has them.

    Raises:
        MasterKeyRefused: That is no list of keys.
    """
    found = list(dict.fromkeys(_secrets(content, where)))
    if not found:
        raise MasterKeyRefused(f"{where}: expected 32 bytes or 64 hexadecimal digits, got nothing")
    return [MasterKey(name_of(secret), secret) for secret in found]


def _secrets(content: bytes, where: str) -> Iterator[bytes]:
    if len(content) == KEY_BYTES:  # as it came from a source of random bytes
        yield content
        return
    for number, line in enumerate(content.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        try:
            secret = bytes.fromhex(text.decode("ascii"))
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES or len(text) != 2 * KEY_BYTES:
            raise MasterKeyRefused(
                f"{where}: line {number}: expected 64 hexadecimal digits, got {len(text)} bytes"
            )
        yield secret


def name_of(secret: bytes) -> str:
    """The name of a key."""
    return hashlib.sha256(b"aiaas/master-key/" + secret).hexdigest()[:_ID_LENGTH]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # once for each key that is wrapped
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
