"""Data sets below HTTP: what is kept while something else happens at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from aiaas_client.protocol.datasets import Column, DatasetRequest
from aiaas_server.core.errors import (
    InvalidInput,
    LoadFailed,
    NotFound,
    OutOfMemory,
    ServerError,
    StateUnavailable,
)
from aiaas_server.jobs.orders import MadeDataset, Order, Product
from aiaas_server.registry.deployment import Deployment
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.tables import ARTEFACT_USES, ARTEFACTS, DATASETS
from aiaas_server.workshop.datasets import Datasets
from tests.server.registry.deploying import ME, files_below, in_pieces, open_deployment, request_for
from tests.server.workshop.reading import read_here

CSV = b"age,label\n1,a\n2,b\n"
Open = Callable[..., tuple[Datasets, Deployment]]


@pytest_asyncio.fixture
async def open_datasets(database: Database, tmp_path: Path) -> AsyncIterator[Open]:
    """`datasets, deployment = open_datasets(run=…)`, closed afterwards."""
    made: list[tuple[Datasets, Deployment]] = []

    def make(run: Any = read_here) -> tuple[Datasets, Deployment]:
        data = tmp_path / "data"
        deployment = open_deployment(database, data)
        datasets = Datasets(
            Settings(data=data, disk_reserve_bytes=0), database, deployment, run=run
        )
        made.append((datasets, deployment))
        return made[-1]

    yield make
    for datasets, deployment in made:
        await datasets.close()
        await deployment.close()


async def draft_of(datasets: Datasets, name: str = "d") -> str:
    """A draft, all of which has come."""
    files = {"a.csv": CSV}
    asked = DatasetRequest(files=request_for(files).files)
    draft, _ = await datasets.drafts.create(ME, name, asked)
    await datasets.drafts.receive(ME, name, draft.id, "a.csv", in_pieces(CSV), offset=0)
    return draft.id


def left(database: Database) -> tuple[int, int, int]:
    """How many data sets, artefacts and uses there are."""
    tables = (DATASETS, ARTEFACTS, ARTEFACT_USES)
    counts = [len(database.read_now(lambda c, t=t: c.execute(select(t)).all())) for t in tables]  # type: ignore[misc]
    return counts[0], counts[1], counts[2]


async def test_two_commits_at_once_are_one(open_datasets: Open, database: Database) -> None:
    datasets, _ = open_datasets()
    draft = await draft_of(datasets)
    one, other = await asyncio.gather(*[datasets.commit(ME, "d", draft) for _ in range(2)])
    assert one == other
    assert left(database) == (1, 1, 1)


async def test_a_draft_thrown_away_while_it_is_read_leaves_nothing(
    open_datasets: Open, database: Database, tmp_path: Path
) -> None:
    reads, go_on = asyncio.Event(), asyncio.Event()

    async def read(order: Order, directory: Path) -> Product:
        reads.set()
        await go_on.wait()
        return await read_here(order, directory)

    datasets, _ = open_datasets(read)
    draft = await draft_of(datasets)
    committing = asyncio.create_task(datasets.commit(ME, "d", draft))
    await reads.wait()
    await datasets.drafts.remove(await datasets.drafts.row(ME, "d", draft))
    go_on.set()
    with pytest.raises(NotFound, match="has no draft"):
        await committing
    assert left(database) == (0, 0, 0)
    assert files_below(tmp_path / "data") == set()


FAILS: dict[str, tuple[ServerError, type[ServerError]]] = {
    "bad input": (InvalidInput("a.csv, line 2: …"), InvalidInput),
    "memory": (OutOfMemory("out of memory: a job may take 1 MiB here"), OutOfMemory),
    "killed": (ServerError("the process for it ended with SIGKILL"), LoadFailed),
}


@pytest.mark.parametrize(("raised", "told"), FAILS.values(), ids=FAILS)
async def test_a_reader_that_fails_leaves_the_draft(
    raised: ServerError, told: type[ServerError], open_datasets: Open, tmp_path: Path
) -> None:
    fails = [raised]

    async def read(order: Order, directory: Path) -> Product:
        if fails:
            raise fails.pop()
        return await read_here(order, directory)

    datasets, _ = open_datasets(read)
    draft = await draft_of(datasets)
    with pytest.raises(told, match=raised.message):
        await datasets.commit(ME, "d", draft)
    assert list((tmp_path / "data" / "reading").iterdir()) == []
    assert (await datasets.commit(ME, "d", draft)).created


def made(tmp_path: Path, content: bytes = b"rows", job: str = "j") -> tuple[MadeDataset, Path]:
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
    path.write_bytes(content)
    columns = [Column(name="a", kind="number")]
    lineage = {"job": job}
    return MadeDataset(name="out", path="x", rows=1, columns=columns, lineage=lineage), path


async def test_what_a_job_made_is_kept_once_and_laid_out_again(
    open_datasets: Open, database: Database, tmp_path: Path
) -> None:
    datasets, deployment = open_datasets()
    first = await datasets.keep(ME, *made(tmp_path))
    other = await datasets.keep(ME, *made(tmp_path, b"others", "k"))
    assert (first.ref, other.ref) == ("out@1", "out@2")
    assert await datasets.keep(ME, *made(tmp_path)) == first  # after a crash of the server
    laid = await datasets.lay_out(ME.tenant, "out@1")
    assert laid.dataset == first
    assert b"".join(deployment.artefacts.pieces(ME.tenant, laid.digest)) == b"rows"
    assert left(database) == (2, 2, 2)
    await datasets.erase(ME, "out", 1)
    with pytest.raises(NotFound, match="'out@1' was erased"):
        await datasets.lay_out(ME.tenant, "out@1")


async def test_a_store_that_is_away_keeps_nothing(
    open_datasets: Open, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, deployment = open_datasets()
    put = deployment.artefacts.put

    def away(*args: Any) -> None:
        monkeypatch.setattr(deployment.artefacts, "put", put)
        raise StateUnavailable("the store does not answer; try again")

    monkeypatch.setattr(deployment.artefacts, "put", away)
    with pytest.raises(StateUnavailable, match="does not answer"):
        await datasets.keep(ME, *made(tmp_path))
    assert left(database) == (0, 0, 0)
    assert (await datasets.keep(ME, *made(tmp_path))).ref == "out@1"
    assert files_below(tmp_path / "data") != set()


async def test_a_sweep_leaves_rows_that_are_on_their_way(
    open_datasets: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, deployment = open_datasets()
    put, loop = deployment.artefacts.put, asyncio.get_running_loop()

    def put_while_swept(*args: Any) -> None:
        put(*args)
        asyncio.run_coroutine_threadsafe(deployment.sweep.clean(), loop).result()

    monkeypatch.setattr(deployment.artefacts, "put", put_while_swept)
    kept = await datasets.keep(ME, *made(tmp_path))
    assert b"".join(deployment.artefacts.pieces(ME.tenant, kept.digest)) == b"rows"
    await deployment.sweep.clean()
    assert b"".join(deployment.artefacts.pieces(ME.tenant, kept.digest)) == b"rows"
