"""`Registry`: models, their versions and who gets them, as whole calls.

Each change is one transaction with its entry of the history; one that changes nothing leaves none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Connection

from aiaas_client.protocol.management import (
    Diff,
    HistoryEntry,
    HistoryKind,
    Model,
    ModelPatch,
    PromoteRequest,
    RollbackRequest,
    Serving,
    TrafficRequest,
    Version,
)
from aiaas_client.protocol.names import PRODUCTION
from aiaas_server.core.errors import NotSupported, StaleRevision
from aiaas_server.registry import history, models, serving
from aiaas_server.registry.documents import (
    diff_document,
    entry_document,
    model_document,
    version_document,
)
from aiaas_server.registry.rollback import answering, find_target
from aiaas_server.registry.rows import Author, Document, ModelRow
from aiaas_server.registry.traffic import (
    PROMOTE,
    change_serving,
    check_policy,
    check_verified,
    check_versions,
    resolve,
)
from aiaas_server.state.database import Database

UNALIAS: Final[HistoryKind] = "unaliased"
TRAFFIC: Final[HistoryKind] = "traffic_changed"
ROLLBACK: Final[HistoryKind] = "rolled_back"
UPDATE: Final[HistoryKind] = "updated"

_log = logging.getLogger("aiaas_server")

Change = Callable[[Serving], Serving]
StartRollout = Callable[[Connection, Author, str, PromoteRequest, float, str], object]
"""Takes who asks, the model, the request, the time, and the alias."""


class Registry:
    """Reads and changes what should be.

    Args:
        start_rollout: Begins a guarded promotion, inside a transaction.
    """

    def __init__(self, database: Database, start_rollout: StartRollout | None = None) -> None:
        self._database = database
        self._start_rollout = start_rollout

    # Looking

    async def page(self, tenant: str, after: str = "", limit: int = 100) -> list[Model]:
        """Models by name, from the one after `after`."""

        def work(connection: Connection) -> list[Model]:
            rows = models.list_models(connection, tenant, after, limit)
            ids = [row.id for row in rows]
            latest = models.latest_versions(connection, ids)
            counts = models.count_versions(connection, ids)
            return [model_document(row, latest.get(row.id), counts.get(row.id, 0)) for row in rows]

        return await self._database.read(work)

    async def get(self, tenant: str, name: str) -> Model:
        """One model.

        Raises:
            NotFound: There is none of that name.
        """
        return await self._database.read(partial(_get, tenant=tenant, name=name))

    async def versions(
        self, tenant: str, name: str, before: int | None = None, limit: int = 100
    ) -> list[Version]:
        """Versions, the newest first.

        Raises:
            NotFound: There is no such model.
        """

        def work(connection: Connection) -> list[Version]:
            model = models.get_model(connection, tenant, name)
            latest = models.latest_version(connection, model.id)
            rows = models.list_versions(connection, model.id, before, limit)
            return [version_document(model, row, latest) for row in rows]

        return await self._database.read(work)

    async def version(self, tenant: str, name: str, version: int | str) -> Version:
        """One version, by its number, an alias or `latest`.

        Raises:
            NotFound: There is none.
        """

        def work(connection: Connection) -> Version:
            model = models.get_model(connection, tenant, name)
            row = resolve(connection, model, version)
            return version_document(model, row, models.latest_version(connection, model.id))

        return await self._database.read(work)

    async def history(
        self, tenant: str, name: str, before: int | None = None, limit: int = 100
    ) -> list[HistoryEntry]:
        """What was changed, the newest first.

        Raises:
            NotFound: There is no such model.
        """

        def work(connection: Connection) -> list[HistoryEntry]:
            model = models.get_model(connection, tenant, name)
            rows = history.list_history(connection, model.id, before, limit)
            return [entry_document(row) for row in rows]

        return await self._database.read(work)

    async def diff(self, tenant: str, name: str, old: int | str, new: int | str) -> Diff:
        """How two versions differ.

        Raises:
            NotFound: There is no such model or version.
        """

        def work(connection: Connection) -> Diff:
            model = models.get_model(connection, tenant, name)
            before = resolve(connection, model, old)
            return diff_document(model, before, resolve(connection, model, new))

        return await self._database.read(work)

    # Changes

    async def promote(
        self,
        author: Author,
        name: str,
        request: PromoteRequest,
        alias: str = PRODUCTION,
        revision: int | None = None,
    ) -> Model:
        """Have an alias point at a version, at once or, with a guard, step by step.

        Args:
            revision: Of the model as the caller knows it; None where any is right.
        Raises:
            NotFound: There is no such model or version.
            Conflict: The version is corrupt or erased.
            InvalidInput: The alias or the guard is wrong.
            StaleRevision: The model is no longer as the caller knows it.
        """

        def work(connection: Connection) -> _Written:
            model = models.get_model(connection, author.tenant, name)
            _check_revision(model, revision)
            if request.guard is not None:
                if self._start_rollout is None:
                    raise NotSupported("guard: this server rolls nothing out step by step")
                serving.check_alias(alias)
                check_verified(connection, model, request.version)
                self._start_rollout(connection, author, name, request, time.time(), alias)
            else:
                after = serving.promote(model.serving, request.version, alias)
                number, note = request.version, request.note
                change_serving(
                    connection, author, model, after, PROMOTE, version=number, reason=note
                )
            return _written(connection, model)

        what = f"version {request.version} promoted to '{alias}'"
        if request.guard is not None:
            what = f"rollout of version {request.version} to '{alias}' started"
        return await self._write(work, author, what)

    async def drop_alias(
        self, author: Author, name: str, alias: str, revision: int | None = None
    ) -> Model:
        """Remove an alias.

        Raises:
            NotFound: There is no such model or alias.
            Conflict: A rollout is under way on it.
            StaleRevision: The model is no longer as the caller knows it.
        """

        change = partial(serving.drop_alias, alias=alias, model=name)
        return await self._change(
            author, name, change, UNALIAS, f"alias '{alias}'", revision, f"alias '{alias}' removed"
        )

    async def patch_traffic(
        self, author: Author, name: str, request: TrafficRequest, revision: int | None = None
    ) -> Model:
        """Split, shadow and pin, all at once.

        Raises:
            NotFound: There is no such model or version.
            Conflict: A version is corrupt or erased.
            InvalidInput: A share or a version is wrong.
            StaleRevision: The model is no longer as the caller knows it.
        """

        change = partial(serving.patched, asked=request)
        return await self._change(
            author, name, change, TRAFFIC, request.note, revision, "traffic changed"
        )

    async def rollback(
        self, author: Author, name: str, request: RollbackRequest, revision: int | None = None
    ) -> Model:
        """Back to who answered callers some changes ago; shadow and pins stay.

        Raises:
            NotFound: There is no such model.
            Conflict: There were fewer changes, or a version that served then is gone.
            StaleRevision: The model is no longer as the caller knows it.
        """

        def work(connection: Connection) -> _Written:
            model = models.get_model(connection, author.tenant, name)
            _check_revision(model, revision)
            after, position = find_target(connection, model, request.steps)
            check_versions(connection, model, serving.mentioned(answering(after)))
            change_serving(
                connection, author, model, after, ROLLBACK, reason=request.note, position=position
            )
            return _written(connection, model)

        return await self._write(work, author, "rolled back")

    async def rollback_target(self, tenant: str, name: str, steps: int) -> Serving:
        """Who would get which version after a rollback.

        Raises:
            NotFound: There is no such model.
            Conflict: There were fewer changes.
        """

        def work(connection: Connection) -> Serving:
            model = models.get_model(connection, tenant, name)
            return find_target(connection, model, steps).serving

        return await self._database.read(work)

    async def update(
        self, author: Author, name: str, patch: ModelPatch, revision: int | None = None
    ) -> Model:
        """Describe a model, or set its rules.

        Raises:
            NotFound: There is no such model.
            InvalidInput: The configuration is unusable.
            StaleRevision: The model is no longer as the caller knows it.
        """
        if patch.policy is not None:
            check_policy(patch.policy)

        def work(connection: Connection) -> Model:
            model = models.get_model(connection, author.tenant, name)
            _check_revision(model, revision)
            policy = model.policy if patch.policy is None else patch.policy
            described = model.description if patch.description is None else patch.description
            after = model._replace(policy=policy, description=described)
            if after != model:
                models.update_model(connection, model, policy=policy, description=described)
                documents = (_rules(model), _rules(after))
                history.record(
                    connection,
                    author,
                    model,
                    UPDATE,
                    before=documents[0],
                    after=documents[1],
                    serves=False,
                )
            return _get(connection, author.tenant, name)

        return await self._database.write(work)

    async def _change(
        self,
        author: Author,
        name: str,
        change: Change,
        kind: HistoryKind,
        reason: str,
        revision: int | None,
        what: str,
    ) -> Model:
        def work(connection: Connection) -> _Written:
            model = models.get_model(connection, author.tenant, name)
            _check_revision(model, revision)
            change_serving(connection, author, model, change(model.serving), kind, reason=reason)
            return _written(connection, model)

        return await self._write(work, author, what)

    async def _write(
        self, work: Callable[[Connection], _Written], author: Author, what: str
    ) -> Model:
        """Change who gets which version; a line of the log says so once that is acknowledged."""
        changed, model = await self._database.write(work)
        if changed:
            now = serving.in_words(model.serving)
            _log.info("model '%s': %s by %s, now %s", model.name, what, author.by, now)
        return model


class _Written(NamedTuple):
    """What a transaction left.

    Attributes:
        changed: Whether that is other than before.
    """

    changed: bool
    model: Model


def _written(connection: Connection, before: ModelRow) -> _Written:
    after = _get(connection, before.tenant, before.name)
    return _Written(after.serving != before.serving, after)


def _get(connection: Connection, tenant: str, name: str) -> Model:
    row = models.get_model(connection, tenant, name)
    return _told(connection, row, models.count_versions(connection, [row.id]).get(row.id, 0))


def _told(connection: Connection, row: ModelRow, versions: int) -> Model:
    return model_document(row, models.latest_version(connection, row.id), versions)


def _rules(model: ModelRow) -> Document:
    return {"description": model.description, "policy": model.policy.model_dump(mode="json")}


def _check_revision(model: ModelRow, revision: int | None) -> None:
    if revision is not None and revision != model.revision:
        raise StaleRevision(
            f"model '{model.name}' was changed since it was read: expected revision {revision}, "
            f"it is at {model.revision}"
        )
