"""The audit of a data directory without its server: checked, and old entries taken out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from aiaas_client.protocol.audit import Verification
from aiaas_server.core.errors import ServerError
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.prepare import database_url
from aiaas_server.tenancy.audit_archive import (
    Archived,
    ArchiveRefused,
    check_archive,
    take_out,
    write_archive,
)
from aiaas_server.tenancy.audit_head_file import HEAD_FILE, read_head, write_head
from aiaas_server.tenancy.audit_verify import verify
from aiaas_server.tenancy.secrets import SECRET_FILE, SecretRefused, ServerSecret


class OfflineRefused(Exception):
    """It could not be done; the message tells why."""


def verify_directory(data: Path) -> Verification:
    """Check the audit of a data directory; a server may be running on it.

    Raises:
        OfflineRefused: There is none, or it cannot be read.
    """
    with _opened(data) as (database, key):
        kept = read_head(data / HEAD_FILE)  # before the entries are read: they are further on
        return database.read_now(lambda c: verify(c, key, kept))


def archive_directory(data: Path, before: float, path: Path) -> Archived:
    """Write entries from before a time to a new file, then take them out.

    Args:
        before: Seconds since 1970.
    Raises:
        OfflineRefused: The audit is not intact, has no such entries, or the file is there.
    """
    with _opened(data) as (database, key):
        kept = read_head(data / HEAD_FILE)
        done = database.read_now(lambda c: write_archive(c, key, kept, before, path))
        work = partial(take_out, key=key, done=done, now=time.time())
        write_head(data / HEAD_FILE, database.submit(work, spares_room=True).result())
        return done


def check_file(data: Path, path: Path) -> Archived:
    """See that an archive is what was written.

    Raises:
        OfflineRefused: It is not; the message names the entry.
    """
    with _telling():
        return check_archive(path, _key(data))


@contextmanager
def _opened(data: Path) -> Iterator[tuple[Database, bytes]]:
    with _telling():
        settings = Settings.from_environment(data=data)
        if settings.database_url is None and not (data / "state.db").is_file():
            raise OfflineRefused(f"{data}: expected the directory of a server, with a state.db")
        key = _key(data)
        database = Database(database_url(settings))
        try:
            yield database, key
        finally:
            database.close()


def _key(data: Path) -> bytes:
    given = Settings.from_environment(data=data).secret_file
    if given is None and not (data / SECRET_FILE).is_file():
        raise OfflineRefused(f"{data}: there is no secret of a server: expected '{SECRET_FILE}'")
    return ServerSecret.of(data, given).derive("audit")


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except ServerError as error:
        raise OfflineRefused(error.message) from None
    except (ArchiveRefused, SecretRefused) as error:
        raise OfflineRefused(str(error)) from None
    except OSError as error:
        raise OfflineRefused(f"{error.filename}: {error.strerror}") from None
