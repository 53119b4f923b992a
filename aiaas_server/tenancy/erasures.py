"""Erasures as rows: begun with the revocation of all keys, filled as things go, then signed.

What goes, and that it went, is written in one transaction each time, so that an erasure which was
killed goes on where it was and counts nothing twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, func, select, update

from aiaas_client.protocol.erasure import Certificate, TenantErasure
from aiaas_client.protocol.tenants import OPERATOR_TENANT
from aiaas_server.core.author import Author
from aiaas_server.core.errors import InvalidInput, NotFound
from aiaas_server.state import clock
from aiaas_server.state.artefacts.data_keys import key_name
from aiaas_server.state.changes import tell
from aiaas_server.state.tables import (
    ARTEFACT_USES,
    ARTEFACTS,
    CHANGES,
    DATASET_DRAFTS,
    DATASETS,
    DRAFTS,
    FEEDBACK,
    FILES,
    HISTORY,
    IDEMPOTENCY,
    JOBS,
    MODELS,
    VERSIONS,
)
from aiaas_server.state.tenant_tables import DATA_KEYS, ERASURES, KEYS, QUOTA_LEASES, TENANTS
from aiaas_server.tenancy.rows import KIND, find_tenant

_NOTHING: Final = "0" * 64  # the hash of no key

_COUNTED: Final = {
    "drafts": DRAFTS,
    "dataset_drafts": DATASET_DRAFTS,
    "datasets": DATASETS,
    "files": FILES,
    "jobs": JOBS,
    "history": HISTORY,
    "answers": IDEMPOTENCY,
    "feedback": FEEDBACK,
}
"""Rows that go, by the name under which they are counted; what belongs to a model goes with it."""


class ErasureRow(NamedTuple):
    """An erasure; `certificate` is what has gone so far while it runs."""

    id: str
    tenant: str
    state: str
    certificate: dict[str, Any]
    created: float
    created_by: str


class Taken(NamedTuple):
    """What a step took away: how many rows, and of what bytes are left."""

    rows: int
    digests: list[str]
    drafts: list[str]


def begin(connection: Connection, author: Author, tenant: str, backups: list[str]) -> ErasureRow:
    """Revoke all keys of a tenant and note that it goes; one that is under way or done stays so.

    Raises:
        NotFound: There is no such tenant.
        InvalidInput: It is the operator's.
    """
    if tenant == OPERATOR_TENANT:
        raise InvalidInput(f"tenant '{tenant}' is the operator's: it cannot be erased")
    if find_tenant(connection, tenant) is None:
        raise NotFound(f"there is no tenant '{tenant[:64]}'")
    known = find_erasure(connection, tenant)
    if known is not None:
        return known
    now = time.time()
    keys = connection.execute(select(KEYS.c.id).where(KEYS.c.tenant == tenant)).scalars()
    gone = {"keys": sorted(keys), "backups": backups}
    row = ErasureRow(uuid.uuid4().hex, tenant, "running", gone, now, author.by)
    connection.execute(ERASURES.insert().values(**row._asdict()))
    _revoke(connection, tenant, now)
    values = {"state": "erased", "description": ""}
    connection.execute(update(TENANTS).where(TENANTS.c.name == tenant).values(**values))
    tell(connection, author.tenant, KIND, f"tenant/{tenant}", {})
    return row


def _revoke(connection: Connection, tenant: str, now: float) -> None:
    """End its keys, and forget what they were called and could be recognised by."""
    ours = KEYS.c.tenant == tenant
    connection.execute(update(KEYS).where(ours, KEYS.c.revoked.is_(None)).values(revoked=now))
    connection.execute(update(KEYS).where(ours).values(hash=_NOTHING, name=""))


def find_erasure(connection: Connection, tenant: str) -> ErasureRow | None:
    """The erasure of a tenant."""
    row = connection.execute(select(ERASURES).where(ERASURES.c.tenant == tenant)).first()
    return None if row is None else _row(row)


def running(connection: Connection) -> list[ErasureRow]:
    """Those that are not done."""
    asked = select(ERASURES).where(ERASURES.c.state == "running").order_by(ERASURES.c.created)
    return [_row(row) for row in connection.execute(asked)]


def cancel_jobs(connection: Connection, tenant: str) -> int:
    """Have the jobs of a tenant end; how many are still held by somebody."""
    at = clock.now(connection)  # leases run out by that
    ours = JOBS.c.tenant == tenant
    waiting = {"state": "cancelled", "ended": at}
    connection.execute(update(JOBS).where(ours, JOBS.c.state == "queued").values(**waiting))
    held = (ours, JOBS.c.state == "running", JOBS.c.lease >= at)
    connection.execute(update(JOBS).where(*held).values(cancelling=True))
    found = connection.execute(select(func.count()).select_from(JOBS).where(*held))
    return int(found.scalar_one())


def take(connection: Connection, row: ErasureRow) -> Taken:
    """Take all rows of a tenant away, and note them; what is left are bytes without users."""
    tenant, noted = row.tenant, _noted(connection, row.id)
    drafts: list[str] = []
    for table in (DRAFTS, DATASET_DRAFTS):
        asked = select(table.c.id).where(table.c.tenant == tenant)
        drafts += connection.execute(asked).scalars()
    digests = _artefacts(connection, tenant, noted)
    rows = 0
    names = select(DATASETS.c.name).where(DATASETS.c.tenant == tenant).distinct()
    _add(noted, "datasets", connection.execute(names).scalars().all())
    for name, table in _COUNTED.items():
        rows += _count(noted, name, _delete(connection, table, table.c.tenant == tenant))
    rows += _models(connection, tenant, noted)
    _delete(connection, ARTEFACT_USES, ARTEFACT_USES.c.tenant == tenant)
    _delete(connection, QUOTA_LEASES, QUOTA_LEASES.c.subject == tenant)
    connection.execute(
        update(CHANGES)
        .where(CHANGES.c.tenant == tenant, CHANGES.c.kind != KIND)
        .values(data={"change": "deleted"})
    )
    connection.execute(update(ERASURES).where(ERASURES.c.id == row.id).values(certificate=noted))
    return Taken(rows, digests, drafts)


def is_empty(connection: Connection, tenant: str) -> bool:
    """Whether no row of a tenant has anything of it."""
    tables = (*_COUNTED.values(), MODELS, ARTEFACTS, ARTEFACT_USES, DATA_KEYS)
    return all(
        connection.execute(select(1).select_from(t).where(t.c.tenant == tenant).limit(1)).first()
        is None
        for t in tables
    )


def finish(connection: Connection, id: str, certificate: dict[str, Any]) -> bool:
    """Write the certificate; False where another process was first."""
    open_ = (ERASURES.c.id == id) & (ERASURES.c.state == "running")
    done = connection.execute(
        update(ERASURES).where(open_).values(state="done", certificate=certificate)
    )
    return done.rowcount == 1


def document(row: ErasureRow) -> TenantErasure:
    """As the wire has it."""
    done = Certificate(**row.certificate) if row.state == "done" else None
    return TenantErasure(
        id=row.id,
        tenant=row.tenant,
        state="done" if done else "running",
        created=row.created,
        created_by=row.created_by,
        certificate=done,
    )


def _models(connection: Connection, tenant: str, noted: dict[str, Any]) -> int:
    """The models; what belongs to them goes with them, and followers are told."""
    found = connection.execute(
        select(MODELS.c.id, MODELS.c.name).where(MODELS.c.tenant == tenant)
    ).all()
    ids = select(MODELS.c.id).where(MODELS.c.tenant == tenant)
    versions = select(func.count()).select_from(VERSIONS).where(VERSIONS.c.model_id.in_(ids))
    _count(noted, "versions", int(connection.execute(versions).scalar_one()))
    _add(noted, "models", [row.name for row in found])
    for row in found:
        tell(connection, tenant, "model", row.name, {"change": "deleted", "by": "erasure"})
    _count(noted, "models", len(found))
    _delete(connection, MODELS, MODELS.c.tenant == tenant)
    return len(found)


def _artefacts(connection: Connection, tenant: str, noted: dict[str, Any]) -> list[str]:
    """Digests of all that has bytes or a key, noted before any of them goes."""
    keys = connection.execute(
        select(DATA_KEYS.c.digest, DATA_KEYS.c.wrapped).where(DATA_KEYS.c.tenant == tenant)
    ).all()
    asked = select(ARTEFACTS.c.digest).where(ARTEFACTS.c.tenant == tenant)
    digests = {*connection.execute(asked).scalars(), *(row.digest for row in keys)}
    _add(noted, "artefacts", digests)
    _add(noted, "data_keys", [key_name(row.wrapped) for row in keys])
    return sorted(digests)


def _noted(connection: Connection, id: str) -> dict[str, Any]:
    asked = select(ERASURES.c.certificate).where(ERASURES.c.id == id)
    return dict(connection.execute(asked).scalar_one() or {})


def _add(noted: dict[str, Any], name: str, found: Collection[str]) -> None:
    noted[name] = sorted({*noted.get(name, ()), *found})


def _count(noted: dict[str, Any], name: str, more: int) -> int:
    counts = dict(noted.get("counts", {}))
    counts[name] = counts.get(name, 0) + more
    noted["counts"] = counts
    return more


def _delete(connection: Connection, table: Table, where: ColumnElement[bool]) -> int:
    return connection.execute(delete(table).where(where)).rowcount


def _row(row: Row[Any]) -> ErasureRow:
    found = ErasureRow(**row._mapping)
    return found._replace(certificate=found.certificate or {})
