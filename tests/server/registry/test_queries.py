"""What is asked often is answered from an index, however much there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event

from aiaas_server.registry import history, models
from aiaas_server.registry.desired import read_all, read_one
from aiaas_server.registry.rollback import find_target
from aiaas_server.registry.serving import promote
from aiaas_server.registry.traffic import change_serving
from aiaas_server.state import changes
from aiaas_server.state.tables import METADATA
from tests.server.registry.bringing import AUTHOR
from tests.server.registry.rows import verified


@pytest.fixture(scope="module")
def engine() -> Any:
    """A database with one model of two versions, promoted one after the other."""
    made = create_engine("sqlite://")
    METADATA.create_all(made)
    with made.begin() as connection:
        model = models.ensure_model(connection, AUTHOR, "m")
        for number in (1, 2):
            models.insert_version(connection, verified(model, number))
            after = promote(model.serving, number)
            model = change_serving(connection, AUTHOR, model, after, "promote")
    yield made
    made.dispose()


def model_of(connection: Connection) -> Any:
    return models.get_model(connection, "default", "m")


QUERIES: dict[str, Callable[[Connection], object]] = {
    "get": model_of,
    "list": lambda c: models.list_models(c, "default", "a", 100),
    "latest": lambda c: models.latest_version(c, model_of(c).id),
    "versions": lambda c: models.list_versions(c, model_of(c).id, 5, 100),
    "counts": lambda c: models.count_versions(c, [model_of(c).id]),
    "history": lambda c: history.list_history(c, model_of(c).id, 5, 100),
    "rollback": lambda c: find_target(c, model_of(c), 1),
    "changes": lambda c: changes.changes_after(c, 1),
    "desired": lambda c: read_one(c, "default", "m"),
    "all desired": lambda c: read_all(c, "default"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_reads_a_whole_table_or_sorts_one(engine: Engine, name: str) -> None:
    asked: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        asked.append((statement, parameters))

    with engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", note)
        QUERIES[name](connection)
        event.remove(connection, "before_cursor_execute", note)
        assert asked
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            steps = [row[3] for row in plan]
            assert not any("SCAN" in step or "TEMP B-TREE" in step for step in steps), steps
