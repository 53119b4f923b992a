"""Connections to the database, and what an error of it means to a caller.

A transaction of an engine made here reads, unless it is begun on `writing(engine)`: then SQLite
takes its lock at once (BEGIN IMMEDIATE), since a reader that turns writer may find that another one
was faster. Readers see one state of everything from their first question to their last.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any, Final

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
    TimeoutError,
)

from aiaas_server.core.errors import Conflict, InvalidInput, StateUnavailable, StorageFull

BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for a lock that another process has."""
_STATEMENT_SECONDS: Final = 30.0
_WRITES: Final = "aiaas_writes"
_DISK_FULL: Final = "53100"  # states of errors of PostgreSQL
_NOT_DEALT_WITH: Final = "25P02"  # an error in a transaction that then went on
_INTRANS: Final = 2  # psycopg.pq.TransactionStatus
_NO_ROOM: Final = 1 << 20  # free bytes below which an I/O error of SQLite is one of room

# Nobody waits for ever: not for a lock, not for a machine that went away without a word.
_POSTGRES: Final[dict[str, int | str]] = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_POSTGRES_OPTIONS: Final = (
    f"-c lock_timeout={int(BUSY_SECONDS * 1000)}"
    f" -c statement_timeout={int(_STATEMENT_SECONDS * 1000)}"
    f" -c idle_in_transaction_session_timeout={int(2 * _STATEMENT_SECONDS * 1000)}"
)


def open_engine(url: str | URL) -> Engine:
    """An engine for `sqlite:///path` or `postgresql+psycopg://…`; connects only when asked."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sqlalchemy.create_engine(parsed, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    given = {name: value for name, value in _POSTGRES.items() if name not in parsed.query}
    given["options"] = f"{_POSTGRES_OPTIONS} {parsed.query.get('options', '')}".rstrip()
    return sqlalchemy.create_engine(
        parsed, connect_args=given, pool_pre_ping=True, hide_parameters=True
    )


def is_sqlite(engine: Engine) -> bool:
    """Whether the database is a file of this machine."""
    return engine.dialect.name == "sqlite"


def reading(engine: Engine) -> Engine:
    """The same engine, for transactions that see one state of everything and change nothing."""
    if is_sqlite(engine):
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def writing(engine: Engine) -> Engine:
    """The same engine, for transactions that write."""
    return engine.execution_options(**{_WRITES: True})


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={int(BUSY_SECONDS * 1000)}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",  # what is erased is overwritten
        "temp_store=MEMORY",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def in_transaction(connection: Connection) -> bool:
    """Whether the database can still commit the transaction.

    SQLite ends one by itself on some errors, and PostgreSQL makes a rollback of the commit of one
    in which an error was not dealt with.
    """
    if not connection.in_transaction():
        return False
    inner: Any = connection.connection.dbapi_connection
    if isinstance(inner, sqlite3.Connection):
        return inner.in_transaction
    return bool(inner.info.transaction_status == _INTRANS)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, and with it any knowledge of what it did last."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def failure_of(error: SQLAlchemyError, engine: Engine) -> Exception:
    """What a caller is told of an error of the database; a mistake of ours stays what it is."""
    if isinstance(error, IntegrityError):
        return Conflict("it was changed by somebody else at the same time; look again")
    if isinstance(error, DataError):
        return InvalidInput("a text or number in it cannot be stored")
    if isinstance(error, ProgrammingError | NotSupportedError):
        return error
    if isinstance(error, DBAPIError):
        if getattr(error.orig, "sqlstate", None) == _NOT_DEALT_WITH:
            return error
        if _is_full(error, engine):
            return StorageFull("the disk of the database is full: nothing can be written now")
        return StateUnavailable("the database does not answer; try again", retry_after=1.0)
    if isinstance(error, TimeoutError):
        return StateUnavailable("the database is busy; try again", retry_after=1.0)
    return error


def _is_full(error: DBAPIError, engine: Engine) -> bool:
    name = getattr(error.orig, "sqlite_errorname", "")
    if name.startswith("SQLITE_IOERR") and engine.url.database:
        try:
            return shutil.disk_usage(Path(engine.url.database).parent).free < _NO_ROOM
        except OSError:
            return False
    return name == "SQLITE_FULL" or getattr(error.orig, "sqlstate", None) == _DISK_FULL


def reason_of(error: BaseException) -> str:
    """An error of the database for the log, in one line without SQL and without values."""
    inner = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return " ".join(str(inner).split())[:1024] or type(inner).__name__
