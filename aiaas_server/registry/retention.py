"""Which versions a model's policy lets go: `keep_last`."""

from __future__ import annotations

from sqlalchemy import Connection

from aiaas_server.registry import history, models
from aiaas_server.registry.erasure import Erased, erase_row
from aiaas_server.registry.rows import SERVER, Author, ModelRow, VersionRow
from aiaas_server.registry.standing import reasons


def excess(connection: Connection, model: ModelRow) -> list[VersionRow]:
    """Versions beyond the newest `keep_last` of those that nothing points at."""
    keep = model.policy.keep_last
    if keep is None:
        return []
    used = reasons(model.serving, models.latest_version(connection, model.id))
    free = [
        version
        for version in models.list_versions(connection, model.id)
        if version.state != "erased" and version.number not in used
    ]
    return free[keep:]


def take_excess(connection: Connection, tenant: str, name: str) -> Erased:
    """Take them away; their bytes are for `Eraser.finish`."""
    model = models.find_model(connection, tenant, name)
    if model is None:
        return Erased(tenant, name, [])
    author = Author(tenant, SERVER.by)
    found = excess(connection, model)
    for version in found:
        erase_row(connection, tenant, version)
        reason = f"retention: the last {model.policy.keep_last} are kept"
        history.record(connection, author, model, "erased", version=version.number, reason=reason)
    return Erased(tenant, name, found)
