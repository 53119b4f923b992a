"""Where the bytes of artefacts lie: a directory of this machine, or a bucket of S3.

A store knows keys and bytes. What they are, and whether they are what they should be, is
`artefacts`. Every call blocks, with an end: a store that does not answer is `StateUnavailable`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Final, Protocol
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import S3Store

from aiaas_server.core.errors import NotFound, StateUnavailable, StorageFull
from aiaas_server.state.artefacts.handing import hand_over
from aiaas_server.state.durable import make_durable, sync_directory, sync_file

_log = logging.getLogger("aiaas_server")

PIECE: Final = 1 << 20  # bytes read from a file at a time
_RANGE: Final = 8 << 20  # bytes of one request to S3, either way
_AT_ONCE: Final = 4  # parts that are sent to S3 at a time
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a file system that has no room."""


class Missing(NotFound):
    """The store has no such object."""


class Damaged(Exception):
    """What the store has of an object is not what was put there."""


class Store(Protocol):
    """Objects by key, `tenant/aa/digest`."""

    def put(self, key: str, path: Path) -> None:
        """Keep the bytes of a file, durably, in place of what was there; the file is used up."""
        ...

    def put_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        """Keep bytes as they come, durably, in place of what was there; all of them or none."""
        ...

    def size(self, key: str) -> int | None:
        """How large an object is; None where there is none."""
        ...

    def pieces(self, key: str) -> Iterator[bytes]:
        """The bytes of an object, piece by piece. Raises `Missing`, or `Damaged`."""
        ...

    def beginning(self, key: str, length: int) -> bytes:
        """The first bytes of an object. Raises `Missing`."""
        ...

    def local(self, key: str) -> Path | None:
        """The file that holds the object; None where it is none of this machine."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; fine where there is none."""
        ...

    def forget(self, keys: Collection[str]) -> None:
        """Make objects unreadable at once that are about to be removed, where that can be."""
        ...

    def sizes(self) -> Iterator[tuple[str, int]]:
        """All keys with the sizes of their objects."""
        ...

    def clean(self) -> int:
        """Remove what writers left that are gone; how many there were."""
        ...


class LocalStore:
    """A directory. What is put there is on the disk when `put` returns, under its whole name.

    obstore could keep a directory too, but it does not wait for the disk.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, path: Path) -> None:
        """Move the file there; over file systems it is copied."""
        target = self._root / key
        with file_errors():
            make_durable(target.parent, self._root)
            sync_file(path)
            try:
                path.replace(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                self._copy(path, target)
                path.unlink()
            sync_directory(target.parent)

    def _copy(self, path: Path, target: Path) -> None:
        with path.open("rb") as source, self._staged(target) as sink:
            shutil.copyfileobj(source, sink, PIECE)

    def put_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        """Write a file beside it, which takes its name once it is whole."""
        target = self._root / key
        with file_errors():
            make_durable(target.parent, self._root)
            with self._staged(target) as sink:
                for piece in pieces:
                    sink.write(piece)
            sync_directory(target.parent)

    @contextmanager
    def _staged(self, target: Path) -> Iterator[BinaryIO]:
        """A file that becomes `target` once the disk has all of it."""
        staged = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
        try:
            with staged.open("xb") as sink:
                fcntl.flock(sink, fcntl.LOCK_EX)  # whoever finds it unlocked may remove it
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
                staged.replace(target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise

    def size(self, key: str) -> int | None:
        """Of the file."""
        with file_errors():
            try:
                return (self._root / key).stat().st_size
            except FileNotFoundError:
                return None

    def pieces(self, key: str) -> Iterator[bytes]:
        """Read the file. One that is replaced or removed meanwhile is read to its own end."""
        with file_errors():
            try:
                file = (self._root / key).open("rb")
            except FileNotFoundError:
                raise Missing(f"artefact {key} is missing in the store") from None
            with file:
                while piece := file.read(PIECE):
                    yield piece

    def beginning(self, key: str, length: int) -> bytes:
        """Read so much of the file."""
        with file_errors():
            try:
                with (self._root / key).open("rb") as file:
                    return file.read(length)
            except FileNotFoundError:
                raise Missing(f"artefact {key} is missing in the store") from None

    def forget(self, keys: Collection[str]) -> None:
        """Nothing: the file is what there is of it."""

    def local(self, key: str) -> Path | None:
        """The file."""
        return self._root / key

    def delete(self, key: str) -> None:
        """Remove the file, and see to it that the disk knows."""
        target = self._root / key
        with file_errors():
            target.unlink(missing_ok=True)
            if target.parent.is_dir():
                sync_directory(target.parent)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Walk the directory."""
        for path in self._root.glob("*/*/*"):
            if not path.name.startswith("."):
                with suppress(FileNotFoundError):
                    yield path.relative_to(self._root).as_posix(), path.stat().st_size

    def clean(self) -> int:
        """Remove copies whose writers are gone."""
        removed = 0
        for path in self._root.glob("*/*/.*"):
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
        return removed


class ObjectStore:
    """A bucket of S3 or of what speaks like it; keys and endpoint are read from `AWS_*`.

    An object of ours never changes, so writing it twice is writing it once: large ones go in
    parts, which S3 puts together in one step, and small ones in one request.

    Args:
        url: `s3://bucket/prefix`. The prefix is this server's alone.
        timeout: Seconds a request may stand still, and twice that for all of it with its
            repetitions.
    """

    def __init__(self, url: str, *, timeout: float = 20.0) -> None:
        place = urlsplit(url)
        self._prefix = place.path.strip("/")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        self._store = S3Store(
            place.netloc,
            prefix=self._prefix or None,
            client_options={
                "connect_timeout": timedelta(seconds=min(5.0, timeout)),
                "timeout": timedelta(seconds=timeout),
                "allow_http": endpoint.startswith("http://"),
            },
            retry_config={
                "max_retries": 3,
                "retry_timeout": timedelta(seconds=timeout),
                "backoff": {
                    "init_backoff": timedelta(seconds=0.1),
                    "max_backoff": timedelta(seconds=2.0),
                    "base": 2,
                },
            },
        )

    def put(self, key: str, path: Path) -> None:
        """Send the file, a few parts at a time."""
        with _object_errors(key):
            parts = path.stat().st_size > _RANGE
            obstore.put(
                self._store,
                key,
                path,
                use_multipart=parts,
                chunk_size=_RANGE,
                max_concurrency=_AT_ONCE,
            )
        path.unlink()

    def put_pieces(self, key: str, pieces: Iterator[bytes]) -> None:
        """Send them in parts; what breaks off leaves what was there."""

        def send(taken: Iterator[bytes]) -> None:
            with _object_errors(key):
                obstore.put(
                    self._store,
                    key,
                    taken,
                    use_multipart=True,
                    chunk_size=_RANGE,
                    max_concurrency=_AT_ONCE,
                )

        hand_over(pieces, send)

    def size(self, key: str) -> int | None:
        """Ask for the object's head."""
        try:
            with _object_errors(key):
                return obstore.head(self._store, key)["size"]
        except Missing:
            return None

    def pieces(self, key: str) -> Iterator[bytes]:
        """Ask for one range after another, so that each request is short."""
        with _object_errors(key):
            size = obstore.head(self._store, key)["size"]
            for start in range(0, size, _RANGE):
                end = min(start + _RANGE, size)
                yield bytes(obstore.get_range(self._store, key, start=start, end=end))

    def beginning(self, key: str, length: int) -> bytes:
        """Ask for a range; a shorter object is asked for whole."""
        with _object_errors(key):
            size = obstore.head(self._store, key)["size"]
            end = min(size, length)
            return bytes(obstore.get_range(self._store, key, start=0, end=end)) if end else b""

    def forget(self, keys: Collection[str]) -> None:
        """Nothing: the object is what there is of it."""

    def local(self, key: str) -> Path | None:
        """None: it is none."""
        return None

    def delete(self, key: str) -> None:
        """Delete the object."""
        with suppress(Missing), _object_errors(key):
            obstore.delete(self._store, key)

    def sizes(self) -> Iterator[tuple[str, int]]:
        """List the bucket below the prefix."""
        with _object_errors("list"):
            for page in obstore.list(self._store):
                for found in page:
                    yield found["path"], found["size"]

    def clean(self) -> int:
        """Nothing: parts of what was never finished are the bucket's life cycle rule's."""
        return 0


@contextmanager
def file_errors() -> Iterator[None]:
    """Translate what the file system says."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull("the disk of the server is full: nothing can be written") from error
        _log.error("the directory of artefacts: %s", error)
        raise StateUnavailable("the directory of artefacts cannot be used; try again") from error


@contextmanager
def _object_errors(key: str) -> Iterator[None]:
    """Translate what obstore says; its texts name hosts and buckets, so they are for the log."""
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise Missing(f"artefact {key} is missing in the store") from None
    except (BaseError, OSError) as error:
        _log.error("the store of artefacts: %s", str(error)[:1024])
        raise StateUnavailable("the store of artefacts does not answer; try again") from error
