"""Fetching a file: counted and hashed as it is written, begun anew where it breaks."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from aiaas_client import _errors as errors
from aiaas_client._api.call import DownloadCall
from aiaas_client._send.work import Local, Save, Work
from aiaas_client.protocol.management import BundleFile


def fetch(call: DownloadCall, file: BundleFile, directory: Path) -> Work[None]:
    """Write a file into a directory.

    Raises:
        ProtocolError: The bytes that came are not those that were announced.
    """
    for left in (2, 1, 0):
        try:
            with _Arriving(file, directory) as arriving:
                yield Save(call, arriving.write)
                arriving.check()
            return
        except (errors.APIConnectionError, errors.APITimeoutError):
            if not left:
                raise


def fetch_to(call: DownloadCall, file: BundleFile, target: Path) -> Work[Path]:
    """Write a file to a place where it is as a whole or not at all; what was there is replaced.

    Raises:
        ProtocolError: The bytes that came are not those that were announced.
        InputError: A directory is in its place.
    """
    beside: Path = yield Local(partial(_directory_beside, target))
    try:
        yield from fetch(call, file, beside)
        yield Local(partial((beside / file.name).replace, target))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _directory_beside(target: Path) -> Path:
    if target.is_dir():
        raise errors.InputError(f"'{target}': expected the path of a file, got a directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))


class _Arriving:
    """A file on its way, counted and hashed as it is written."""

    def __init__(self, file: BundleFile, directory: Path) -> None:
        self._file = file
        self._written = 0
        self._digest = hashlib.sha256()
        self._target = (directory / file.name).open("wb")

    def __enter__(self) -> Self:
        return self

    def write(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            ProtocolError: there are more than were announced.
        """
        self._written += len(piece)
        if self._written > self._file.size:
            raise errors.ProtocolError(f"{self._file.name}: over {self._file.size} bytes came")
        self._digest.update(piece)
        self._target.write(piece)

    def check(self) -> None:
        """See that all has come.

        Raises:
            ProtocolError: these are not the bytes that were announced.
        """
        if self._digest.hexdigest() != self._file.sha256:
            raise errors.ProtocolError(
                f"{self._file.name}: expected {self._file.size} bytes with sha256 "
                f"{self._file.sha256}, got {self._written} others"
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._target.close()
