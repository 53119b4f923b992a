"""Tenants and their keys in a data directory, for servers that tests start with `tenants`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import insert

from aiaas_client.protocol.scopes import SCOPES
from aiaas_client.protocol.tenants import OPERATOR_TENANT, Limits
from aiaas_server.core.author import SERVER
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.tenant_tables import PLANS
from aiaas_server.tenancy.rows import add_key, add_tenant, find_tenant
from aiaas_server.tenancy.secrets import ServerSecret, hashed, new_key

ALL = tuple(SCOPES)


class Tenants:
    """Writes tenants and keys where a server of `data` will find them.

    Args:
        url: Of the database; by default the SQLite file of `data`.
    """

    def __init__(self, data: Path, url: str = "") -> None:
        data.mkdir(parents=True, exist_ok=True)
        self._url = url or f"sqlite:///{data / 'state.db'}"
        self._pepper = ServerSecret.of(data).derive("keys")
        upgrade(self._url)

    def tenant(self, name: str, limits: Limits | None = None) -> None:
        """Make a tenant, with a plan of its own where limits are given."""
        plan = "unlimited" if limits is None else f"plan-{name}"
        database = Database(self._url)
        try:
            if limits is not None:
                row = {
                    "name": plan,
                    "limits": limits.model_dump(mode="json"),
                    "description": "",
                    "created": 0.0,
                    "created_by": "tests",
                }
                database.submit(lambda c: c.execute(insert(PLANS).values(row))).result()
            database.submit(lambda c: add_tenant(c, SERVER, name, plan)).result()
        finally:
            database.close()

    def key(
        self,
        tenant: str = OPERATOR_TENANT,
        scopes: Sequence[str] = ALL,
        *,
        limits: Limits | None = None,
        expires: float | None = None,
    ) -> str:
        """Make a key, and its tenant where there is none; gives what is sent."""
        made = new_key()
        database = Database(self._url)
        try:
            if database.read_now(lambda c: find_tenant(c, tenant)) is None:
                self.tenant(tenant)
            digest = hashed(self._pepper, made.text.encode())
            work = {
                "key": made.id,
                "tenant": tenant,
                "digest": digest,
                "name": "",
                "scopes": scopes,
                "limits": limits,
                "expires": expires,
            }
            database.submit(lambda c: add_key(c, SERVER, **work)).result()  # type: ignore[arg-type]
        finally:
            database.close()
        return made.text
