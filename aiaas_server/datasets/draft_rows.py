"""Drafts of data sets as rows: the queries. Each takes a connection."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, select, update

from aiaas_client.protocol.datasets import DatasetRequest
from aiaas_client.protocol.management import BundleFile, bundle_digest
from aiaas_client.protocol.names import NAME
from aiaas_server.core.author import Author
from aiaas_server.core.errors import InvalidInput, NotFound, PayloadTooLarge
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.announced import KEPT_SECONDS, AdmitFiles, check_files
from aiaas_server.state.tables import DATASET_DRAFTS

_name = re.compile(NAME).fullmatch


class DraftRow(NamedTuple):
    """A row of `dataset_drafts`."""

    id: str
    tenant: str
    name: str
    digest: str
    request: DatasetRequest
    created: float
    created_by: str

    @property
    def user(self) -> str:
        """Under which its artefacts are kept."""
        return f"draft/{self.id}"

    @property
    def files(self) -> list[BundleFile]:
        """What it is read from."""
        return self.request.files


def check_request(name: str, request: DatasetRequest, most: int) -> None:
    """Refuse what cannot become a data set.

    Args:
        most: Bytes of all files together.
    Raises:
        InvalidInput: The name, two files of one name, one digest of two sizes, an empty file.
        PayloadTooLarge: The files are larger than that.
    """
    if not _name(name):
        raise InvalidInput(
            f"data set {name[:64]!r}: expected a name of letters, digits, '.', '_' and '-', which "
            "begins with a letter or digit"
        )
    check_files(request.files)
    size = sum(file.size for file in request.files)
    if size > most:
        raise PayloadTooLarge(
            f"files: expected at most {most} bytes together (max_dataset_bytes), got {size}"
        )


def get_draft(connection: Connection, tenant: str, name: str, draft: str) -> DraftRow:
    """An open draft.

    Raises:
        NotFound: There is none, or it is too old.
    """
    asked = select(DATASET_DRAFTS).where(
        DATASET_DRAFTS.c.id == draft[:32],
        DATASET_DRAFTS.c.tenant == tenant,
        DATASET_DRAFTS.c.name == name,
        DATASET_DRAFTS.c.created > time.time() - KEPT_SECONDS,
    )
    row = connection.execute(asked).one_or_none()
    if row is None or len(draft) > 32:
        raise NotFound(f"data set '{name[:64]}' has no draft '{draft[:64]}'")
    return _draft(row)


def expired_drafts(connection: Connection) -> list[DraftRow]:
    """Drafts that are too old."""
    old = DATASET_DRAFTS.c.created <= time.time() - KEPT_SECONDS
    return [_draft(row) for row in connection.execute(select(DATASET_DRAFTS).where(old))]


def drafts_of(connection: Connection, tenant: str, name: str) -> list[DraftRow]:
    """All drafts of a data set."""
    asked = select(DATASET_DRAFTS).where(
        DATASET_DRAFTS.c.tenant == tenant, DATASET_DRAFTS.c.name == name
    )
    return [_draft(row) for row in connection.execute(asked)]


def ensure_draft(
    connection: Connection,
    author: Author,
    name: str,
    request: DatasetRequest,
    admit: AdmitFiles | None = None,
) -> tuple[DraftRow, bool]:
    """The draft of these files, with what was asked for last; whether it is new.

    Args:
        admit: Asked for the files of a new one.
    """
    digest = bundle_digest(request.files)
    asked = (
        select(DATASET_DRAFTS)
        .where(
            DATASET_DRAFTS.c.tenant == author.tenant,
            DATASET_DRAFTS.c.name == name,
            DATASET_DRAFTS.c.digest == digest,
            DATASET_DRAFTS.c.created > time.time() - KEPT_SECONDS,
        )
        .order_by(DATASET_DRAFTS.c.created.desc())
        .limit(1)
    )
    found = connection.execute(asked).one_or_none()
    document = request.model_dump(mode="json")
    if found is not None:
        same = DATASET_DRAFTS.c.id == found.id
        connection.execute(update(DATASET_DRAFTS).where(same).values(request=document))
        row = _draft(found)._replace(request=request)
    else:
        if admit is not None:
            admit(connection, author.tenant, {file.sha256: file.size for file in request.files})
        row = DraftRow(
            uuid.uuid4().hex, author.tenant, name, digest, request, time.time(), author.by
        )
        connection.execute(DATASET_DRAFTS.insert().values(**row._asdict() | {"request": document}))
    digests = [file.sha256 for file in row.files]
    claims.claim_stored(connection, row.tenant, digests, row.user)
    return row, found is None


def end_draft(connection: Connection, row: DraftRow) -> None:
    """Take a draft away; its parts and what nobody else uses go afterwards."""
    claims.release(connection, row.tenant, row.user)
    connection.execute(delete(DATASET_DRAFTS).where(DATASET_DRAFTS.c.id == row.id))


def _draft(row: Row[Any]) -> DraftRow:
    values: dict[str, Any] = dict(row._mapping)
    values["request"] = DatasetRequest.model_validate(values["request"])
    return DraftRow(**values)
