"""A process that erases a tenant, to be killed in the middle: `python -m … DIR TENANT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aiaas_server.state.database import Database
from tests.server.registry.deploying import ME
from tests.server.tenancy.test_tenant_erasure import opened


async def main(data: Path, tenant: str) -> None:
    database = Database(f"sqlite:///{data.parent / 'state.db'}")
    async with opened(database, data) as server:
        await server.eraser.erase(ME, tenant, [])
        print("begun", flush=True)
        server.eraser.start()
        await server.done(tenant)
    database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
