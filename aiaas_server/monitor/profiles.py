"""The reference profiles of versions in the database."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, delete, select

from aiaas_server.monitor.profile import Profile, read_profile
from aiaas_server.state.tables import PROFILES


class StoredProfile(NamedTuple):
    """A profile and when it was made."""

    profile: Profile
    created: float


def put_profile(connection: Connection, model_id: str, version: int, profile: Profile) -> float:
    """Keep the reference of a version in place of what was there; gives when that was."""
    remove_profile(connection, model_id, version)
    created = time.time()
    connection.execute(
        PROFILES.insert().values(
            model_id=model_id,
            version=version,
            source=profile.source,
            rows=profile.rows,
            profile=profile.document(),
            created=created,
        )
    )
    return created


def add_profile(connection: Connection, model_id: str, version: int, profile: Profile) -> bool:
    """The same unless there is one; whether there was none."""
    if get_profile(connection, model_id, version) is not None:
        return False
    put_profile(connection, model_id, version, profile)
    return True


def get_profile(connection: Connection, model_id: str, version: int) -> StoredProfile | None:
    """The reference of a version, if it has one."""
    asked = select(PROFILES.c.profile, PROFILES.c.created).where(
        PROFILES.c.model_id == model_id, PROFILES.c.version == version
    )
    row = connection.execute(asked).one_or_none()
    return None if row is None else StoredProfile(read_profile(row[0]), row[1])


def remove_profile(connection: Connection, model_id: str, version: int) -> bool:
    """Forget the reference of a version; whether it had one."""
    gone = connection.execute(
        delete(PROFILES).where(PROFILES.c.model_id == model_id, PROFILES.c.version == version)
    )
    return gone.rowcount > 0


def when_made(connection: Connection, model_ids: Collection[str]) -> dict[tuple[str, int], float]:
    """When the references of some models' versions were made."""
    asked = select(PROFILES.c.model_id, PROFILES.c.version, PROFILES.c.created).where(
        PROFILES.c.model_id.in_(model_ids)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(asked)}
