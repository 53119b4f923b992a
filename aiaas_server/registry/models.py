"""Models and their versions: the queries. Each takes a connection inside somebody's transaction."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select, update

from aiaas_client.protocol.management import BundleFile, Policy, Report, Serving
from aiaas_server.core.errors import NotFound, StaleRevision
from aiaas_server.registry.rows import Author, ModelRow, VersionRow, VersionState
from aiaas_server.state.tables import MODELS, VERSIONS

# Models


def find_model(connection: Connection, tenant: str, name: str) -> ModelRow | None:
    """A model of a tenant by its name."""
    asked = select(MODELS).where(MODELS.c.tenant == tenant, MODELS.c.name == name)
    row = connection.execute(asked).one_or_none()
    return None if row is None else _model(row)


def get_model(connection: Connection, tenant: str, name: str) -> ModelRow:
    """As `find_model`.

    Raises:
        NotFound: There is none.
    """
    found = find_model(connection, tenant, name)
    if found is None:
        raise NotFound(f"model '{name[:64]}' is not in the registry")
    return found


def ensure_model(connection: Connection, author: Author, name: str) -> ModelRow:
    """The model, made if there is none."""
    found = find_model(connection, author.tenant, name)
    if found is not None:
        return found
    connection.execute(
        MODELS.insert().values(
            id=uuid.uuid4().hex,
            tenant=author.tenant,
            name=name,
            description="",
            policy=Policy().model_dump(mode="json"),
            serving=Serving().model_dump(mode="json"),
            revision=1,
            next_version=1,
            created=time.time(),
            created_by=author.by,
        )
    )
    return get_model(connection, author.tenant, name)


def list_models(
    connection: Connection, tenant: str, after: str = "", limit: int = 100
) -> list[ModelRow]:
    """Models by name, from the one after `after`."""
    asked = (
        select(MODELS)
        .where(MODELS.c.tenant == tenant, MODELS.c.name > after)
        .order_by(MODELS.c.name)
        .limit(limit)
    )
    return [_model(row) for row in connection.execute(asked)]


def every_model(connection: Connection, tenant: str | None) -> list[ModelRow]:
    """All models of a tenant, or of all tenants where that is None."""
    asked = select(MODELS).order_by(MODELS.c.tenant, MODELS.c.name)
    if tenant is not None:
        asked = asked.where(MODELS.c.tenant == tenant)
    return [_model(row) for row in connection.execute(asked)]


def update_model(
    connection: Connection,
    model: ModelRow,
    *,
    serving: Serving | None = None,
    policy: Policy | None = None,
    description: str | None = None,
) -> ModelRow:
    """Write what is given; the revision counts up.

    Raises:
        StaleRevision: The row is no longer as `model` says.
    """
    values: dict[str, Any] = {"revision": model.revision + 1}
    if serving is not None:
        values["serving"] = serving.model_dump(mode="json")
    if policy is not None:
        values["policy"] = policy.model_dump(mode="json")
    if description is not None:
        values["description"] = description
    found = connection.execute(
        update(MODELS)
        .where(MODELS.c.id == model.id, MODELS.c.revision == model.revision)
        .values(**values)
    )
    if found.rowcount != 1:
        raise StaleRevision(f"model '{model.name}' was changed meanwhile; read it again")
    return get_model(connection, model.tenant, model.name)


def take_number(connection: Connection, model: ModelRow, asked: int | None) -> int:
    """The number of a new version; the next free one unless `asked`."""
    following: int = connection.execute(
        select(MODELS.c.next_version).where(MODELS.c.id == model.id)
    ).scalar_one()
    number = following if asked is None else asked
    connection.execute(
        update(MODELS)
        .where(MODELS.c.id == model.id)
        .values(next_version=max(following, number + 1))
    )
    return number


# Versions


def find_version(connection: Connection, model_id: str, number: int) -> VersionRow | None:
    """A version by its number, an erased one too."""
    asked = select(VERSIONS).where(VERSIONS.c.model_id == model_id, VERSIONS.c.number == number)
    row = connection.execute(asked).one_or_none()
    return None if row is None else version_of(row)


def get_version(connection: Connection, model: ModelRow, number: int) -> VersionRow:
    """As `find_version`.

    Raises:
        NotFound: There is none.
    """
    found = find_version(connection, model.id, number)
    if found is None:
        raise NotFound(f"model '{model.name}' has no version {number}")
    return found


def find_digest(connection: Connection, model_id: str, digest: str) -> VersionRow | None:
    """The version of a model whose bundle has a digest, unless it is erased."""
    asked = (
        select(VERSIONS)
        .where(
            VERSIONS.c.model_id == model_id,
            VERSIONS.c.digest == digest,
            VERSIONS.c.state != "erased",
        )
        .order_by(VERSIONS.c.number)
        .limit(1)
    )
    row = connection.execute(asked).one_or_none()
    return None if row is None else version_of(row)


def list_versions(
    connection: Connection, model_id: str, before: int | None = None, limit: int | None = None
) -> list[VersionRow]:
    """Versions, the newest first, erased ones too; all of them where there is no `limit`."""
    asked = select(VERSIONS).where(VERSIONS.c.model_id == model_id)
    if before is not None:
        asked = asked.where(VERSIONS.c.number < before)
    asked = asked.order_by(VERSIONS.c.number.desc()).limit(limit)
    return [version_of(row) for row in connection.execute(asked)]


def latest_version(
    connection: Connection, model_id: str, *, besides: int | None = None
) -> int | None:
    """The greatest verified one, not counting `besides`; None where there is none."""
    asked = select(VERSIONS.c.number).where(
        VERSIONS.c.model_id == model_id, VERSIONS.c.state == "verified"
    )
    if besides is not None:
        asked = asked.where(VERSIONS.c.number != besides)
    asked = asked.order_by(VERSIONS.c.number.desc()).limit(1)
    found: int | None = connection.execute(asked).scalar_one_or_none()
    return found


def latest_versions(connection: Connection, model_ids: Sequence[str]) -> dict[str, int]:
    """The greatest verified one of each model that has any."""
    asked = (
        select(VERSIONS.c.model_id, func.max(VERSIONS.c.number))
        .where(VERSIONS.c.model_id.in_(model_ids), VERSIONS.c.state == "verified")
        .group_by(VERSIONS.c.model_id)
    )
    return {row[0]: row[1] for row in connection.execute(asked)}


def count_versions(connection: Connection, model_ids: Sequence[str]) -> dict[str, int]:
    """How many versions models have that are not erased."""
    asked = (
        select(VERSIONS.c.model_id, func.count())
        .where(VERSIONS.c.model_id.in_(model_ids), VERSIONS.c.state != "erased")
        .group_by(VERSIONS.c.model_id)
    )
    return {row[0]: row[1] for row in connection.execute(asked)}


def empty_version(connection: Connection, model_id: str, number: int) -> None:
    """Forget what a version's row repeats of its files: the card, metrics and results."""
    connection.execute(
        update(VERSIONS)
        .where(VERSIONS.c.model_id == model_id, VERSIONS.c.number == number)
        .values(card=None, metrics={}, report=Report().model_dump(mode="json"))
    )


def insert_version(connection: Connection, row: VersionRow) -> None:
    """Write a new version."""
    values = row._asdict() | {"files": [file.model_dump() for file in row.files]}
    connection.execute(VERSIONS.insert().values(**values))


def set_state(
    connection: Connection, model_id: str, number: int, state: VersionState, reason: str
) -> None:
    """Note that a version is damaged, whole again, or gone."""
    connection.execute(
        update(VERSIONS)
        .where(VERSIONS.c.model_id == model_id, VERSIONS.c.number == number)
        .values(state=state, reason=reason)
    )


def _model(row: Row[Any]) -> ModelRow:
    values = row._mapping
    return ModelRow(
        values["id"],
        values["tenant"],
        values["name"],
        values["description"],
        Policy.model_validate(values["policy"]),
        Serving.model_validate(values["serving"]),
        values["revision"],
        values["created"],
        values["created_by"],
    )


def version_of(row: Row[Any]) -> VersionRow:
    """A row of `versions` as it was selected."""
    values = dict(row._mapping)
    files = [BundleFile.model_validate(file) for file in values.pop("files")]
    return VersionRow(files=files, **values)
