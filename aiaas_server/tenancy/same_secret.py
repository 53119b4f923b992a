"""All servers of a database have one secret: with another, keys and the audit would not fit."""

from __future__ import annotations

import time
from hmac import compare_digest

from sqlalchemy import Connection, delete, insert, select

from aiaas_server.core.errors import ServerError
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.prepare import database_url
from aiaas_server.state.tenant_tables import SERVER_SECRET
from aiaas_server.tenancy.secrets import SecretRefused, ServerSecret


def check_same(database: Database, secret: ServerSecret) -> None:
    """See that the database knows this secret; one that knows none yet remembers it.

    What it remembers is derived from the secret, and tells nothing of it.

    Raises:
        SecretRefused: It is not the one that the database was used with before; or the database
            does not answer.
    """
    given = secret.derive("fingerprint").hex()
    try:
        known = database.read_now(_known)
        if known is None:
            known = database.submit(lambda c: _remember(c, given), spares_room=True).result()
    except ServerError as error:
        raise SecretRefused(f"the server's secret cannot be checked: {error.message}") from error
    if not compare_digest(known, given):
        raise SecretRefused(
            "the server's secret is not the one that this database was used with before: keys "
            "would be unknown and the audit in doubt; copy the file 'secret' of the data "
            "directory of a server that uses it, and name the copy with --secret-file; where it "
            "is lost: aiaas keys init --lost-secret"
        )


def take_over(connection: Connection, secret: ServerSecret) -> None:
    """Have the database belong to this secret from now on: all keys that there are end with it."""
    connection.execute(delete(SERVER_SECRET))
    _remember(connection, secret.derive("fingerprint").hex())


def check_secret(settings: Settings) -> None:
    """The same, once for all processes of a server, before any of them starts.

    Args:
        settings: With `data`, whose database has been prepared.
    Raises:
        SecretRefused: As `check_same`; or it cannot be read.
    """
    assert settings.data is not None, "there is no secret without it"
    secret = ServerSecret.of(settings.data, settings.secret_file)
    database = Database(database_url(settings))
    try:
        check_same(database, secret)
    finally:
        database.close()


def _known(connection: Connection) -> str | None:
    found: str | None = connection.execute(select(SERVER_SECRET.c.fingerprint)).scalar()
    return found


def _remember(connection: Connection, given: str) -> str:
    """Keep it, unless another process was first; writers come one after the other."""
    known = _known(connection)
    if known is None:
        values = {"id": 1, "fingerprint": given, "created": time.time()}
        connection.execute(insert(SERVER_SECRET).values(values))
    return known or given
