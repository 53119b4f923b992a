"""One server's jobs over a database, with no server around them: `python -m tests.server.jobs.shop
URL DATA` runs one until it is killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from aiaas_client.protocol.jobs import JobFile, JobResult
from aiaas_server.jobs import rows
from aiaas_server.jobs.keeping import Keeping, Kept
from aiaas_server.jobs.orders import LaidCheckpoint, Order, Product
from aiaas_server.jobs.supervisor import Jobs
from aiaas_server.jobs.work import Allowed
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.stores import LocalStore
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Connection, Database
from aiaas_server.state.feed import Feed

WORKER = "tests.server.jobs.odd_work"
MEMORY = 1 << 30


class Shop:
    """One server's jobs over a database: checkpoints and files are real artefacts."""

    def __init__(self, database: Database, data: Path, slots: int = 1, **allowed: Any) -> None:
        self.database = database
        self.data = data
        self.feed = Feed(database)
        self.threads = Threads("test", 2)
        self.artefacts = Artefacts(LocalStore(data / "artefacts"))
        remover = Remover(database, self.artefacts, self.threads, data)
        self.keeping = Keeping(database, self.artefacts, remover, self.threads)
        self.laid: list[Order] = []
        self.refuses: Exception | None = None
        self.keeps = asyncio.Event()
        self.keeps.set()
        self.jobs = Jobs(
            database,
            self.feed,
            data / "jobs",
            self.keeping,
            lay_out=self.lay_out,
            keep=self.keep,
            allowed=Allowed(slots, MEMORY, 1, 60.0, **allowed),
            worker=WORKER,
        )

    async def lay_out(self, row: rows.JobRow, directory: Path) -> Order:
        if self.refuses is not None:
            raise self.refuses
        found = None
        if row.checkpoint is not None:
            self.artefacts.get(row.tenant, row.checkpoint["sha256"], directory / "checkpoint")
            found = LaidCheckpoint(step=row.checkpoint["step"], path="checkpoint")
        order = Order(
            job=row.id,
            attempt=row.attempt,
            spec=row.spec,
            checkpoint=found,
            memory_bytes=MEMORY,
        )
        self.laid.append(order)
        return order

    async def keep(self, row: rows.JobRow, product: Product, directory: Path) -> JobResult:
        await self.keeps.wait()
        files: list[JobFile] = []
        for name, path in product.files.items():

            def note(connection: Connection, kept: Kept, name: str = name) -> JobFile:
                return JobFile(name=name, size=kept.size, sha256=kept.sha256)

            made = await self.keeping.keep(row.tenant, row.user, directory / path, note)
            assert made is not None
            files.append(made)
        return JobResult(metrics=product.metrics, details=product.details, files=files)

    async def close(self) -> None:
        await self.jobs.close()
        await self.feed.close()
        self.threads.close()


async def _run(url: str, data: Path) -> None:
    Shop(Database(url), data).jobs.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], Path(sys.argv[2])))
