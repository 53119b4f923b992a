"""`Outputs`: keeps what a job made, by the ways that whoever brings a version goes as well.

Each step may be repeated after a crash in the middle of them: a version or a data set of the same
bytes is the one that it is already, a file of the same bytes the same artefact, and metrics are set
to what they are. Aliases come last, when all else is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiaas_client.protocol.datasets import Dataset
from aiaas_client.protocol.jobs import JobFile, JobResult, read_model_ref
from aiaas_client.protocol.management import BundleFile, DraftRequest, PromoteRequest
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict
from aiaas_server.jobs.keeping import Keeping, Kept
from aiaas_server.jobs.orders import MadeDataset, MadeVersion, Product
from aiaas_server.jobs.rows import JobRow
from aiaas_server.monitor.profiles import put_profile
from aiaas_server.registry import models
from aiaas_server.registry.commit import Commits
from aiaas_server.registry.drafts import Drafts
from aiaas_server.registry.measured import add_metrics
from aiaas_server.registry.rows import VersionRow
from aiaas_server.state.artefacts.artefacts import digest_of
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Connection, Database
from aiaas_server.workshop.reference import read_reference

_PIECE: Final = 1 << 20  # bytes of a file at a time

KeepDataset = Callable[[Author, MadeDataset, Path], Awaitable[Dataset]]
"""Keeps a data set that a job made, from its Parquet file, which may be used up."""
Changed = Callable[[str, str], Awaitable[object]]
"""Is told tenant and name of a model that was changed."""
Promote = Callable[[Author, str, PromoteRequest, str], Awaitable[object]]
"""Has an alias point at a version, as the route does."""


class Outputs:
    """Keeps products.

    Args:
        database: The rows.
        drafts, commits: By which versions come.
        keeping: For files.
        keep_dataset: For data sets.
        threads: Where disks are waited for.
        promote: For aliases.
        changed: Told of models.
    """

    def __init__(
        self,
        database: Database,
        drafts: Drafts,
        commits: Commits,
        keeping: Keeping,
        threads: Threads,
        *,
        keep_dataset: KeepDataset,
        promote: Promote,
        changed: Changed,
    ) -> None:
        self._database = database
        self._drafts = drafts
        self._commits = commits
        self._keeping = keeping
        self._threads = threads
        self._keep_dataset = keep_dataset
        self._promote = promote
        self._changed = changed

    async def keep(self, row: JobRow, product: Product, directory: Path) -> JobResult:
        """Keep all of it.

        Raises:
            Rejected: A version was refused by the verification.
            Conflict, NotFound: What it would be added to is gone, or another's.
            StorageFull, StateUnavailable: It cannot be kept now.
        """
        author = Author(row.tenant, row.created_by, f"job-{row.id}")
        versions = [await self._version(author, row, one, directory) for one in product.versions]
        datasets = [await self._dataset(author, row, one, directory) for one in product.datasets]
        for ref, metrics in product.measured.items():
            await self._measured(author, row, ref, metrics)
        files = [
            await self._file(row, name, directory / path) for name, path in product.files.items()
        ]
        for made, number in zip(product.versions, versions, strict=True):
            await self._alias(author, row, made, number)
        return JobResult(
            model=product.versions[0].model if product.versions else "",
            versions=versions,
            datasets=datasets,
            metrics=product.metrics,
            table=product.table,
            files=files,
            details=product.details,
        )

    # Versions

    async def _version(
        self, author: Author, row: JobRow, made: MadeVersion, directory: Path
    ) -> int:
        place = directory / made.path
        listed = await self._threads.run(_listed, place)
        request = DraftRequest(
            files=listed,
            note=made.note or f"job {row.id}",
            metrics=made.metrics,
            lineage={"job": row.id, **made.lineage},
        )
        draft, _ = await self._drafts.create(author, made.model, request)
        for file in draft.missing:
            await self._drafts.receive(
                author,
                made.model,
                draft.id,
                file.name,
                self._pieces(place / file.name),
                length=file.size,
            )
        done = await self._commits.commit(author, made.model, draft.id)
        if made.reference is not None:
            await self._refer(done.version, directory / made.reference)
        await self._changed(author.tenant, made.model)
        return done.version.number

    async def _pieces(self, path: Path) -> AsyncIterator[bytes]:
        with await self._threads.run(path.open, "rb") as file:
            while piece := await self._threads.run(file.read, _PIECE):
                yield piece

    async def _refer(self, version: VersionRow, path: Path) -> None:
        """Have what it was trained on be what its traffic is compared with."""
        profile = await self._threads.run(read_reference, version, path)
        if profile is not None:
            keep = partial(
                put_profile, model_id=version.model_id, version=version.number, profile=profile
            )
            await self._database.write(keep)

    async def _alias(self, author: Author, row: JobRow, made: MadeVersion, number: int) -> None:
        if made.alias is None:
            return
        model = await self._database.read(lambda c: models.get_model(c, author.tenant, made.model))
        rollout = model.serving.rollout
        under_way = rollout is not None and (rollout.alias, rollout.version) == (made.alias, number)
        if under_way or model.serving.aliases.get(made.alias) == number:
            return
        # Without a version that serves now there is nothing to hold a new one against.
        guard = made.guard if model.serving.aliases.get(made.alias) is not None else None
        request = PromoteRequest(version=number, guard=guard, note=f"job {row.id}")
        await self._promote(author, made.model, request, made.alias)

    # The rest

    async def _dataset(
        self, author: Author, row: JobRow, made: MadeDataset, directory: Path
    ) -> str:
        named = made.model_copy(update={"lineage": {"job": row.id, **made.lineage}})
        # A link is used up: the file stays for another try.
        going = directory / f".{row.id}.parquet"
        await self._threads.run(_link, directory / made.path, going)
        return (await self._keep_dataset(author, named, going)).ref

    async def _measured(
        self, author: Author, row: JobRow, ref: str, metrics: dict[str, Any]
    ) -> None:
        name, number = read_model_ref(ref)
        assert isinstance(number, int), "references are resolved"
        await self._database.write(
            partial(
                add_metrics,
                author=author,
                name=name,
                number=number,
                metrics=metrics,
                reason=f"measured by job {row.id}",
            )
        )

    async def _file(self, row: JobRow, name: str, path: Path) -> JobFile:
        def note(connection: Connection, kept: Kept) -> JobFile:
            return JobFile(name=name, size=kept.size, sha256=kept.sha256)

        # An earlier try may have moved it to the store already; so it is a link that moves.
        going = path.with_name(f".{path.name}.going")
        await self._threads.run(_link, path, going)
        kept = await self._keeping.keep(row.tenant, row.user, going, note)
        if kept is None:
            raise Conflict(f"{name}: the job was ended while it was kept")
        return kept


def _listed(place: Path) -> list[BundleFile]:
    return [
        BundleFile(name=path.name, size=path.stat().st_size, sha256=digest_of(path))
        for path in sorted(place.iterdir())
        if path.is_file()
    ]


def _link(path: Path, going: Path) -> None:
    going.unlink(missing_ok=True)
    going.hardlink_to(path)
