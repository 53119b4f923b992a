"""Which artefacts there are, and who uses them: the rows that keep bytes from being lost.

An artefact's row is written **before** its bytes, and goes **after** them. So every object that the
store ever gets has a row, nothing has to be searched for, and objects that no row knows, as after
the loss of a database, are left alone. A row goes through

    awaited (size -1)  →  stored (its size)  →  leaving  →  no row
          ↑________________damaged____|

and these rules hold, each kept by one transaction:

1. Whoever is about to write bytes has a use of the row first (`claim`), a use of its own that
   nobody else ends (`upload_user`), and keeps it until it is done. A row that is leaving is not
   claimed: it is waited for.
2. Only a row without uses becomes leaving (`mark_leaving`), and a leaving row never gets a use.
   So between a claim and the end of its use nobody removes anything of that digest.
3. Bytes are deleted only of leaving rows, and the row goes after them, by one remover at a time
   (`removal.Remover`). So a deletion that was decided on before is over before the next claim.

An upload of the same digest, at any moment of a removal, hence either keeps the bytes or begins
when they are gone. A version's use takes the place of the draft's in one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Final, Literal, NamedTuple

from sqlalchemy import Connection, delete, exists, or_, select, update

from aiaas_server.state.tables import ARTEFACT_USES, ARTEFACTS

Standing = Literal["stored", "awaited", "leaving"]
AWAITED: Final = -1
"""The size of an artefact whose bytes are still to come, or to come again."""

UPLOADS: Final = "upload/"
_MANY: Final = 500  # of a list in one statement


class Artefact(NamedTuple):
    """A row of `artefacts`; `stored` is whether its bytes are there."""

    tenant: str
    digest: str
    size: int
    leaving: bool

    @property
    def stored(self) -> bool:
        """Whether the bytes are there and stay."""
        return self.size != AWAITED and not self.leaving


class Upload(NamedTuple):
    """An artefact that is brought to the store; `created` is when its row was made."""

    tenant: str
    digest: str
    draft: str
    created: float


def find(connection: Connection, tenant: str, digests: Iterable[str]) -> dict[str, Artefact]:
    """The rows that there are, by digest."""
    found: dict[str, Artefact] = {}
    for part in _parts(sorted(set(digests))):
        asked = select(
            ARTEFACTS.c.tenant, ARTEFACTS.c.digest, ARTEFACTS.c.size, ARTEFACTS.c.leaving
        ).where(ARTEFACTS.c.tenant == tenant, ARTEFACTS.c.digest.in_(part))
        found |= {row.digest: Artefact(*row) for row in connection.execute(asked)}
    return found


def claim(connection: Connection, tenant: str, digest: str, user: str) -> Standing:
    """Use an artefact, whether its bytes are there or still to come; not one that is leaving."""
    row = find(connection, tenant, [digest]).get(digest)
    if row is not None and row.leaving:
        return "leaving"
    if row is None:
        connection.execute(
            ARTEFACTS.insert().values(
                tenant=tenant, digest=digest, size=AWAITED, leaving=False, created=time.time()
            )
        )
    if not uses(connection, tenant, digest, user):
        connection.execute(ARTEFACT_USES.insert().values(tenant=tenant, digest=digest, user=user))
    return "stored" if row is not None and row.stored else "awaited"


def claim_stored(connection: Connection, tenant: str, digests: Iterable[str], user: str) -> None:
    """Use those of `digests` whose bytes are there already."""
    for digest, found in find(connection, tenant, digests).items():
        if found.stored:
            claim(connection, tenant, digest, user)


def stored_for(connection: Connection, tenant: str, user: str) -> set[str]:
    """What `user` uses and is there."""
    found = find(connection, tenant, used_by(connection, tenant, user))
    return {digest for digest, artefact in found.items() if artefact.stored}


def uses(connection: Connection, tenant: str, digest: str, user: str) -> bool:
    """Whether `user` uses an artefact."""
    asked = select(ARTEFACT_USES.c.user).where(
        ARTEFACT_USES.c.tenant == tenant,
        ARTEFACT_USES.c.digest == digest,
        ARTEFACT_USES.c.user == user,
    )
    return connection.execute(asked).first() is not None


def used_by(connection: Connection, tenant: str, user: str) -> set[str]:
    """The digests that `user` uses."""
    asked = select(ARTEFACT_USES.c.digest).where(
        ARTEFACT_USES.c.tenant == tenant, ARTEFACT_USES.c.user == user
    )
    return set(connection.execute(asked).scalars())


def users_of(connection: Connection, tenant: str, digest: str) -> list[str]:
    """Who uses an artefact."""
    asked = select(ARTEFACT_USES.c.user).where(
        ARTEFACT_USES.c.tenant == tenant, ARTEFACT_USES.c.digest == digest
    )
    return sorted(connection.execute(asked).scalars())


def set_size(connection: Connection, tenant: str, digest: str, size: int) -> None:
    """Note that the bytes are there, or that they are awaited."""
    connection.execute(
        update(ARTEFACTS)
        .where(ARTEFACTS.c.tenant == tenant, ARTEFACTS.c.digest == digest)
        .values(size=size)
    )


def release(connection: Connection, tenant: str, user: str, digest: str | None = None) -> list[str]:
    """End the uses of a user, all or one; gives the digests, which may be unused now."""
    ended = (ARTEFACT_USES.c.tenant == tenant) & (ARTEFACT_USES.c.user == user)
    if digest is not None:
        ended &= ARTEFACT_USES.c.digest == digest
    digests = sorted(connection.execute(select(ARTEFACT_USES.c.digest).where(ended)).scalars())
    connection.execute(delete(ARTEFACT_USES).where(ended))
    return digests


def upload_user(draft: str) -> str:
    """The user of an artefact while its bytes are brought to the store for a draft."""
    return f"{UPLOADS}{draft}"


def uploads(connection: Connection) -> list[Upload]:
    """All uses of uploads: those under way, and those of processes that ended meanwhile."""
    asked = (
        select(
            ARTEFACT_USES.c.tenant,
            ARTEFACT_USES.c.digest,
            ARTEFACT_USES.c.user,
            ARTEFACTS.c.created,
        )
        .join(
            ARTEFACTS,
            (ARTEFACTS.c.tenant == ARTEFACT_USES.c.tenant)
            & (ARTEFACTS.c.digest == ARTEFACT_USES.c.digest),
        )
        .where(ARTEFACT_USES.c.user.startswith(UPLOADS))
    )
    return [
        Upload(row.tenant, row.digest, row.user.removeprefix(UPLOADS), row.created)
        for row in connection.execute(asked)
    ]


def mark_leaving(connection: Connection, tenant: str, digests: Collection[str]) -> list[str]:
    """Mark those without uses as leaving; gives all that are.

    A digest without a row gets one: its bytes came after its row had gone.
    """
    used = _used(connection, tenant, digests)
    marked = sorted(set(digests) - used)
    known = find(connection, tenant, marked)
    new = [
        {"tenant": tenant, "digest": d, "size": AWAITED, "leaving": True, "created": time.time()}
        for d in marked
        if d not in known
    ]
    if new:
        connection.execute(ARTEFACTS.insert(), new)
    for part in _parts(marked):
        connection.execute(
            update(ARTEFACTS)
            .where(ARTEFACTS.c.tenant == tenant, ARTEFACTS.c.digest.in_(part))
            .values(leaving=True)
        )
    return marked


def forget(connection: Connection, tenant: str, digests: Collection[str]) -> None:
    """Take away rows whose bytes have been removed."""
    for part in _parts(sorted(digests)):
        connection.execute(
            delete(ARTEFACTS).where(
                ARTEFACTS.c.tenant == tenant, ARTEFACTS.c.digest.in_(part), ARTEFACTS.c.leaving
            )
        )


def unused(connection: Connection, limit: int = 1000) -> list[tuple[str, str]]:
    """Tenant and digest of artefacts that nobody uses, and of those that are leaving."""
    used = exists().where(
        ARTEFACT_USES.c.tenant == ARTEFACTS.c.tenant,
        ARTEFACT_USES.c.digest == ARTEFACTS.c.digest,
    )
    asked = (
        select(ARTEFACTS.c.tenant, ARTEFACTS.c.digest)
        .where(or_(ARTEFACTS.c.leaving, ~used))
        .order_by(ARTEFACTS.c.tenant, ARTEFACTS.c.digest)
        .limit(limit)
    )
    return [(row.tenant, row.digest) for row in connection.execute(asked)]


def _used(connection: Connection, tenant: str, digests: Iterable[str]) -> set[str]:
    """Which of them anybody uses."""
    found: set[str] = set()
    for part in _parts(sorted(set(digests))):
        asked = select(ARTEFACT_USES.c.digest).where(
            ARTEFACT_USES.c.tenant == tenant, ARTEFACT_USES.c.digest.in_(part)
        )
        found |= set(connection.execute(asked).scalars())
    return found


def _parts(items: list[str]) -> Iterable[list[str]]:
    return (items[at : at + _MANY] for at in range(0, len(items), _MANY))
