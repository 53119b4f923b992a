"""`Datasets`: everything between a client's files and a data set, put together for one server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from aiaas_client.protocol.datasets import Dataset, DatasetErasure
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, LoadFailed, NotSupported, ServerError
from aiaas_server.datasets.draft_rows import DraftRow, get_draft
from aiaas_server.datasets.drafts import Drafts
from aiaas_server.datasets.rows import NewDataset, document
from aiaas_server.datasets.store import InUse, Kept, Store
from aiaas_server.jobs.needs import job_that_needs
from aiaas_server.jobs.orders import MadeDataset, Order, Product
from aiaas_server.jobs.process import run_once
from aiaas_server.registry.deployment import Deployment
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.announced import AdmitFiles
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt
from aiaas_server.state.artefacts.stores import file_errors
from aiaas_server.state.artefacts.threads import Joined, Threads
from aiaas_server.state.artefacts.uploads import Uploads
from aiaas_server.state.database import Database
from aiaas_server.workshop.scratch import Scratch

_log = logging.getLogger("aiaas_server")

Run = Callable[[Order, Path], Awaitable[Product]]
"""Carries an order out in a process of its own; raises what is wrong with it."""

INTERVAL: Final = 600.0
"""Seconds from one cleaning to the next."""
_LONGEST: Final = 3600.0  # seconds to read the files of a data set
_AT_ONCE: Final = 2  # data sets that are read at a time


class Laid(NamedTuple):
    """A data set whose rows are there, and the artefact that they are."""

    dataset: Dataset
    digest: str


class Datasets:
    """Data sets of one server.

    Args:
        settings: Limits, and where what is read lies meanwhile.
        database: The rows.
        deployment: The store, and its threads.
        run: How files are read; in a process of their own by default.
        in_use: Which job needs a data set.
        admit: Asked for what is to be kept: the quota.

    Attributes:
        drafts: What is being brought.
        store: What there is.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        deployment: Deployment,
        run: Run | None = None,
        in_use: InUse = job_that_needs,
        admit: AdmitFiles | None = None,
    ) -> None:
        assert settings.data is not None, "there are no data sets without it"
        self._settings = settings
        self._database = database
        self._artefacts: Artefacts = deployment.artefacts
        self._remote: Threads = deployment.remote
        self._check_room = deployment.check_room
        self._scratch = Scratch(deployment.work / "reading", deployment.remote)
        threads = settings.threads_per_job
        self._threads = threads
        self._run: Run = run or partial(
            run_once,
            timeout=min(_LONGEST, settings.job_timeout),
            memory_bytes=settings.job_memory_bytes,
            threads=threads,
        )
        uploads: Uploads[DraftRow] = Uploads(
            database,
            deployment.artefacts,
            deployment.parts,
            deployment.disk,
            deployment.remote,
            deployment.remover,
            settings.disk_reserve_bytes,
            check_open=lambda c, row: get_draft(c, row.tenant, row.name, row.id),
        )
        self.drafts = Drafts(database, uploads, settings.max_dataset_bytes, admit)
        self.store = Store(
            database,
            deployment.artefacts,
            deployment.parts,
            deployment.remover,
            deployment.remote,
            in_use,
            admit,
        )
        self._committing = Joined()
        self._reading = asyncio.Semaphore(_AT_ONCE)
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Clean up what was left, and go on doing so."""
        await self.clean()
        self._sweeping = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """End what is under way; drafts stay, and go on with the next start."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        await self._committing.close()
        await self.drafts.close()

    async def clean(self) -> None:
        """End drafts older than a day, and remove what processes left that are gone."""
        try:
            await self.drafts.sweep()
            await self._scratch.clean()
        except (ServerError, OSError) as error:
            _log.warning("cleaning of data sets goes on later: %s", error)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.clean()

    # From files to a data set

    async def commit(self, author: Author, name: str, draft: str) -> Kept:
        """Have the files of a draft read, and keep what they hold. A client that leaves does not
        stop it; files that cannot be read stay, to be committed again as another format or kind.

        Raises:
            NotFound: There is no such draft.
            Conflict: Files are missing, or damaged in the store.
            InvalidInput: They cannot be read; names the line or row, and the column.
            PayloadTooLarge: What is in them is larger than a data set may be.
            NotSupported: The packages that read them are not installed.
            StorageFull: There is no room.
        """
        work = partial(self._commit, author, name, draft)
        return await self._committing.run((author.tenant, name, draft), work)

    async def _commit(self, author: Author, name: str, draft: str) -> Kept:
        check_installed()
        row = await self.drafts.complete(author, name, draft)
        async with self._reading, self._scratch.directory() as directory:
            made = await self._read(row, directory)
            request = row.request
            new = NewDataset(
                name, made.rows, made.columns, made.format, request.note, request.description
            )
            kept = await self.store.keep(author, new, directory / made.path, row)
        await self.drafts.clear(row)
        if kept.created:
            _log.info("data set '%s': made by %s, %d rows", kept.row.ref, author.by, made.rows)
        return kept

    async def _read(self, row: DraftRow, directory: Path) -> MadeDataset:
        request = row.request
        await self._remote.run(self._lay_files, row, directory)
        names = [file.name for file in request.files]
        spec = {
            "kind": "ingest",
            "name": row.name,
            "files": names,
            "format": request.format,
            "kinds": dict(request.kinds),
            "max_bytes": self._settings.max_dataset_bytes,
        }
        order = Order(
            job=row.id,
            spec=spec,
            files={name: f"files/{name}" for name in names},
            threads=self._threads,
            memory_bytes=self._settings.job_memory_bytes,
        )
        try:
            product = await self._run(order, directory)
        except ServerError as error:
            if type(error) is not ServerError:
                raise
            raise LoadFailed(f"data set '{row.name}' could not be read: {error.message}") from None
        (made,) = product.datasets
        return made

    def _lay_files(self, row: DraftRow, directory: Path) -> None:
        """Copy them, checked on the way."""
        size = sum(file.size for file in row.files)
        self._check_room(2 * size)
        with file_errors():
            (directory / "files").mkdir()
        for file in row.files:
            try:
                self._artefacts.get(row.tenant, file.sha256, directory / "files" / file.name)
            except Corrupt:
                raise Conflict(
                    f"{file.name}: its bytes in the store are damaged: send them again"
                ) from None

    # For jobs

    async def lay_out(self, tenant: str, ref: str) -> Laid:
        """A data set, and the artefact of its Parquet file.

        Raises:
            NotFound: There is none, or it was erased.
        """
        row = await self.store.ready(tenant, ref)
        return Laid(document(row), row.digest)

    async def keep(self, author: Author, made: MadeDataset, path: Path) -> Dataset:
        """Keep a data set that a job made; the same one again is the one that there is.

        Args:
            path: Of its Parquet file, which may be used up.
        """
        new = NewDataset(
            made.name, made.rows, made.columns, made.format, made.note, None, made.lineage
        )
        return document((await self.store.keep(author, new, path)).row)

    # Erasing

    async def erase(self, author: Author, name: str, number: int) -> DatasetErasure:
        """See `Store.erase`."""
        return await self.store.erase(author, name, number)

    async def erase_all(self, author: Author, name: str) -> list[DatasetErasure]:
        """Erase all versions of a data set, and throw away its drafts; see `Store.erase_all`."""
        erased, drafts = await self.store.erase_all(author, name)
        for draft in drafts:
            await self.drafts.clear(draft)
        return erased


def check_installed() -> None:
    """Refuse where the packages are missing that read data sets.

    Raises:
        NotSupported: They are.
    """
    if find_spec("pyarrow") is None:
        raise NotSupported(
            "data sets are read by pyarrow, which is not installed on the server: "
            "pip install 'aiaas-client[server,platform,train]'"
        )
