"""`Workshop`: jobs of a server, wired together with the registry and the data sets."""

from __future__ import annotations

import os
from collections.abc import Callable

from aiaas_client.protocol.management import PromoteRequest
from aiaas_server.core.author import Author
from aiaas_server.core.names import full_name
from aiaas_server.http.manage.jobs import JobRoutes
from aiaas_server.jobs.keeping import Keeping
from aiaas_server.jobs.supervisor import Jobs
from aiaas_server.jobs.work import Allowed
from aiaas_server.registry.deployment import Deployment
from aiaas_server.registry.reconcile import Reconcile
from aiaas_server.registry.registry import Registry
from aiaas_server.settings import Settings
from aiaas_server.state.artefacts.announced import AdmitFiles
from aiaas_server.state.database import Database
from aiaas_server.state.feed import Feed
from aiaas_server.workshop.batches import Batches
from aiaas_server.workshop.inputs import Inputs
from aiaas_server.workshop.outputs import Changed, KeepDataset, Outputs
from aiaas_server.workshop.scratch import Scratch
from aiaas_server.workshop.submit import AdmitJob, Submit


class Workshop:
    """The jobs of one process.

    Args:
        settings: With `data`.
        deployment: The store, and what makes versions of what is brought.
        registry, reconcile: Who gets which version.
        keep_dataset: Keeps a data set that a job made.
        is_taken: Whether a name is that of a model beside the registry; blocks.
        admit_files, admit_job: Asked for what is to be kept: the quota.

    Attributes:
        submit: Puts a job into the queue.
        keeping: Keeps files as artefacts.
        batches: OpenAI's files and batches.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        feed: Feed,
        deployment: Deployment,
        registry: Registry,
        reconcile: Reconcile,
        keep_dataset: KeepDataset,
        is_taken: Callable[[str], bool],
        admit_files: AdmitFiles | None = None,
        admit_job: AdmitJob | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._deployment = deployment
        self._registry = registry
        self._reconcile = reconcile
        self._changed: Changed = self._bring
        room = deployment.check_room
        artefacts, threads = deployment.artefacts, deployment.remote
        self.keeping = Keeping(database, artefacts, deployment.remover, threads, admit_files)
        self.submit = Submit(database, is_taken, settings.ray_clusters, admit_job)
        self.batches = Batches(
            settings,
            database,
            deployment,
            self.keeping,
            self.submit,
            Scratch(deployment.work / "reading", threads),
            room,
        )
        inputs = Inputs(
            database,
            artefacts,
            deployment.cache,
            threads,
            room,
            memory_bytes=settings.job_memory_bytes,
            threads_each=settings.threads_per_job,
        )
        outputs = Outputs(
            database,
            deployment.drafts,
            deployment.commits,
            self.keeping,
            threads,
            keep_dataset=keep_dataset,
            promote=self._promote,
            changed=self._tell,
        )
        self._jobs = Jobs(
            database,
            feed,
            deployment.work / "jobs",
            self.keeping,
            lay_out=inputs.lay_out,
            keep=outputs.keep,
            allowed=Allowed(
                settings.jobs,
                settings.job_memory_bytes,
                settings.threads_per_job,
                settings.job_timeout,
                check_room=room,
            ),
            # Workers of one server have one supervisor: the first that asks runs all jobs, and
            # another one where that ends.
            turn=str(os.getppid()) if settings.workers > 1 else "",
        )

    def routes(self, changed: Changed, stopping: Callable[[], bool]) -> JobRoutes:
        """The routes of jobs and recipes.

        Args:
            changed: Awaited for a model that a job has changed.
            stopping: Whether the server takes no more work.
        """
        self._changed = changed
        return JobRoutes(
            self._database,
            self._settings,
            self.submit,
            self.keeping,
            self._deployment.artefacts,
            self._deployment.remote,
            stopping,
        )

    def start(self) -> None:
        """Run jobs, if this server is to."""
        if self._settings.jobs:
            self._jobs.start()

    async def close(self) -> None:
        """Give back what runs; before the feed and the database are closed."""
        await self._jobs.close()

    async def _tell(self, tenant: str, name: str) -> None:
        await self._changed(tenant, name)

    async def _bring(self, tenant: str, name: str) -> None:
        """Until there are routes, only this process is told."""
        await self._reconcile.bring(full_name(tenant, name))

    async def _promote(
        self, author: Author, name: str, request: PromoteRequest, alias: str
    ) -> None:
        """As the route of aliases: a version is loaded and warm before it serves."""
        async with self._reconcile.loaded(author.tenant, name, [request.version]):
            await self._registry.promote(author, name, request, alias)
            await self._changed(author.tenant, name)
