"""`aiaas keys init`: the first key of a database, which is the operator's."""

from __future__ import annotations

import time
from typing import Final

from sqlalchemy import Connection, or_, select

from aiaas_client.protocol.tenants import OPERATOR_TENANT
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.prepare import database_url
from aiaas_server.state.tenant_tables import KEYS
from aiaas_server.tenancy.audit_chain import append, operator_act
from aiaas_server.tenancy.rows import add_key
from aiaas_server.tenancy.same_secret import check_same, take_over
from aiaas_server.tenancy.secrets import ServerSecret, hashed, new_key

INIT: Final = Author(by="init")


def make_first_key(settings: Settings, *, another: bool = False, lost_secret: bool = False) -> str:
    """Make a key of the operator; gives it, which nobody can do a second time.

    A server that runs on this database knows it within seconds.

    Args:
        settings: With `data`, whose database has been prepared.
        another: Also where there is one already.
        lost_secret: The server's secret is gone, and with it all keys: another one takes its place.
    Raises:
        Conflict: There is one already.
        SecretRefused: The server's secret cannot be used.
        StateUnavailable: The database does not answer.
    """
    assert settings.data is not None, "there are no keys without it"
    secret = ServerSecret.of(settings.data, settings.secret_file)
    made = new_key()
    digest = hashed(secret.derive("keys"), made.text.encode())
    audit = secret.derive("audit")

    def add(connection: Connection) -> None:
        acts = ["keys.init"]
        if lost_secret:
            take_over(connection, secret)
            acts = ["secret.replace", *acts]
        elif not another and (known := operator_keys(connection)):
            raise Conflict(
                f"there is an operator's key already: '{known[0]}'; "
                "aiaas keys create makes more, and --another one for when it is lost"
            )
        add_key(
            connection,
            INIT,
            key=made.id,
            tenant=OPERATOR_TENANT,
            digest=digest,
            name="operator",
            scopes=["admin"],
        )
        now = time.time()
        append(connection, audit, [operator_act(act, made.id, now) for act in acts], now)

    database = Database(database_url(settings))
    try:
        if not lost_secret:
            check_same(database, secret)
        database.submit(add).result()
    finally:
        database.close()
    return made.text


def operator_keys(connection: Connection) -> list[str]:
    """The ids of the operator's keys that are good, the oldest first."""
    unended = or_(KEYS.c.expires.is_(None), KEYS.c.expires > time.time())
    asked = select(KEYS.c.id, KEYS.c.scopes).where(
        KEYS.c.tenant == OPERATOR_TENANT, KEYS.c.revoked.is_(None), unended
    )
    rows = connection.execute(asked.order_by(KEYS.c.created))
    return [row.id for row in rows if "admin" in row.scopes]
