"""Metrics of versions that were measured after they were deployed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, update

from aiaas_server.core.author import Author
from aiaas_server.registry import history, models
from aiaas_server.state.tables import VERSIONS


def add_metrics(
    connection: Connection,
    *,
    author: Author,
    name: str,
    number: int,
    metrics: dict[str, Any],
    reason: str,
) -> None:
    """Add to what is known of a version; where it is known already, nothing changes.

    Raises:
        NotFound: There is no such version any more.
    """
    model = models.get_model(connection, author.tenant, name)
    version = models.get_version(connection, model, number)
    after = {**version.metrics, **metrics}
    if after == version.metrics or version.state == "erased":
        return
    connection.execute(
        update(VERSIONS)
        .where(VERSIONS.c.model_id == model.id, VERSIONS.c.number == number)
        .values(metrics=after)
    )
    history.record(
        connection,
        author,
        model,
        "updated",
        version=number,
        before={"metrics": {key: version.metrics.get(key) for key in metrics}},
        after={"metrics": metrics},
        reason=reason,
        serves=False,
    )
