"""`Allowance`: what a tenant may keep: bytes, models, jobs.

Each question is asked in the transaction that would add to what is kept. Writers come one after the
other, whichever process they are of (`state.database`), so that two who race cannot both pass.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from sqlalchemy import ColumnElement, Connection, exists, func, select

from aiaas_client.protocol.management import DraftRequest
from aiaas_client.protocol.tenants import Limits
from aiaas_server.core.author import Author
from aiaas_server.core.errors import QuotaExceeded
from aiaas_server.state.artefacts.announced import KEPT_SECONDS
from aiaas_server.state.tables import (
    ARTEFACT_USES,
    ARTEFACTS,
    DATASET_DRAFTS,
    DRAFTS,
    JOBS,
    MODELS,
)
from aiaas_server.tenancy.rows import find_plan, find_tenant

_WAIT: Final = 60.0  # seconds; only the tenant itself can make room
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def admit_draft(connection: Connection, author: Author, model: str, request: DraftRequest) -> None:
    """Ask whether a version may be brought.

    Raises:
        QuotaExceeded: It would be a model too many, or its files bytes too many.
    """
    limits = limits_of(connection, author.tenant)
    if limits is None:
        return
    if limits.models is not None:
        names = models_of(connection, author.tenant)
        if model not in names and len(names) >= limits.models:
            raise QuotaExceeded(
                f"models: {limits.models} may be in the registry, {len(names)} are there or being "
                f"brought; '{model}' would be another one",
                retry_after=_WAIT,
            )
    _admit(connection, author.tenant, limits, {file.sha256: file.size for file in request.files})


def admit_files(connection: Connection, tenant: str, files: Mapping[str, int]) -> None:
    """Ask whether files may be kept, or announced.

    Args:
        files: Bytes of each, by digest; what the tenant has already costs nothing.
    Raises:
        QuotaExceeded: They are bytes too many.
    """
    limits = limits_of(connection, tenant)
    if limits is not None:
        _admit(connection, tenant, limits, files)


def admit_job(connection: Connection, tenant: str) -> None:
    """Ask whether a job may be queued.

    Raises:
        QuotaExceeded: As many as may be are queued or run.
    """
    limits = limits_of(connection, tenant)
    if limits is None or limits.jobs is None:
        return
    active = JOBS.c.state.in_(("queued", "running"))
    asked = select(func.count()).select_from(JOBS).where(JOBS.c.tenant == tenant, active)
    count = connection.execute(asked).scalar_one()
    if count >= limits.jobs:
        raise QuotaExceeded(
            f"jobs: {limits.jobs} may be queued or run at one time, {count} are", retry_after=_WAIT
        )


def limits_of(connection: Connection, tenant: str) -> Limits | None:
    """The limits of a tenant's plan; None where it has none."""
    found = find_tenant(connection, tenant)
    plan = None if found is None else find_plan(connection, found.plan)
    return None if plan is None else plan.limits


def models_of(connection: Connection, tenant: str) -> set[str]:
    """The names of models that there are, or of which a first version is being brought."""
    there = select(MODELS.c.name).where(MODELS.c.tenant == tenant)
    coming = select(DRAFTS.c.model).where(DRAFTS.c.tenant == tenant, DRAFTS.c.created > _oldest())
    return {*connection.execute(there).scalars(), *connection.execute(coming).scalars()}


def stored_bytes(connection: Connection, tenant: str) -> int:
    """Bytes that a tenant keeps: what is stored and used, each digest once, and what open drafts
    announce."""
    announced = announced_files(connection, tenant)
    return _kept_bytes(connection, tenant) + sum(
        size for digest, size in announced.items() if not _is_kept(connection, tenant, digest)
    )


def announced_files(connection: Connection, tenant: str) -> dict[str, int]:
    """Bytes of the files of open drafts, by digest."""
    found: dict[str, int] = {}
    for table in (DRAFTS, DATASET_DRAFTS):
        asked = select(table.c.request).where(table.c.tenant == tenant, table.c.created > _oldest())
        for request in connection.execute(asked).scalars():
            found.update({file["sha256"]: file["size"] for file in request["files"]})
    return found


def _admit(connection: Connection, tenant: str, limits: Limits, files: Mapping[str, int]) -> None:
    if limits.stored_bytes is None:
        return
    announced = announced_files(connection, tenant)
    needed = sum(
        size
        for digest, size in files.items()
        if digest not in announced and not _is_kept(connection, tenant, digest)
    )
    stored = stored_bytes(connection, tenant)
    if needed and stored + needed > limits.stored_bytes:
        most, have, more = told_bytes(limits.stored_bytes, stored, needed)
        raise QuotaExceeded(
            f"stored_bytes: {most} may be stored, {have} are, this needs {more}", retry_after=_WAIT
        )


def told_bytes(first: int, *others: int) -> list[str]:
    """Amounts in the unit of the first, which alone says it; exact where they are few bytes."""
    power = max(0, min((max(first, *others).bit_length() - 1) // 10, len(_UNITS) - 1))
    scale = 1 << 10 * power
    amounts = [f"{amount / scale:.1f}" if power else str(amount) for amount in (first, *others)]
    return [f"{amounts[0]} {_UNITS[power]}", *amounts[1:]]


def _kept_bytes(connection: Connection, tenant: str) -> int:
    asked = select(func.coalesce(func.sum(ARTEFACTS.c.size), 0)).where(_kept(tenant))
    return int(connection.execute(asked).scalar_one())


def _is_kept(connection: Connection, tenant: str, digest: str) -> bool:
    asked = select(ARTEFACTS.c.digest).where(_kept(tenant), ARTEFACTS.c.digest == digest)
    return connection.execute(asked).first() is not None


def _kept(tenant: str) -> ColumnElement[bool]:
    """Of an artefact: its bytes are there, and somebody uses them."""
    used = exists().where(
        ARTEFACT_USES.c.tenant == ARTEFACTS.c.tenant,
        ARTEFACT_USES.c.digest == ARTEFACTS.c.digest,
    )
    stored = (ARTEFACTS.c.size > 0) & ~ARTEFACTS.c.leaving
    return (ARTEFACTS.c.tenant == tenant) & stored & used


def _oldest() -> float:
    """Drafts that were made before are over, and go with the next sweep."""
    return time.time() - KEPT_SECONDS
