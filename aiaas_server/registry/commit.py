"""Commit: a draft becomes a version, or nothing.

Its files are put together in a private directory, whose every byte is hashed, and looked at by a
verifier in a process of its own. What passes is written in one transaction: the version, its uses
of the artefacts in place of the draft's, its alias, the history. What is refused leaves nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Connection

from aiaas_client.protocol.management import Report, TensorSpec, is_finite
from aiaas_server.core.errors import Conflict, Rejected, ServerError
from aiaas_server.registry import history, models
from aiaas_server.registry.cache import Cache
from aiaas_server.registry.damage import is_whole
from aiaas_server.registry.draft_rows import (
    DraftRow,
    claim_stored,
    complete_digests,
    end_draft,
    get_draft,
)
from aiaas_server.registry.drafts import Drafts
from aiaas_server.registry.erasure import Eraser
from aiaas_server.registry.retention import take_excess
from aiaas_server.registry.rows import Author, ModelRow, VersionRow
from aiaas_server.registry.serving import check_alias
from aiaas_server.registry.traffic import point_alias
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.artefacts import Corrupt
from aiaas_server.state.artefacts.threads import Joined, Threads
from aiaas_server.state.database import Database

_log = logging.getLogger("aiaas_server")


class Verified(Protocol):
    """What a verifier found of a bundle that is fit to be served."""

    @property
    def report(self) -> Report:
        """What was measured."""
        ...

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """As it will be served."""
        ...

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """As it will be served."""
        ...

    @property
    def card(self) -> Mapping[str, Any] | None:
        """The bundle's card, if it has one."""
        ...

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The card's and the golden set's."""
        ...

    @property
    def profile(self) -> Mapping[str, Any] | None:
        """What its golden set makes the reference of its traffic, if it is enough for one."""
        ...


class Verify(Protocol):
    """Looks at a bundle."""

    async def __call__(self, directory: Path, *, name: str, digests: Mapping[str, str]) -> Verified:
        """Verify it.

        Raises:
            Rejected: It is not fit to be served; the message says why in one line.
        """
        ...


Kept = Callable[[Connection, VersionRow, Verified], object]
"""Is told of a version that is new, inside the transaction that writes it."""


def _nobody(connection: Connection, version: VersionRow, found: Verified) -> None:
    """Nobody is told."""


class Committed(NamedTuple):
    """A version, and whether the commit made it; the same bytes were a version before else."""

    version: VersionRow
    created: bool


class Commits:
    """Commits drafts, for one server. Two commits of one draft at once are one.

    Args:
        database: The rows.
        drafts: Where they are.
        cache: Where bundles are put together.
        verify: Looks at them.
        eraser: For what the policy lets go.
        remote: Threads for the store.
        kept: Is told of new versions.
    """

    def __init__(
        self,
        database: Database,
        drafts: Drafts,
        cache: Cache,
        verify: Verify,
        eraser: Eraser,
        remote: Threads,
        kept: Kept | None = None,
    ) -> None:
        self._kept = kept or _nobody
        self._database = database
        self._drafts = drafts
        self._cache = cache
        self._verify = verify
        self._eraser = eraser
        self._remote = remote
        self._running = Joined()

    async def commit(self, author: Author, model: str, draft: str) -> Committed:
        """Make a draft a version. A client that leaves does not stop it.

        Raises:
            NotFound: There is no such draft.
            Conflict: Files are missing; the number is taken by other bytes, or the bytes are
                another version's.
            Rejected: The version was refused; the draft is gone.
            StateUnavailable: Store or database do not answer; the draft stays.
        """
        work = partial(self._commit, author, model, draft)
        return await self._running.run((author.tenant, model, draft), work)

    async def close(self) -> None:
        """Give up what is under way; the drafts stay."""
        await self._running.close()

    async def _commit(self, author: Author, model: str, draft: str) -> Committed:
        row = await self._database.write(lambda c: prepare(c, author.tenant, model, draft))
        with_made = ExitStack()
        try:
            assembled = self._cache.assembled(row.tenant, row.request.files)
            made = await self._remote.run(with_made.enter_context, assembled)
            found = await self._look_at(row, made)
            end = partial(conclude, author=author, row=row, found=found, kept=self._kept)
            done = await self._database.write(end)
            _log_deployed(author, row, done)
            await self._remote.run(
                self._cache.adopt, made, row.tenant, row.digest, row.request.files
            )
        except Rejected as error:
            _log.warning("model '%s': a version was refused: %s", model, error.message)
            await self._drafts.remove(row)
            raise
        except Corrupt as error:
            name = next(f.name for f in row.request.files if f.sha256 == error.digest)
            raise Conflict(f"{name}: its bytes in the store are damaged: send them again") from None
        finally:
            await self._remote.run(with_made.close)
        await self._drafts.clear(row)
        await self._retain(row)
        return done

    async def _look_at(self, row: DraftRow, made: Path) -> Verified | None:
        """What the verifier finds; None where the bytes are those of a version already."""
        if await self._database.read(lambda c: _known(c, row)) is not None:
            return None
        digests = {file.name: file.sha256 for file in row.request.files}
        found = await self._verify(made, name=row.model, digests=digests)
        if not is_finite(dict(found.card or {})) or not is_finite(dict(found.metrics)):
            raise Rejected("model.json, golden.json: expected finite numbers, got NaN or Infinity")
        return found

    async def _retain(self, row: DraftRow) -> None:
        """Let go of what the policy does not keep; a failure is for the next commit."""
        try:
            erased = await self._database.write(
                lambda c: take_excess(c, row.tenant, row.model), spares_room=True
            )
            for version in erased.versions:
                _log.info("model '%s': version %d erased by retention", row.model, version.number)
            if erased.versions:
                await self._eraser.finish(erased)
        except ServerError as error:
            _log.warning("retention of model '%s': %s", row.model, error.message)


def _log_deployed(author: Author, row: DraftRow, done: Committed) -> None:
    number, alias = done.version.number, row.request.alias
    if done.created:
        size = done.version.size
        _log.info(
            "model '%s': version %d deployed by %s, %d bytes", row.model, number, author.by, size
        )
    if alias is not None:
        _log.info("model '%s': version %d is '%s', by %s", row.model, number, alias, author.by)


# Inside a transaction


def prepare(connection: Connection, tenant: str, model: str, draft: str) -> DraftRow:
    """The draft, if it can be committed; what its files need is kept for it.

    Raises:
        NotFound: There is none.
        Conflict: Files are missing; the number is taken by other bytes, or the bytes are another
            version's.
    """
    row = get_draft(connection, tenant, model, draft)
    claim_stored(connection, row)
    complete = complete_digests(connection, row)
    missing = [file.name for file in row.request.files if file.sha256 not in complete]
    if missing:
        raise Conflict(
            f"{missing[0]}: not all of it has come; {len(missing)} of "
            f"{len(row.request.files)} files are missing"
        )
    if row.request.alias is not None:
        check_alias(row.request.alias)
    found = models.find_model(connection, tenant, model)
    if found is not None:
        check_number(connection, found, row)
    return row


def check_number(connection: Connection, model: ModelRow, row: DraftRow) -> None:
    """Refuse a number that was asked for and is another version's, or whose bytes are.

    Raises:
        Conflict: It is, or they are.
    """
    number = row.request.version
    if number is None:
        return
    taken = models.find_version(connection, model.id, number)
    if taken is None:
        same = models.find_digest(connection, model.id, row.digest)
        if same is not None:
            raise Conflict(
                f"version {number} of '{model.name}' was asked for, and these bytes are its "
                f"version {same.number} already"
            )
        return
    if taken.state == "erased":
        raise Conflict(
            f"version {number} of '{model.name}' was erased: its number is not used again"
        )
    if taken.digest != row.digest:
        raise Conflict(f"version {number} of '{model.name}' exists with other bytes")


def conclude(
    connection: Connection,
    *,
    author: Author,
    row: DraftRow,
    found: Verified | None,
    kept: Kept = _nobody,
) -> Committed:
    """End a draft by a version: the one of the same bytes, or a new one.

    Args:
        found: What the verifier said; None where the bytes are those of a version already.
    Raises:
        NotFound: The draft has ended meanwhile.
        Conflict: The number was taken meanwhile, or the version of the same bytes was erased.
    """
    get_draft(connection, row.tenant, row.model, row.id)
    model = models.ensure_model(connection, author, row.model)
    check_number(connection, model, row)
    version = models.find_digest(connection, model.id, row.digest)
    created = version is None
    if version is None:
        if found is None:
            raise Conflict("the version of these bytes was erased meanwhile: commit again")
        version = _insert(connection, author, model, row, found)
        kept(connection, version, found)
    elif version.state == "corrupt" and is_whole(connection, row.tenant, version):
        models.set_state(connection, model.id, version.number, "verified", "")
        history.record(connection, author, model, "repaired", version=version.number)
        version = version._replace(state="verified", reason="")
    end_draft(connection, row)
    model = _describe(connection, model, row)
    if row.request.alias is not None:
        point_alias(connection, author, model, version.number, row.request.alias)
    return Committed(version, created)


def _insert(
    connection: Connection, author: Author, model: ModelRow, row: DraftRow, found: Verified
) -> VersionRow:
    request = row.request
    number = models.take_number(connection, model, request.version)
    version = VersionRow(
        model.id,
        number,
        row.digest,
        "verified",
        "",
        sum(file.size for file in request.files),
        list(request.files),
        None if found.card is None else dict(found.card),
        {
            "inputs": [spec.model_dump(mode="json") for spec in found.inputs],
            "outputs": [spec.model_dump(mode="json") for spec in found.outputs],
        },
        found.report.model_dump(mode="json"),
        {**found.metrics, **request.metrics},
        dict(request.lineage),
        request.note,
        time.time(),
        author.by,
    )
    models.insert_version(connection, version)
    for digest in {file.sha256 for file in request.files}:
        claims.claim(connection, row.tenant, digest, version.user)
    history.record(connection, author, model, "deployed", version=number, reason=request.note)
    return version


def _describe(connection: Connection, model: ModelRow, row: DraftRow) -> ModelRow:
    text = row.request.description
    if text is None or text == model.description:
        return model
    return models.update_model(connection, model, description=text)


def _known(connection: Connection, row: DraftRow) -> VersionRow | None:
    model = models.find_model(connection, row.tenant, row.model)
    return None if model is None else models.find_digest(connection, model.id, row.digest)
