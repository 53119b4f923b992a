"""Changes of who gets which version, written down: checked, with their entry of the history.

Each function is a step inside somebody's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

from aiaas_client.protocol.management import HistoryKind, Policy, Serving
from aiaas_client.protocol.names import LATEST
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import Conflict, InvalidInput, LoadFailed, NotFound
from aiaas_server.registry import history
from aiaas_server.registry.models import (
    find_version,
    get_version,
    latest_version,
    update_model,
)
from aiaas_server.registry.rows import Author, ModelRow, VersionRow
from aiaas_server.registry.serving import mentioned, promote

PROMOTE: Final[HistoryKind] = "promoted"
"""Of entries of the history."""


def change_serving(
    connection: Connection,
    author: Author,
    model: ModelRow,
    after: Serving,
    kind: HistoryKind,
    *,
    version: int | None = None,
    reason: str = "",
    position: int | None = None,
) -> ModelRow:
    """Write who gets which version from now on; where that is who does already, nothing.

    Args:
        version: The one that it is about, for the history.
        position: As `history.record`.
    Raises:
        NotFound: A version that it names anew does not exist.
        Conflict: Such a version is corrupt or erased.
        StaleRevision: The row is no longer as `model` says.
    """
    known = mentioned(model.serving)
    added = {number: where for number, where in mentioned(after).items() if number not in known}
    if version is not None:
        added[version] = ""
    check_versions(connection, model, added)
    if after == model.serving and position is None:  # a way back is gone, wherever it leads
        return model
    changed = update_model(connection, model, serving=after)
    history.record(
        connection,
        author,
        model,
        kind,
        version=version,
        before=model.serving.model_dump(mode="json"),
        after=after.model_dump(mode="json"),
        position=position,
        reason=reason,
    )
    return changed


def point_alias(
    connection: Connection, author: Author, model: ModelRow, number: int, alias: str
) -> None:
    """Have an alias point at a version that this transaction deploys, as a promotion does.

    Raises:
        InvalidInput: It is no name for an alias.
    """
    after = promote(model.serving, number, alias)
    told = f"deployed as '{alias}'"
    change_serving(connection, author, model, after, PROMOTE, version=number, reason=told)


def check_versions(connection: Connection, model: ModelRow, numbers: Mapping[int, str]) -> None:
    """Whether versions may serve, each with where it is named.

    Raises:
        NotFound: There is no such version.
        Conflict: It is corrupt or erased.
    """
    for number, where in numbers.items():
        check_verified(connection, model, number, where)


def check_verified(
    connection: Connection, model: ModelRow, number: int, where: str = ""
) -> VersionRow:
    """A version that may serve.

    Raises:
        NotFound: There is none.
        Conflict: It is corrupt or erased.
    """
    named = f"{where}: " if where else ""
    row = find_version(connection, model.id, number)
    if row is None:
        raise NotFound(f"{named}model '{model.name}' has no version {number}")
    if row.state != "verified":
        why = f" ({row.reason})" if row.reason else ""
        raise Conflict(
            f"{named}version {number} of model '{model.name}' is {row.state}{why}: expected one "
            "that is verified"
        )
    return row


def check_policy(policy: Policy) -> None:
    """Raises `InvalidInput` where the configuration of a policy cannot be one."""
    if policy.config is None:
        return
    try:
        ModelConfig.parse(json.dumps(policy.config)).refuse_unsupported()
    except LoadFailed as error:
        raise InvalidInput(f"policy.config: {error.message}") from None
    for key in ("name", "version_policy"):
        if policy.config.get(key):
            raise InvalidInput(
                f"policy.config.{key}: the registry says that; expected it to be left out"
            )


def resolve(connection: Connection, model: ModelRow, version: int | str) -> VersionRow:
    """A version by its number, an alias or `latest`, an erased one too.

    Raises:
        NotFound: There is none.
    """
    if isinstance(version, str):
        number = model.serving.aliases.get(version)
        if version == LATEST:
            number = latest_version(connection, model.id)
        if number is None:
            raise NotFound(f"model '{model.name}' has no version or alias '{version[:64]}'")
        version = number
    return get_version(connection, model, version)
