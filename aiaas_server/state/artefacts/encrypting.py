"""Seals artefacts that were kept before there was a master key, while servers run.

It goes by the rules of `claims`: whoever writes bytes has a use of the row, and the lock of a part
that ends with its process, so that nobody removes what is being written. A server reads an artefact
all the while: until the sealed bytes take the place of the plain ones, it finds the plain ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection

from aiaas_server.core.errors import ServerError
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.artefacts import Artefacts, Corrupt
from aiaas_server.state.artefacts.data_keys import in_plain
from aiaas_server.state.artefacts.parts import Parts
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.artefacts.threads import Threads
from aiaas_server.state.database import Database

_BATCH: Final = 500

Told = Callable[[str], None]


class Encrypted(NamedTuple):
    """How many artefacts were sealed, and how many could not be, which was told."""

    sealed: int
    failed: int


def encrypt_all(
    database: Database, artefacts: Artefacts, parts: Parts, data: Path, told: Told
) -> Encrypted:
    """Seal all that is plain; what was done before an end stays done.

    Args:
        artefacts: With keys.
        told: Gets a line about each that cannot be sealed.
    """
    remover = Remover(database, artefacts, Threads("aiaas-encrypt", 1), data)
    sealed, failed = 0, set[tuple[str, str]]()
    while True:
        found = database.read_now(lambda c: in_plain(c, _BATCH + len(failed)))
        new = [one for one in found if one not in failed]
        if not new:
            return Encrypted(sealed, len(failed))
        for tenant, digest in new:
            try:
                _encrypt(database, artefacts, parts, remover, tenant, digest)
                sealed += 1
            except (Corrupt, ServerError) as error:
                failed.add((tenant, digest))
                told(f"{tenant}/{digest[:12]}: {error.message}")


def _encrypt(
    database: Database,
    artefacts: Artefacts,
    parts: Parts,
    remover: Remover,
    tenant: str,
    digest: str,
) -> None:
    place = uuid.uuid4().hex
    user = claims.upload_user(place)

    def end(connection: Connection) -> list[str]:
        return claims.release(connection, tenant, user, digest)

    part = parts.open(place, digest)
    assert part is not None, "nobody else knows of it"
    try:
        standing = database.submit(lambda c: claims.claim(c, tenant, digest, user)).result()
        if standing == "stored":
            artefacts.put_pieces(tenant, digest, artefacts.pieces(tenant, digest))
    finally:
        database.submit(end, spares_room=True).result()
        part.close()
        parts.drop(place)
        remover.remove_now(tenant, [digest])  # of one whose last user left meanwhile
