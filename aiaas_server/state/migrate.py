"""`upgrade(url)`: the schema that this server knows, made at start from an older or none.

Forward only, in one transaction, under a lock: of several processes that start at once one does it
and the others find it done. A copy is made first: of SQLite by its backup interface, as
`state.db.before-<revision>`; of PostgreSQL the operator has backups, and the log says so. A newer
schema is refused, and so is a database that is somebody else's.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import SQLAlchemyError

from aiaas_server.core.errors import StorageFull
from aiaas_server.state.database import WRITERS_LOCK
from aiaas_server.state.durable import sync_directory, sync_file
from aiaas_server.state.engine import failure_of, is_sqlite, open_engine, reason_of, writing
from aiaas_server.state.revision import REVISION, StateRefused, found_revision

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_LOCK_SECONDS: Final = 120  # another process may be at it, on many rows

_log = logging.getLogger("aiaas_server")


def upgrade(url: str | URL) -> None:
    """Bring the database to the schema of this server; nothing happens where it has it.

    Raises:
        StateRefused: It is newer, somebody else's, full or does not answer; nothing was changed.
    """
    engine = open_engine(url)
    try:
        if _current(engine) != REVISION:
            _upgrade(engine)
    except SQLAlchemyError as error:
        raise StateRefused(_reason(error, engine)) from error
    finally:
        engine.dispose()


def _current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        found = found_revision(connection)
    if found is not None and found not in _known():
        raise StateRefused(
            f"it has the schema {found} of a newer server, and this one knows up to {REVISION}: "
            "run that server or a newer one, or restore the copy that was made before"
        )
    return found


def _known() -> set[str]:
    """The revisions that this server can begin from."""
    if not _MIGRATIONS.is_dir():  # pragma: no cover  # a broken installation
        raise StateRefused(f"the migrations are not installed: {_MIGRATIONS}")
    names = (path.name for path in (_MIGRATIONS / "versions").glob("m[0-9]*_*.py"))
    return {name[1:].partition("_")[0] for name in names}


def _upgrade(engine: Engine) -> None:
    if is_sqlite(engine):
        event.listen(engine, "connect", _allow_rebuilding)
        engine.dispose()
    with writing(engine).connect() as connection, connection.begin():
        _lock(connection)
        found = found_revision(connection)  # perhaps another process was at it
        if found == REVISION:
            return
        if found is not None:
            _keep_copy(engine)
            _log.info("state: from schema %s to %s", found, REVISION)
        _run_alembic(connection)
        _check_references(connection)


def _allow_rebuilding(connection: sqlite3.Connection, record: object) -> None:
    """A table that is rebuilt is dropped: its rows' dependents must not go with it."""
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute(f"PRAGMA busy_timeout={_LOCK_SECONDS * 1000}")


def _lock(connection: Connection) -> None:
    """On SQLite the transaction is the lock; on PostgreSQL the lock of all writers is taken."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})"))


def _check_references(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        broken = connection.execute(text("PRAGMA foreign_key_check")).first()
        if broken is not None:
            raise StateRefused(
                f"a row of {broken[0]!r} refers to one of {broken[2]!r} that is gone"
            )


def _keep_copy(engine: Engine) -> None:
    """Copy what is there beside it; a copy that is complete has its name only then."""
    if not is_sqlite(engine) or not engine.url.database:
        _log.warning(
            "state: the schema of the PostgreSQL database is about to change; "
            "a backup is the operator's"
        )
        return
    source = Path(engine.url.database)
    copy = source.with_name(f"{source.name}.before-{REVISION}")
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(partial)) as new:
            old.backup(new)
        sync_file(partial)
        partial.replace(copy)
        sync_directory(copy.parent)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StateRefused(f"no copy of it could be made before the change: {error}") from error
    _log.info("state: a copy from before is in %s", copy)


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # only here: it costs 0.2 s of a start
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _reason(error: SQLAlchemyError, engine: Engine) -> str:
    """In one line; no message of a driver holds a password."""
    failure = failure_of(error, engine)
    if isinstance(failure, StorageFull):
        return failure.message
    return reason_of(error)
