"""Erases versions and models, and looks afterwards whether anything of them is left.

One transaction takes a version away: from then on it is not found, and its artefacts have one user
less. Then the bytes go that nobody else uses, from the store, the cache and the drafts. A server
that ends in between does the rest when it starts again; see `sweep`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, select

from aiaas_client.protocol.management import Erasure
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound, ServerError
from aiaas_server.registry import history, models
from aiaas_server.registry.cache import Cache
from aiaas_server.registry.draft_rows import DraftRow, drafts_of_model, end_draft
from aiaas_server.registry.drafts import Drafts
from aiaas_server.registry.rows import Author, ModelRow, VersionRow
from aiaas_server.registry.standing import reasons, without
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.artefacts import Artefacts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database
from aiaas_server.state.tables import (
    FEEDBACK,
    MODELS,
    PREDICTIONS,
    PROFILES,
    VERSIONS,
    WINDOWS,
)

_log = logging.getLogger("aiaas_server")

Ready = Callable[[str, str, int], Awaitable[None]]
"""Awaited with tenant, model and version before that version takes another's place."""

_ABOUT_A_VERSION: Final = (PROFILES, WINDOWS, PREDICTIONS, FEEDBACK)


class Erased(NamedTuple):
    """What a transaction took away, for those who remove the bytes.

    Attributes:
        versions: As they were.
        drafts: That went with their model.
    """

    tenant: str
    model: str
    versions: Sequence[VersionRow]
    drafts: Sequence[DraftRow] = ()


class Eraser:
    """Erases, for one server.

    Args:
        database: The rows.
        artefacts: The bytes.
        cache: The directories of them.
        drafts: The open drafts.
        remover: Removes artefacts.
        remote: Threads for the store.
        ready: Sees to it that a version which is to replace another is loaded.
    """

    def __init__(
        self,
        database: Database,
        artefacts: Artefacts,
        cache: Cache,
        drafts: Drafts,
        remover: Remover,
        remote: Threads,
        ready: Ready | None = None,
    ) -> None:
        self._database = database
        self._artefacts = artefacts
        self._cache = cache
        self._drafts = drafts
        self._remover = remover
        self._remote = remote
        self._ready = ready

    async def erase_version(
        self,
        author: Author,
        name: str,
        number: int,
        *,
        force: bool = False,
        replacement: int | None = None,
    ) -> Erasure:
        """Erase one version.

        Args:
            force: Also where it serves; `replacement` then takes its place at the same moment.
        Raises:
            NotFound: There is none, or it has been erased.
            Conflict: Something points at it and no replacement is named, or that is not verified.
            InvalidInput: It would replace itself.
        """
        if replacement == number:
            raise InvalidInput(f"replacement: version {number} cannot replace itself")
        if replacement is not None:
            chosen = replacement
            await self._database.read(lambda c: _check_replacement(c, author, name, chosen))
            if self._ready is not None:
                await self._ready(author.tenant, name, replacement)
        erased = await self._database.write(
            lambda c: take_version(c, author, name, number, force, replacement), spares_room=True
        )
        _log.info("model '%s': version %d erased by %s", name, number, author.by)
        return await self.finish(erased)

    async def erase_model(self, author: Author, name: str, *, force: bool = False) -> Erasure:
        """Erase a model with all its versions and drafts; its history stays.

        Raises:
            NotFound: There is none.
            Conflict: It serves, and `force` is not set.
        """
        erased = await self._database.write(
            lambda c: take_model(c, author, name, force), spares_room=True
        )
        _log.info("model '%s': erased by %s, %d versions", name, author.by, len(erased.versions))
        return await self.finish(erased)

    async def finish(self, erased: Erased) -> Erasure:
        """Remove the bytes of what was taken away, and look whether they are gone."""
        digests = sorted({file.sha256 for v in erased.versions for file in v.files})
        tenant = erased.tenant
        try:
            for draft in erased.drafts:
                await self._drafts.clear(draft)
            removed = await self._remover.remove(tenant, digests)
            bundles = await self._unkept(erased)
            for digest in bundles:
                await self._remote.run(self._cache.drop, tenant, digest)
            proven = await self._is_gone(erased, bundles, removed)
        except ServerError as error:
            _log.warning("erasure of '%s' goes on with the next sweep: %s", erased.model, error)
            removed, proven = [], False
        return Erasure(
            model=erased.model,
            versions=sorted(v.number for v in erased.versions),
            artefacts=sorted(removed),
            kept=sorted(set(digests) - set(removed)),
            verified=proven,
            at=time.time(),
        )

    async def _unkept(self, erased: Erased) -> set[str]:
        """The bundles of which no version is left."""
        bundles = {version.digest for version in erased.versions}
        return await self._database.read(
            lambda c: {d for d in bundles if not is_bundle_kept(c, erased.tenant, d)}
        )

    async def _is_gone(self, erased: Erased, bundles: set[str], removed: Sequence[str]) -> bool:
        """Whether nothing is found of what was removed."""
        tenant = erased.tenant

        def look() -> bool:
            in_store = any(self._artefacts.size(tenant, d) is not None for d in removed)
            in_cache = any(self._cache.has(tenant, d) for d in bundles)
            in_drafts = any(self._drafts.has_parts(draft.id) for draft in erased.drafts)
            return not (in_store or in_cache or in_drafts)

        return await self._remote.run(look)


# Inside a transaction


def take_version(
    connection: Connection,
    author: Author,
    name: str,
    number: int,
    force: bool,
    replacement: int | None,
) -> Erased:
    """Take a version away; see `Eraser.erase_version`."""
    model = models.get_model(connection, author.tenant, name)
    version = models.get_version(connection, model, number)
    if version.state == "erased":
        raise NotFound(f"model '{name}' has no version {number}: it was erased")
    reason = reasons(model.serving, models.latest_version(connection, model.id)).get(number)
    before = after = None
    if reason is not None:
        if not force or replacement is None:
            raise Conflict(
                f"version {number} of '{name}' is in use: {reason}; end that, or erase it with "
                "force=true and the replacement named, or erase the whole model"
            )
        _check_replacement(connection, author, name, replacement)
        latest_then = models.latest_version(connection, model.id, besides=number)
        serving = without(model.serving, number, replacement, latest_then)
        before, after = model.serving.model_dump(mode="json"), serving.model_dump(mode="json")
        models.update_model(connection, model, serving=serving)
    told = "" if reason is None else f"replaced by version {replacement}: {reason}"
    erase_row(connection, author.tenant, version)
    history.record(
        connection,
        author,
        model,
        "erased",
        version=number,
        before=before,
        after=after,
        reason=told,
    )
    return Erased(author.tenant, name, [version])


def take_model(connection: Connection, author: Author, name: str, force: bool) -> Erased:
    """Take a model away; see `Eraser.erase_model`."""
    model = models.get_model(connection, author.tenant, name)
    used = reasons(model.serving, models.latest_version(connection, model.id))
    if used and not force:
        number, reason = next(iter(used.items()))
        raise Conflict(
            f"model '{name}' serves: version {number}: {reason}; erase it with force=true"
        )
    erased = []
    for version in models.list_versions(connection, model.id):
        if version.state != "erased":
            erase_row(connection, author.tenant, version)
            erased.append(version)
    drafts = drafts_of_model(connection, author.tenant, name)
    for draft in drafts:
        end_draft(connection, draft)
    history.record(
        connection, author, model, "deleted", before=model.serving.model_dump(mode="json")
    )
    connection.execute(delete(VERSIONS).where(VERSIONS.c.model_id == model.id))
    connection.execute(delete(MODELS).where(MODELS.c.id == model.id))
    return Erased(author.tenant, name, erased, drafts)


def erase_row(connection: Connection, tenant: str, version: VersionRow) -> None:
    """Mark a version as erased: its card and what was learned from its data go with its bytes."""
    claims.release(connection, tenant, version.user)
    models.set_state(connection, version.model_id, version.number, "erased", "")
    models.empty_version(connection, version.model_id, version.number)
    for table in _ABOUT_A_VERSION:
        connection.execute(
            delete(table).where(
                table.c.model_id == version.model_id, table.c.version == version.number
            )
        )


def is_bundle_kept(connection: Connection, tenant: str, digest: str) -> bool:
    """Whether any version of a tenant still is that bundle."""
    asked = (
        select(VERSIONS.c.number)
        .join(MODELS, MODELS.c.id == VERSIONS.c.model_id)
        .where(MODELS.c.tenant == tenant, VERSIONS.c.digest == digest, VERSIONS.c.state != "erased")
        .limit(1)
    )
    return connection.execute(asked).first() is not None


def _check_replacement(connection: Connection, author: Author, name: str, number: int) -> ModelRow:
    model = models.get_model(connection, author.tenant, name)
    found = models.find_version(connection, model.id, number)
    if found is None or found.state != "verified":
        what = "does not exist" if found is None else f"is {found.state}"
        raise Conflict(f"replacement: version {number} of '{name}' {what}")
    return model
