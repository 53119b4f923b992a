"""What should be loaded, read from the database in few queries, however many versions there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from sqlalchemy import Connection, or_, select

from aiaas_server.registry.models import every_model, find_model, latest_version, version_of
from aiaas_server.registry.rows import ModelRow, VersionRow
from aiaas_server.registry.serving import wanted
from aiaas_server.state.tables import MODELS, VERSIONS

_AT_ONCE: Final = 200  # models asked for in one query


class Desired(NamedTuple):
    """One model as it should be.

    Attributes:
        latest: Its greatest verified version.
        versions: Those that have to be loaded, by number.
        corrupt: Those that have to be, and whose bytes are damaged: they stay where they are
            loaded, and are loaded nowhere else.
    """

    model: ModelRow
    latest: int | None
    versions: Mapping[int, VersionRow]
    corrupt: frozenset[int] = frozenset()


def read_all(connection: Connection, tenant: str | None) -> list[Desired]:
    """All models of a tenant, or of all, that have a version to load."""
    models = every_model(connection, tenant)
    newest = (
        select(VERSIONS.c.number)
        .where(VERSIONS.c.model_id == MODELS.c.id, VERSIONS.c.state == "verified")
        .order_by(VERSIONS.c.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    asked = select(MODELS.c.id, newest)
    if tenant is not None:
        asked = asked.where(MODELS.c.tenant == tenant)
    latest: dict[str, int | None] = {row[0]: row[1] for row in connection.execute(asked)}
    keys = [
        (model.id, number)
        for model in models
        for number in wanted(model.serving, latest.get(model.id))
    ]
    rows = _rows(connection, keys)
    found = [_desired(model, latest.get(model.id), rows) for model in models]
    return [one for one in found if one.versions or one.corrupt]


def read_one(connection: Connection, tenant: str, name: str) -> Desired | None:
    """One model; None where there is nothing of it to load."""
    model = find_model(connection, tenant, name)
    if model is None:
        return None
    latest = latest_version(connection, model.id)
    keys = [(model.id, number) for number in wanted(model.serving, latest)]
    found = _desired(model, latest, _rows(connection, keys))
    return found if found.versions or found.corrupt else None


def _desired(
    model: ModelRow, latest: int | None, rows: Mapping[tuple[str, int], VersionRow]
) -> Desired:
    numbers = sorted(wanted(model.serving, latest))
    found = {n: rows[model.id, n] for n in numbers if (model.id, n) in rows}
    versions = {n: row for n, row in found.items() if row.state == "verified"}
    return Desired(model, latest, versions, frozenset(found.keys() - versions.keys()))


def _rows(
    connection: Connection, keys: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], VersionRow]:
    """The versions of these keys that are not erased."""
    numbers: dict[str, list[int]] = {}
    for model_id, number in keys:
        numbers.setdefault(model_id, []).append(number)
    left, found = list(numbers.items()), {}
    while left:
        part, left = left[:_AT_ONCE], left[_AT_ONCE:]
        asked = select(VERSIONS).where(
            or_(*[(VERSIONS.c.model_id == m) & VERSIONS.c.number.in_(n) for m, n in part])
        )
        for row in map(version_of, connection.execute(asked)):
            if row.state != "erased":
                found[row.model_id, row.number] = row
    return found
