"""`Submit`: a job that somebody asks for, looked at and put into the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from functools import partial

from aiaas_client.protocol.jobs import SPEC, BatchSpec, JobRequest, TrainSpec
from aiaas_server.core.author import Author
from aiaas_server.core.describe.stored import name_problem
from aiaas_server.core.errors import Conflict, InvalidInput
from aiaas_server.core.events import OPERATOR
from aiaas_server.jobs.queue import enqueue
from aiaas_server.jobs.rows import JobRow
from aiaas_server.jobs.specs import check_spec
from aiaas_server.state.database import Connection, Database
from aiaas_server.workshop.references import resolved

AdmitJob = Callable[[Connection, Author], None]
"""Raises `QuotaExceeded` or `BudgetExceeded` where somebody may not queue another job."""


class Submit:
    """Puts jobs into the queue.

    Args:
        is_taken: Whether a name is that of a model beside the registry; blocks.
        clusters: Addresses of Ray that trainings may name.
        admit: Asked, in the transaction that queues a job, whether a tenant may have another.
    """

    def __init__(
        self,
        database: Database,
        is_taken: Callable[[str], bool],
        clusters: Collection[str] = (),
        admit: AdmitJob | None = None,
    ) -> None:
        self._admit = admit
        self._database = database
        self._is_taken = is_taken
        self._clusters = clusters

    async def __call__(self, author: Author, request: JobRequest) -> JobRow:
        """Look at a job and queue it.

        Two jobs may be under way for one name: what they make is numbered in the order in which
        they are done.

        Raises:
            NotFound: A model, version or data set that it names is not there.
            Conflict: It is erased; or the name is one of the directory of models.
            InvalidInput: A recipe, parameter or column is not there, or does not fit.
            NotSupported: It needs what is not installed here.
            QuotaExceeded: The tenant has as many jobs as it may.
            BudgetExceeded: It has spent what it may in this month.
        """
        asked = request.spec.model_dump(mode="json")
        found = await self._database.read(lambda c: resolved(c, author.tenant, asked))
        spec = SPEC.validate_python(found.spec)
        if isinstance(spec, TrainSpec):
            await asyncio.to_thread(self._check_name, author.tenant, spec.model)
        versions = {ref: one.version for ref, one in found.versions.items()}
        # Recipes are imported by it.
        check = partial(check_spec, clusters=self._clusters)
        await asyncio.to_thread(check, spec, found.datasets, versions)
        put = partial(
            enqueue,
            tenant=author.tenant,
            by=author.by,
            kind=spec.kind,
            subject=_subject(spec),
            spec=found.spec,
            note=request.note,
            attempts=request.attempts,
            wait=request.timeout,
        )

        def admitted(connection: Connection) -> JobRow:
            if self._admit is not None:
                self._admit(connection, author)
            return put(connection)

        return await self._database.write(admitted)

    def _check_name(self, tenant: str, name: str) -> None:
        if problem := name_problem(name):
            raise InvalidInput(f"model {name[:64]!r}: {problem}")
        if tenant == OPERATOR.tenant and self._is_taken(name):
            raise Conflict(
                f"model '{name}' is served from the directory of models: train another name"
            )


def _subject(spec: object) -> str:
    """The model that a job is about; of a batch its file."""
    if isinstance(spec, BatchSpec):
        return spec.file
    models = getattr(spec, "models", None)
    named: str = models[0] if models else getattr(spec, "model", "")
    return named.partition("@")[0]
