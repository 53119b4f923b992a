"""Drafts as rows: the queries, and what may be asked for. Each takes a connection."""

from __future__ import annotations

import time
import uuid
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, select, update

from aiaas_client.protocol.management import (
    CARD_FILE,
    MODEL_FILE,
    BundleFile,
    DraftRequest,
    bundle_digest,
)
from aiaas_server.core.describe.stored import name_problem
from aiaas_server.core.errors import InvalidInput, NotFound, PayloadTooLarge
from aiaas_server.registry.rows import Author, draft_user
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.announced import KEPT_SECONDS, check_files
from aiaas_server.state.tables import DRAFTS


class DraftRow(NamedTuple):
    """A row of `drafts`."""

    id: str
    tenant: str
    model: str
    digest: str
    request: DraftRequest
    created: float
    created_by: str

    @property
    def user(self) -> str:
        """Under which its artefacts are kept."""
        return draft_user(self.id)

    @property
    def files(self) -> list[BundleFile]:
        """What it is going to consist of."""
        return self.request.files


def check_request(model: str, request: DraftRequest, file_bytes: int) -> None:
    """Refuse what cannot become a version.

    Raises:
        InvalidInput: The name, two files of one name, no model, one digest of two sizes.
        PayloadTooLarge: A file is larger than `file_bytes`.
    """
    if problem := name_problem(model):
        raise InvalidInput(f"model {model[:64]!r}: {problem}")
    check_files(request.files)
    names = [file.name for file in request.files]
    if not {MODEL_FILE, CARD_FILE} & set(names):  # a pipeline is a card alone
        raise InvalidInput(
            f"files: expected '{MODEL_FILE}' among them, got {', '.join(names)[:64]!r}"
        )
    for file in request.files:
        if file.size > file_bytes:
            raise PayloadTooLarge(
                f"{file.name}: expected at most {file_bytes} bytes (max_model_file_bytes), "
                f"got {file.size}"
            )


def get_draft(connection: Connection, tenant: str, model: str, draft: str) -> DraftRow:
    """An open draft.

    Raises:
        NotFound: There is none, or it is too old.
    """
    asked = select(DRAFTS).where(
        DRAFTS.c.id == draft[:32],
        DRAFTS.c.tenant == tenant,
        DRAFTS.c.model == model,
        DRAFTS.c.created > time.time() - KEPT_SECONDS,
    )
    row = connection.execute(asked).one_or_none()
    if row is None or len(draft) > 32:
        raise NotFound(f"model '{model[:64]}' has no draft '{draft[:64]}'")
    return _draft(row)


def expired_drafts(connection: Connection) -> list[DraftRow]:
    """Drafts that are too old."""
    asked = select(DRAFTS).where(DRAFTS.c.created <= time.time() - KEPT_SECONDS)
    return [_draft(row) for row in connection.execute(asked)]


def drafts_of_model(connection: Connection, tenant: str, model: str) -> list[DraftRow]:
    """All drafts of a model."""
    asked = select(DRAFTS).where(DRAFTS.c.tenant == tenant, DRAFTS.c.model == model)
    return [_draft(row) for row in connection.execute(asked)]


def end_draft(connection: Connection, row: DraftRow) -> None:
    """Take a draft away; its parts and what nobody else uses go afterwards."""
    claims.release(connection, row.tenant, row.user)
    connection.execute(delete(DRAFTS).where(DRAFTS.c.id == row.id))


def claim_stored(connection: Connection, row: DraftRow) -> None:
    """Use, for the draft, what of its files the tenant has in the store already."""
    claims.claim_stored(connection, row.tenant, [file.sha256 for file in row.files], row.user)


def complete_digests(connection: Connection, row: DraftRow) -> set[str]:
    """Which of its files are in the store, and kept for it."""
    return claims.stored_for(connection, row.tenant, row.user)


def find_same(connection: Connection, tenant: str, model: str, digest: str) -> DraftRow | None:
    """The open draft of the same bundle."""
    asked = (
        select(DRAFTS)
        .where(
            DRAFTS.c.tenant == tenant,
            DRAFTS.c.model == model,
            DRAFTS.c.digest == digest,
            DRAFTS.c.created > time.time() - KEPT_SECONDS,
        )
        .order_by(DRAFTS.c.created.desc())
        .limit(1)
    )
    row = connection.execute(asked).one_or_none()
    return None if row is None else _draft(row)


def insert_draft(
    connection: Connection, author: Author, model: str, request: DraftRequest
) -> DraftRow:
    """Write a new draft."""
    row = DraftRow(
        uuid.uuid4().hex,
        author.tenant,
        model,
        bundle_digest(request.files),
        request,
        time.time(),
        author.by,
    )
    values = row._asdict() | {"request": request.model_dump(mode="json")}
    connection.execute(DRAFTS.insert().values(**values))
    return row


def renew_draft(connection: Connection, row: DraftRow, request: DraftRequest) -> DraftRow:
    """What was asked for last counts: the alias, the note, the order of the files."""
    document = request.model_dump(mode="json")
    connection.execute(update(DRAFTS).where(DRAFTS.c.id == row.id).values(request=document))
    return row._replace(request=request)


def _draft(row: Row[Any]) -> DraftRow:
    values = dict(row._mapping)
    return DraftRow(**values | {"request": DraftRequest.model_validate(values["request"])})
