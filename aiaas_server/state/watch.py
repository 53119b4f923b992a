"""Watching a database for commits of other processes, in a thread of its own."""

from __future__ import annotations

import logging
import os
import select
import sqlite3
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from sqlalchemy import Engine

from aiaas_server.state.engine import is_sqlite, reason_of

if TYPE_CHECKING:
    from psycopg import Connection

CHANNEL: Final = "aiaas_changes"
"""Of NOTIFY: a trigger on `changes` tells it (`migrations/`)."""
_POLL_SQLITE: Final = 0.1
_POLL_POSTGRES: Final = 1.0  # besides, for what a broken connection did not hear
_PAUSE: Final = 1.0  # before a database that is away is tried again

_log = logging.getLogger("aiaas_server")


class _Ear(Protocol):
    """A connection that hears of commits."""

    def hear(self, stop: int) -> bool:
        """Wait; True where something may have been committed. Ends early when `stop` is readable.

        Raises:
            Exception: The connection is broken.
        """

    def close(self) -> None:
        """Let go of it."""


class Watch:
    """Calls `poke` when somebody may have committed, until it is stopped.

    An outage is told once to the log; when it is over, `poke` is called, since what was committed
    meanwhile was not heard.
    """

    def __init__(self, engine: Engine, poke: Callable[[], None]) -> None:
        self._engine, self._poke = engine, poke
        self._stop_read, self._stop_write = os.pipe()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="aiaas-state-feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; the thread is gone when this returns, at once but for a connect under way."""
        if self._stopped:
            return
        self._stopped = True
        os.write(self._stop_write, b".")
        self._thread.join()
        os.close(self._stop_write)
        os.close(self._stop_read)

    def _run(self) -> None:
        away = False
        while not _readable(self._stop_read, _PAUSE if away else 0.0):
            try:
                ear = self._open()
            except Exception as error:
                away = self._tell(away, error)
                continue
            away = False
            try:
                self._poke()
                while not _readable(self._stop_read, 0.0):
                    if ear.hear(self._stop_read):
                        self._poke()
            except Exception as error:
                away = self._tell(away, error)
            finally:
                ear.close()

    def _open(self) -> _Ear:
        raw = self._engine.raw_connection()
        raw.detach()  # it is kept, and not the pool's
        connection: Any = raw.dbapi_connection
        return _SqliteEar(connection) if is_sqlite(self._engine) else _PostgresEar(connection)

    def _tell(self, told: bool, error: Exception) -> bool:
        if not told:
            _log.warning("the database cannot be watched for changes: %s", reason_of(error))
        self._poke()  # who reads finds out for himself
        return True


class _SqliteEar:
    """`data_version` changes with each commit of another connection; asking costs 10 µs."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        try:
            self._seen = self._ask()
        except BaseException:
            connection.close()
            raise

    def _ask(self) -> int:
        (found,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(found)

    def hear(self, stop: int) -> bool:
        if _readable(stop, _POLL_SQLITE):
            return False
        before, self._seen = self._seen, self._ask()
        return before != self._seen

    def close(self) -> None:
        self._connection.close()


class _PostgresEar:
    """LISTEN on a connection of its own."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection
        try:
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            connection.close()
            raise

    def hear(self, stop: int) -> bool:
        if _readable(stop, _POLL_POSTGRES, self._connection.fileno()):
            return False
        for _ in self._connection.notifies(timeout=0):
            pass  # what came; raises where the connection is closed
        return True

    def close(self) -> None:
        self._connection.close()


def _readable(stop: int, timeout: float, other: int | None = None) -> bool:
    """Whether `stop` is readable, after at most `timeout` seconds; `other` ends the wait too."""
    wanted = [stop] if other is None else [stop, other]
    poll = select.poll()
    for descriptor in wanted:
        poll.register(descriptor, select.POLLIN)
    return any(descriptor == stop for descriptor, _ in poll.poll(timeout * 1000))
