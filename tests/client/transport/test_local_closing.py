"""A local client that is closed ends what waits on it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from aiaas_client import AsyncClient, ClientClosedError


async def test_a_stream_ends_when_its_local_client_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    client = AsyncClient.local(data=tmp_path)

    async def followed() -> list[Any]:
        return [change async for change in client.models.changes(after=0)]

    waiting = asyncio.create_task(followed())
    assert await client.ready()
    await client.close()
    with pytest.raises(ClientClosedError):
        await asyncio.wait_for(waiting, 30)
