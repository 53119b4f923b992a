"""What jobs make counts against the quota of their tenant, and is refused with a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select

from aiaas_server.core.errors import QuotaExceeded
from aiaas_server.jobs.held import told
from aiaas_server.jobs.keeping import Keeping, Kept
from aiaas_server.state.artefacts.artefacts import open_artefacts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database
from aiaas_server.state.tables import ARTEFACTS
from aiaas_server.tenancy.allowance import admit_files
from tests.server.tenancy.test_allowance import have


def test_a_job_that_would_exceed_the_quota_says_so() -> None:
    error = told(QuotaExceeded("stored_bytes: 1 B may be stored, 1 are, this needs 1"))
    assert error.code == "quota_exceeded"
    assert error.message.startswith("stored_bytes: 1 B may be stored")


async def test_a_file_that_is_refused_leaves_nothing(database: Database, tmp_path: Path) -> None:
    artefacts, threads = open_artefacts("", tmp_path), Threads("tests", 2)
    remover = Remover(database, artefacts, threads, tmp_path)
    keeping = Keeping(database, artefacts, remover, threads, admit_files)
    await database.write(lambda c: have(c, stored_bytes=10))

    def note(connection: Connection, kept: Kept) -> Kept:
        return kept

    async def keep(name: str, size: int) -> Kept | None:
        path = tmp_path / name
        path.write_bytes(name.encode() * size)
        return await keeping.keep("acme", f"job/{name}", path, note)

    assert await keep("a", 10) is not None
    for _ in range(2):
        with pytest.raises(QuotaExceeded, match="10 B may be stored, 10 are, this needs 1"):
            await keep("b", 1)
    rows = await database.read(
        lambda c: c.execute(select(func.count()).select_from(ARTEFACTS)).scalar_one()
    )
    assert rows == 1
    threads.close()
