"""`Batches`: OpenAI's files and batches, wired to the store and the queue of jobs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from aiaas_client.protocol.jobs import BatchSpec, JobRequest, read_model_ref
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.http.openai.batches import WINDOW, BatchRequest, BatchRoutes
from aiaas_server.http.openai.files import FileRoutes
from aiaas_server.http.openai.storage import Storage
from aiaas_server.jobs.files import BATCH, get_file
from aiaas_server.jobs.keeping import Keeping
from aiaas_server.jobs.lines import read_lines
from aiaas_server.jobs.rows import JobRow
from aiaas_server.registry.deployment import Deployment
from aiaas_server.settings import Settings
from aiaas_server.state.database import Connection, Database
from aiaas_server.workshop.references import the_version
from aiaas_server.workshop.scratch import Scratch
from aiaas_server.workshop.submit import Submit

MOST_LINES: Final = 50_000
MOST_MODELS: Final = 100


class Batches:
    """Files and batches of one server.

    Args:
        scratch: Where files lie while they come, or are looked at.
        check_room: Raises `StorageFull`; blocks.

    Attributes:
        storage: `/v1/files` and `/v1/batches`.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        deployment: Deployment,
        keeping: Keeping,
        submit: Submit,
        scratch: Scratch,
        check_room: Callable[[int], None],
    ) -> None:
        self._database = database
        self._artefacts, self._threads = deployment.artefacts, deployment.remote
        self._scratch = scratch
        self._submit = submit
        files = FileRoutes(
            database,
            settings,
            keeping,
            self._artefacts,
            self._threads,
            scratch.directory,
            check_room,
        )
        self.storage = Storage(files, BatchRoutes(database, settings, keeping, self.create))

    async def create(self, author: Author, request: BatchRequest) -> JobRow:
        """Queue a batch: which models its lines call is looked up now, so that all of them are
        answered by the versions of this moment; lines that name no model here fail by themselves.

        Raises:
            NotFound: There is no such file.
            InvalidInput: It is of another purpose, has no line, or too many lines or models.
        """
        name = request.input_file_id
        file = await self._database.read(partial(get_file, tenant=author.tenant, file=name))
        if file.purpose != BATCH:
            raise InvalidInput(f"input_file_id: expected a file of purpose '{BATCH}'")
        async with self._scratch.directory() as directory:
            path = directory / "file"
            await self._threads.run(self._artefacts.get, author.tenant, file.digest, path)
            names = await self._threads.run(called_models, path, request.endpoint)
        called = await self._database.read(partial(_versions, tenant=author.tenant, names=names))
        spec = BatchSpec(
            file=name,
            endpoint=request.endpoint,
            models=sorted(set(called.values())),
            called=called,
            metadata=request.metadata or {},
        )
        note = f"batch of {file.name}"[:256]
        return await self._submit(author, JobRequest(spec=spec, note=note, timeout=WINDOW))


def called_models(path: Path, endpoint: str) -> list[str]:
    """The names of the models that lines call; blocks.

    Raises:
        InvalidInput: There is no line, or there are too many of lines or models.
    """
    names: set[str] = set()
    lines = 0
    for lines, line in enumerate(read_lines(path, endpoint), 1):
        name = line.body.get("model")
        if isinstance(name, str) and len(name) < 512:
            names.add(name)
        if lines > MOST_LINES or len(names) > MOST_MODELS:
            raise InvalidInput(
                f"the file: expected at most {MOST_LINES} lines that call at most {MOST_MODELS} "
                "models"
            )
    if not lines:
        raise InvalidInput("the file has no line: expected a call on each")
    return sorted(names)


def _versions(connection: Connection, tenant: str, names: list[str]) -> dict[str, str]:
    """By name the version that answers it now; without names that are of no model."""
    found = {}
    for name in names:
        try:
            read_model_ref(name)
            found[name] = the_version(connection, tenant, name).ref
        except (ValueError, NotFound, Conflict):
            continue
    return found
