"""`Inputs`: puts all that a job needs into its directory, and writes the order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiaas_server.jobs.needs import file_digest
from aiaas_server.jobs.orders import LaidCheckpoint, LaidDataset, LaidVersion, Order
from aiaas_server.jobs.rows import JobRow
from aiaas_server.registry.cache import Cache
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt, digest_of
from aiaas_server.state.artefacts.stores import file_errors
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Connection, Database
from aiaas_server.workshop.references import References, Referred, resolved

_CHECKPOINT: Final = "checkpoint"


class Inputs:
    """Lays jobs out.

    Args:
        database: The rows.
        artefacts: Data sets, files and checkpoints.
        cache: Versions as directories.
        threads: Where disk and store are waited for.
        check_room: Raises `StorageFull` where so many bytes more leave too little.
        memory_bytes, threads_each: What a job may take.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        cache: Cache,
        threads: Threads,
        check_room: Callable[[int], None],
        *,
        memory_bytes: int,
        threads_each: int,
    ) -> None:
        self._database = database
        self._artefacts = artefacts
        self._cache = cache
        self._threads = threads
        self._check_room = check_room
        self._memory_bytes = memory_bytes
        self._threads_each = threads_each

    async def lay_out(self, row: JobRow, directory: Path) -> Order:
        """Put what a job names into its empty directory.

        Raises:
            NotFound, Conflict: Something was erased since the job was asked for.
            Corrupt: The bytes of something are damaged or gone.
            StorageFull: There is no room.
            StateUnavailable: Store or database do not answer.
        """
        found = await self._database.read(lambda c: resolved(c, row.tenant, row.spec))
        files = await self._database.read(lambda c: _files_of(c, row))
        return await self._threads.run(self._lay, row, found, files, directory)

    def _lay(self, row: JobRow, found: References, files: dict[str, str], directory: Path) -> Order:
        self._check_room(sum(one.size for one in found.datasets.values()))
        with file_errors():
            for place in ("datasets", "versions", "files"):
                (directory / place).mkdir()
            datasets = {
                ref: LaidDataset(
                    dataset=dataset,
                    path=self._file(row, dataset.digest, directory, f"datasets/{ref}.parquet"),
                )
                for ref, dataset in found.datasets.items()
            }
            versions = {
                ref: LaidVersion(
                    version=one.version, path=self._version(row, one, directory, f"versions/{ref}")
                )
                for ref, one in found.versions.items()
            }
            laid = {
                name: self._file(row, digest, directory, f"files/{name}")
                for name, digest in files.items()
            }
            return Order(
                job=row.id,
                attempt=row.attempt,
                spec=row.spec,
                datasets=datasets,
                versions=versions,
                files=laid,
                checkpoint=self._checkpoint(row, directory),
                threads=self._threads_each,
                memory_bytes=self._memory_bytes,
            )

    def _file(self, row: JobRow, digest: str, directory: Path, path: str) -> str:
        """Link an artefact of this machine, or bring it; checked in either case."""
        target = directory / path
        source = self._artefacts.local(row.tenant, digest)
        if source is None or not _linked(source, target):
            self._artefacts.get(row.tenant, digest, target)
        elif (came := digest_of(target)) != digest:
            text = f"artefact {digest[:12]} is damaged: its bytes have digest {came}"
            raise Corrupt(text, row.tenant, digest)
        return path

    def _version(self, row: JobRow, one: Referred, directory: Path, path: str) -> str:
        place = self._cache.materialise(one.row, row.tenant)
        (directory / path).mkdir()
        for file in one.row.files:
            if not _linked(place / file.name, directory / path / file.name):
                shutil.copyfile(place / file.name, directory / path / file.name)
        return path

    def _checkpoint(self, row: JobRow, directory: Path) -> LaidCheckpoint | None:
        found = row.checkpoint
        if found is None:
            return None
        self._artefacts.get(row.tenant, found["sha256"], directory / _CHECKPOINT)
        return LaidCheckpoint(step=found["step"], path=_CHECKPOINT)


def _files_of(connection: Connection, row: JobRow) -> dict[str, str]:
    """By id the digests of uploaded files that a spec names."""
    name = row.spec.get("file")
    if name is None:
        return {}
    return {name: file_digest(connection, row.tenant, name)}


def _linked(source: Path, target: Path) -> bool:
    try:
        target.hardlink_to(source)
    except OSError:
        return False  # it is missing, or of another file system
    return True
