"""Whose a key is: at a server's front door, from its own table, within moments of a change."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import AsgiCaller
from tests.tenants import Tenants


@pytest.mark.asyncio
async def test_a_server_with_tenants_knows_their_keys(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    good, reader = tenants.key("acme"), tenants.key("acme", ["models:read"])
    async with create_app(Settings(data=tmp_path, tenants=True)) as app:
        call = AsgiCaller(app)
        for key, status in ((good, 200), (reader, 200), (good[:-1], 401), ("", 401)):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            answer = await call("GET", "/api/v1/models", headers=headers)
            assert answer.status == status, key
        answer = await call("GET", "/v2/health/live")
        assert answer.status == 200
