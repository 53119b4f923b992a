"""A server with tenants for tests, called with one key or another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from aiaas_server.app import Application, create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import Answer, AsgiCaller
from tests.tenants import Tenants


def settings_of(data: Path, state_url: str, **more: Any) -> Settings:
    """Settings of a server with tenants on a database."""
    if state_url.startswith("postgresql"):
        more["database_url"] = SecretStr(state_url.replace("+psycopg", "", 1))
    return Settings(data=data, **{"tenants": True, **more})


class Served:
    """An application and ways to ask it."""

    def __init__(self, app: Application, tenants: Tenants, operator: str) -> None:
        self.app = app
        self.tenants = tenants
        self.operator = operator
        self._call = AsgiCaller(app)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        client: str = "127.0.0.1",
    ) -> Answer:
        """Ask below `/api/v1`, by default as the operator."""
        sent = {"authorization": f"Bearer {self.operator if key is None else key}"}
        sent["x-request-id"] = "the-same"
        return await self._call(
            method, f"/api/v1{path}", body, {**sent, **(headers or {})}, client=client
        )

    async def made(self, **members: Any) -> dict[str, Any]:
        """Make a key."""
        key = members.pop("key", None)
        answer = await self.ask("POST", "/keys", {"scopes": ["infer"], **members}, key=key)
        assert answer.status == 201, answer.body
        found: dict[str, Any] = answer.json()
        return found


def served(data: Path, state_url: str, **more: Any) -> Served:
    """A server with one operator's key; not yet started."""
    tenants = Tenants(data, state_url)
    operator = tenants.key()
    return Served(create_app(settings_of(data, state_url, **more)), tenants, operator)
