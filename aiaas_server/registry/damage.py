"""Versions whose bytes are damaged or gone, and versions that are whole again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, select

from aiaas_client.protocol.management import HistoryKind
from aiaas_server.core.names import full_name
from aiaas_server.registry import history, models
from aiaas_server.registry.rows import SERVER, Author, ModelRow, VersionRow, VersionState
from aiaas_server.state.artefacts import claims
from aiaas_server.state.tables import MODELS

_log = logging.getLogger("aiaas_server")


class Damage(NamedTuple):
    """A version that was found corrupt, and why; the model by the server's own name of it."""

    model: str
    version: int
    reason: str


OnDamage = Callable[[Sequence[Damage]], object]
"""Is told of versions that were found corrupt, once that is written down; from any thread."""


def nobody(found: Sequence[Damage]) -> None:
    """Nobody is told."""


def mark_damaged(connection: Connection, tenant: str, digest: str, reason: str) -> list[Damage]:
    """The bytes of an artefact are not what they should be: each version of it is `corrupt`.

    The artefact is awaited from now on: whoever deploys the same bytes again makes all whole.

    Returns:
        The versions that were not corrupt before.
    """
    damages = []
    row = claims.find(connection, tenant, [digest]).get(digest)
    if row is not None and not row.leaving:
        claims.set_size(connection, tenant, digest, claims.AWAITED)
    for model, version in _versions_of(connection, tenant, digest):
        if version.state == "verified":
            name = next((file.name for file in version.files if file.sha256 == digest), digest[:12])
            text = f"{name}: {reason}"
            _log.error("model '%s' version %d is corrupt: %s", model.name, version.number, text)
            _note(connection, model, version, "corrupt", text)
            damages.append(Damage(full_name(tenant, model.name), version.number, text))
    return damages


def mark_stored(connection: Connection, tenant: str, digest: str, size: int) -> None:
    """The bytes of an artefact are there; versions that missed nothing else are whole again."""
    claims.set_size(connection, tenant, digest, size)
    for model, version in _versions_of(connection, tenant, digest):
        if version.state == "corrupt" and is_whole(connection, tenant, version):
            _note(connection, model, version, "verified", "")


def is_whole(connection: Connection, tenant: str, version: VersionRow) -> bool:
    """Whether the bytes of all its files are there, as far as the rows know."""
    digests = {file.sha256 for file in version.files}
    rows = claims.find(connection, tenant, digests)
    return all(digest in rows and rows[digest].stored for digest in digests)


def _note(
    connection: Connection, model: ModelRow, version: VersionRow, state: VersionState, reason: str
) -> None:
    models.set_state(connection, version.model_id, version.number, state, reason)
    author = Author(model.tenant, SERVER.by)
    kind: HistoryKind = "repaired" if state == "verified" else "damaged"
    history.record(connection, author, model, kind, version=version.number, reason=reason)


def _versions_of(
    connection: Connection, tenant: str, digest: str
) -> list[tuple[ModelRow, VersionRow]]:
    found = []
    for user in claims.users_of(connection, tenant, digest):
        model_id, _, number = user.rpartition("/")
        if not number.isdigit():
            continue  # a draft
        name = connection.execute(
            select(MODELS.c.name).where(MODELS.c.id == model_id)
        ).scalar_one_or_none()
        model = None if name is None else models.find_model(connection, tenant, name)
        version = models.find_version(connection, model_id, int(number))
        if model is not None and version is not None:
            found.append((model, version))
    return found
