"""`DataKeys`: the key of each artefact, wrapped by a master key, in the database.

Whoever destroys a row has destroyed the artefact, wherever copies of its bytes lie. On SQLite the
row's bytes are overwritten (`secure_delete`), and the log that may still hold them is cut.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from aiaas_server.core.errors import StateUnavailable
from aiaas_server.state.artefacts.master_keys import KEY_BYTES, MasterKeyRefused, MasterKeys
from aiaas_server.state.database import Database
from aiaas_server.state.engine import is_sqlite
from aiaas_server.state.tables import ARTEFACTS
from aiaas_server.state.tenant_tables import DATA_KEYS

_log = logging.getLogger("aiaas_server")

BATCH: Final = 500  # keys that one transaction wraps anew
_TOLD: Final = 3  # artefacts that a message names
_CUTS: Final = 50  # tries to cut the log, which readers may hold
_WAIT: Final = 0.1


class Rotated(NamedTuple):
    """What a rotation did: keys wrapped anew, and by which master key all are wrapped now."""

    rewrapped: int
    master: str


class DataKeys:
    """The keys of all artefacts. Every call blocks: for threads.

    Args:
        database: The rows.
        masters: What opens them.
    """

    def __init__(self, database: Database, masters: MasterKeys) -> None:
        self._database = database
        self._masters = masters

    def find(self, tenant: str, digest: str) -> bytes | None:
        """The key of an artefact; None of one that is in plain, or whose key was destroyed.

        Raises:
            StateUnavailable: The database does not answer, or the master key is not here.
        """
        row = self._database.read_now(lambda c: _row(c, tenant, digest))
        return None if row is None else self._opened(*row)

    def all(self) -> set[tuple[str, str]]:
        """Tenant and digest of all that have a key."""
        asked = select(DATA_KEYS.c.tenant, DATA_KEYS.c.digest)
        return self._database.read_now(
            lambda c: {(row.tenant, row.digest) for row in c.execute(asked)}
        )

    def obtain(self, tenant: str, digest: str) -> bytes:
        """The key of an artefact, a new one where there is none.

        The same bytes that are brought twice at a time get one key, so that either copy opens.
        """

        def obtained(connection: Connection) -> tuple[bytes, str]:
            row = _row(connection, tenant, digest)
            if row is not None:
                return row
            wrapped, master = self._masters.wrap(os.urandom(KEY_BYTES))
            values = {"tenant": tenant, "digest": digest, "wrapped": wrapped, "master": master}
            connection.execute(DATA_KEYS.insert().values(**values, created=time.time()))
            return wrapped, master

        return self._opened(*self._database.submit(obtained).result())

    def destroy(self, tenant: str, digests: Collection[str]) -> Mapping[str, str]:
        """Destroy the keys of artefacts; gives by digest the name of each that there was.

        Raises:
            StateUnavailable: The database does not answer.
        """
        if not self._database.read_now(lambda c: _any(c, tenant, digests)):
            return {}
        done = self._database.submit(lambda c: _destroy(c, tenant, digests), spares_room=True)
        destroyed = done.result()
        if destroyed:
            cut_log(self._database)
        return destroyed

    def rewrap(self, batch: int = BATCH) -> Rotated:
        """Wrap all keys by the current master key; what was done before an end stays done.

        Raises:
            MasterKeyRefused: One cannot be opened.
        """
        done, current = 0, self._masters.current.id
        while count := self._database.submit(lambda c: self._rewrapped(c, batch)).result():
            done += count
        cut_log(self._database)
        return Rotated(done, current)

    def _rewrapped(self, connection: Connection, batch: int) -> int:
        current = self._masters.current.id
        asked = select(DATA_KEYS).where(DATA_KEYS.c.master != current).limit(batch)
        rows = connection.execute(asked).all()
        for row in rows:
            wrapped, master = self._masters.wrap(self._masters.unwrap(row.wrapped, row.master))
            connection.execute(
                update(DATA_KEYS)
                .where(_is(row.tenant, row.digest))
                .values(wrapped=wrapped, master=master)
            )
        return len(rows)

    def _opened(self, wrapped: bytes, master: str) -> bytes:
        try:
            return self._masters.unwrap(wrapped, master)
        except MasterKeyRefused as error:
            _log.error("an artefact cannot be opened: %s", error)
            raise StateUnavailable("an artefact cannot be opened: its master key is away") from None


def wrapped_by(connection: Connection) -> dict[str, int]:
    """How many data keys each master key wraps."""
    asked = select(DATA_KEYS.c.master, func.count()).group_by(DATA_KEYS.c.master)
    return {row[0]: row[1] for row in connection.execute(asked)}


def in_plain(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Tenant and digest of artefacts that were kept before there was a master key."""
    joined = ARTEFACTS.outerjoin(
        DATA_KEYS,
        and_(DATA_KEYS.c.tenant == ARTEFACTS.c.tenant, DATA_KEYS.c.digest == ARTEFACTS.c.digest),
    )
    asked = (
        select(ARTEFACTS.c.tenant, ARTEFACTS.c.digest)
        .select_from(joined)
        .where(DATA_KEYS.c.digest.is_(None), ARTEFACTS.c.size >= 0, ~ARTEFACTS.c.leaving)
        .limit(limit)
    )
    return [(row.tenant, row.digest) for row in connection.execute(asked)]


def check_openable(connection: Connection, masters: MasterKeys | None) -> None:
    """See that every data key can be opened.

    Raises:
        MasterKeyRefused: Some cannot; names how many, and a few of them.
    """
    for master, count in sorted(wrapped_by(connection).items()):
        if masters is not None and masters.has(master):
            _check_one(connection, masters, master)
            continue
        named = _some(connection, master)
        got = "there is no master key" if masters is None else f"got {masters.names()}"
        raise MasterKeyRefused(
            f"{count} artefacts cannot be opened, such as {named}: they need the master key "
            f"{master}, and {got}"
        )


def _check_one(connection: Connection, masters: MasterKeys, master: str) -> None:
    asked = select(DATA_KEYS.c.wrapped).where(DATA_KEYS.c.master == master).limit(1)
    masters.unwrap(connection.execute(asked).scalar_one(), master)


def _some(connection: Connection, master: str) -> str:
    asked = (
        select(DATA_KEYS.c.tenant, DATA_KEYS.c.digest)
        .where(DATA_KEYS.c.master == master)
        .order_by(DATA_KEYS.c.tenant, DATA_KEYS.c.digest)
        .limit(_TOLD)
    )
    return ", ".join(f"{row.tenant}/{row.digest[:12]}" for row in connection.execute(asked))


def cut_log(database: Database) -> bool:
    """Have SQLite write its log to the file and empty it; False where readers held it too long."""
    if not is_sqlite(database.engine):
        return True
    for _ in range(_CUTS):
        try:
            with database.engine.connect() as connection:
                connection.rollback()
                raw = connection.connection.driver_connection
                assert raw is not None, "it is connected"
                if raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0:
                    return True
        except SQLAlchemyError as error:
            raise StateUnavailable("the database does not answer; try again") from error
        time.sleep(_WAIT)
    _log.warning("the log of the database is held by readers: it is cut with its next checkpoint")
    return False


def _row(connection: Connection, tenant: str, digest: str) -> tuple[bytes, str] | None:
    asked = select(DATA_KEYS.c.wrapped, DATA_KEYS.c.master).where(_is(tenant, digest))
    row = connection.execute(asked).first()
    return None if row is None else (row.wrapped, row.master)


def _any(connection: Connection, tenant: str, digests: Collection[str]) -> bool:
    return any(_row(connection, tenant, digest) is not None for digest in digests)


def _destroy(connection: Connection, tenant: str, digests: Collection[str]) -> dict[str, str]:
    destroyed = {}
    for digest in sorted(digests):
        row = _row(connection, tenant, digest)
        if row is not None:
            destroyed[digest] = key_name(row[0])
            connection.execute(delete(DATA_KEYS).where(_is(tenant, digest)))
    return destroyed


def key_name(wrapped: bytes) -> str:
    """The name of a data key, for certificates: a short hash of it as it is kept."""
    return hashlib.sha256(b"aiaas/data-key/" + wrapped).hexdigest()[:16]


def _is(tenant: str, digest: str) -> ColumnElement[bool]:
    return and_(DATA_KEYS.c.tenant == tenant, DATA_KEYS.c.digest == digest)
