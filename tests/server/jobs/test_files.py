"""Rows of OpenAI's files: listed in pages, each tenant's own, kept while a batch needs them."""

from __future__ import annotations

from functools import partial

import pytest

from aiaas_client.protocol.jobs import JobFile, JobResult
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.jobs import queue
from aiaas_server.jobs.files import FileRow, add_file, delete_file, get_file, list_files
from aiaas_server.jobs.queue import Hold
from aiaas_server.state.database import Connection, Database


def row(file: str, created: float, tenant: str = "a") -> FileRow:
    return FileRow(file, tenant, "calls.jsonl", "batch", "0" * 64, 7, created, "me")


def filled(connection: Connection) -> None:
    for at in range(5):
        add_file(connection, row(f"file-{at}", float(at // 2)))
    add_file(connection, row("file-other", 9.0, "b"))


@pytest.mark.parametrize("newest", [True, False])
async def test_files_are_listed_in_pages(database: Database, newest: bool) -> None:
    """In order of time and id, none twice and none left out, and of one tenant alone."""
    await database.write(filled)
    found: list[str] = []
    while True:
        after = found[-1] if found else ""
        asked = partial(list_files, tenant="a", after=after, limit=2, newest=newest)
        page = await database.read(asked)
        found += [one.id for one in page]
        if len(page) < 2:
            break
    expected = [f"file-{at}" for at in range(5)]
    assert found == (expected[::-1] if newest else expected)
    with pytest.raises(NotFound, match="no file 'file-other'"):
        await database.read(partial(get_file, tenant="a", file="file-other"))
    with pytest.raises(NotFound):
        await database.write(partial(delete_file, tenant="a", file="file-other"))


async def test_a_file_is_kept_while_a_batch_needs_it(database: Database) -> None:
    """What the batch made is a file by its id, and is never another tenant's."""
    await database.write(filled)
    spec = {"kind": "batch", "file": "file-1", "endpoint": "/v1/embeddings"}
    put = partial(queue.enqueue, tenant="a", by="me", kind="batch", subject="file-1", spec=spec)
    job = await database.write(put)
    with pytest.raises(Conflict, match=f"is needed by batch_{job.id}"):
        await database.write(partial(delete_file, tenant="a", file="file-1"))
    claimed = await database.write(partial(queue.claim, holder="h"))
    assert claimed is not None
    made = JobResult(files=[JobFile(name="output.jsonl", size=3, sha256="1" * 64)])
    done = partial(queue.succeed, hold=Hold(job.id, "h", 1), result=made)
    await database.write(done)
    output = await database.read(partial(get_file, tenant="a", file=f"file-{job.id}-output"))
    assert (output.size, output.digest, output.purpose) == (3, "1" * 64, "batch_output")
    for tenant, which in (("b", "output"), ("a", "errors")):
        with pytest.raises(NotFound):
            await database.read(partial(get_file, tenant=tenant, file=f"file-{job.id}-{which}"))
    with pytest.raises(Conflict, match="delete the job"):
        await database.write(partial(delete_file, tenant="a", file=output.id))
    await database.write(partial(delete_file, tenant="a", file="file-1"))
