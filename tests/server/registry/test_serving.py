"""What a change makes of who gets which version: tables, and any sequence of changes undone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import Engine

from aiaas_client.protocol.management import Guard, Rollout, Serving, Shadow, TrafficRequest
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound
from aiaas_server.registry import models, serving
from aiaas_server.registry.rollback import answering, find_target
from aiaas_server.registry.rows import ModelRow
from aiaas_server.registry.traffic import change_serving, point_alias
from aiaas_server.state.tables import METADATA
from tests.server.registry.bringing import AUTHOR
from tests.server.registry.rows import verified

EMPTY = Serving()
ROLLOUT = Rollout(version=4, stable=3, guard=Guard(steps=[0.25, 1.0]))


@pytest.mark.parametrize(
    ("document", "latest", "expected"),
    [
        (EMPTY, None, {}),
        (EMPTY, 3, {3: 1.0}),
        (Serving(aliases={"production": 2}), 3, {2: 1.0}),
        (Serving(aliases={"canary": 2}), 3, {3: 1.0}),
        (Serving(aliases={"production": 2}, split={"1": 0.5, "3": 0.5}), 3, {1: 0.5, 3: 0.5}),
        (Serving(aliases={"production": 3}, rollout=ROLLOUT), 4, {4: 0.25, 3: 0.75}),
        (Serving(rollout=ROLLOUT.model_copy(update={"step": 1})), 4, {4: 1.0}),
        (Serving(rollout=ROLLOUT.model_copy(update={"alias": "beta"})), 9, {9: 1.0}),
    ],
)
def test_shares(document: Serving, latest: int | None, expected: dict[int, float]) -> None:
    assert document.shares(latest) == expected


def test_wanted_is_whatever_may_be_called() -> None:
    document = Serving(
        aliases={"production": 1, "canary": 2},
        split={"3": 1.0},
        shadow=Shadow(version=4),
        pins=[5, 6],
        rollout=Rollout(version=7, stable=8),
    )
    assert serving.wanted(document, 9) == {1, 2, 3, 4, 5, 6, 7, 8}
    assert serving.wanted(EMPTY, 9) == {9}
    assert serving.wanted(EMPTY, None) == set()


def test_a_promotion_ends_a_split_and_another_alias_does_not() -> None:
    divided = serving.split(EMPTY, {"1": 0.5, "2": 0.5})
    assert serving.promote(divided, 3) == Serving(aliases={"production": 3})
    assert serving.promote(divided, 3, "canary").split == divided.split
    assert serving.split(Serving(rollout=ROLLOUT), {"1": 1.0}).rollout is None


def test_a_patch_leaves_what_it_does_not_name() -> None:
    before = Serving(split={"1": 1.0}, shadow=Shadow(version=2), pins=[3], sticky=False)
    assert serving.patched(before, TrafficRequest()) == before
    ended = serving.patched(before, TrafficRequest(split=None, shadow=None, pins=None, sticky=True))
    assert ended == EMPTY


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda: serving.split(EMPTY, {}), InvalidInput, "at least one version"),
        (lambda: serving.split(EMPTY, {"1": 0.5, "2": 0.4}), InvalidInput, "got 0.9"),
        (lambda: serving.split(EMPTY, {"1": 1.0, "2": 1e-5}), InvalidInput, "add up to 1"),
        (lambda: serving.split(EMPTY, {"1": float("nan")}), InvalidInput, "for 1, got nan"),
        (lambda: serving.split(EMPTY, {"1": -0.5, "2": 1.5}), InvalidInput, "got -0.5"),
        (lambda: serving.split(EMPTY, {"01": 1.0}), InvalidInput, "got '01'"),
        (lambda: serving.split(EMPTY, {"canary": 1.0}), InvalidInput, "got 'canary'"),
        (lambda: serving.mirror(EMPTY, 1, float("inf")), InvalidInput, "from 0 to 1, got inf"),
        (lambda: serving.promote(EMPTY, 1, "latest"), InvalidInput, "by itself"),
        (lambda: serving.promote(EMPTY, 1, "1a"), InvalidInput, "expected a letter"),
        (lambda: serving.drop_alias(EMPTY, "a", "m"), NotFound, "model 'm' has no alias 'a'"),
        (
            lambda: serving.drop_alias(
                Serving(aliases={"production": 3}, rollout=ROLLOUT), "production", "m"
            ),
            Conflict,
            "under way",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    change: Callable[[], Serving], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        change()


def test_a_split_may_miss_one_by_what_floats_miss() -> None:
    assert serving.split(EMPTY, {str(n): 0.1 for n in range(1, 11)}).split["3"] == 0.1
    assert len(serving.split(EMPTY, dict.fromkeys("123", 1 / 3)).split) == 3


# Rollback

HEALTH = [HealthCheck.too_slow]

VERSIONS = st.integers(1, 5)
CHANGES: st.SearchStrategy[Callable[[Serving], Serving]] = st.one_of(
    st.builds(
        lambda v, a: lambda s: serving.promote(s, v, a),
        VERSIONS,
        st.sampled_from(["production", "canary"]),
    ),
    st.builds(lambda v: lambda s: serving.pin(s, v), VERSIONS),
    st.builds(lambda v: lambda s: serving.unpin(s, v), VERSIONS),
    st.builds(lambda v: lambda s: serving.mirror(s, v, 0.5), st.none() | VERSIONS),
    st.builds(
        lambda v, w, x: lambda s: serving.split(s, {str(v): x, str(v % 5 + 1): 1 - x}, w),
        VERSIONS,
        st.none() | st.booleans(),
        st.floats(0, 1),
    ),
    st.just(serving.unsplit),
    st.builds(lambda x: lambda s: serving.patched(s, TrafficRequest(sticky=x)), st.booleans()),
)


@pytest.fixture(scope="module")
def engine() -> Any:
    """An empty database in memory."""
    made = create_engine("sqlite://")
    METADATA.create_all(made)
    yield made
    made.dispose()


def begin(connection: Connection) -> ModelRow:
    model = models.ensure_model(connection, AUTHOR, "m")
    for number in range(1, 6):
        models.insert_version(connection, verified(model, number))
    return model


def applied(
    connection: Connection, model: ModelRow, change: Callable[[Serving], Serving]
) -> ModelRow:
    return change_serving(connection, AUTHOR, model, change(model.serving), "traffic")


def rolled_back(connection: Connection, model: ModelRow, steps: int) -> ModelRow:
    after, position = find_target(connection, model, steps)
    return change_serving(connection, AUTHOR, model, after, "rollback", position=position)


@settings(max_examples=30, deadline=None, suppress_health_check=HEALTH)
@given(changes=st.lists(CHANGES, max_size=12), data=st.data())
def test_any_changes_are_undone_by_as_many_steps_back(
    engine: Engine, changes: list[Callable[[Serving], Serving]], data: st.DataObject
) -> None:
    with engine.connect() as connection:
        model = begin(connection)
        states = [model.serving]
        for change in changes:
            model = applied(connection, model, change)
            if answering(model.serving) == answering(states[-1]):
                states.pop()  # shadow, pins and stickiness are no step
            states.append(model.serving)
        while len(states) > 1:
            steps = data.draw(st.integers(1, len(states) - 1))
            del states[-steps:]
            shadow, pins = model.serving.shadow, model.serving.pins
            model = rolled_back(connection, model, steps)
            kept = {"shadow": shadow, "pins": pins}
            assert model.serving == states[-1].model_copy(update=kept)
        with pytest.raises(Conflict, match="no earlier state"):
            find_target(connection, model, 1)
        connection.rollback()


def test_a_change_after_a_rollback_is_undone_to_where_that_went(engine: Engine) -> None:
    with engine.connect() as connection:
        model = begin(connection)
        for version in (1, 2, 3):
            model = applied(connection, model, lambda s, v=version: serving.promote(s, v))  # type: ignore[misc]
        model = rolled_back(connection, model, 2)
        assert model.serving.aliases == {"production": 1}
        model = applied(connection, model, lambda s: serving.promote(s, 5))
        model = rolled_back(connection, model, 1)
        assert model.serving.aliases == {"production": 1}
        assert rolled_back(connection, model, 1).serving == EMPTY
        connection.rollback()


def test_moments_of_a_rollout_are_stepped_over(engine: Engine) -> None:
    with engine.connect() as connection:
        model = begin(connection)
        model = applied(connection, model, lambda s: serving.promote(s, 3))
        for step in (0, 1):
            rollout = ROLLOUT.model_copy(update={"step": step})
            model = applied(
                connection,
                model,
                lambda s, r=rollout: s.model_copy(update={"rollout": r}),  # type: ignore[misc]
            )
        assert find_target(connection, model, 1).serving.aliases == {"production": 3}
        model = applied(connection, model, lambda s: serving.promote(s, 4))
        model = rolled_back(connection, model, 1)
        assert model.serving == Serving(aliases={"production": 3})
        assert rolled_back(connection, model, 1).serving == EMPTY
        connection.rollback()


def test_a_shadow_is_no_step_and_stays(engine: Engine) -> None:
    with engine.connect() as connection:
        model = begin(connection)
        model = applied(connection, model, lambda s: serving.promote(s, 1))
        model = applied(connection, model, lambda s: serving.promote(s, 2))
        model = applied(connection, model, lambda s: serving.mirror(s, 3))
        model = applied(connection, model, lambda s: serving.mirror(s, None))
        model = applied(connection, model, lambda s: serving.pin(s, 4))
        model = rolled_back(connection, model, 1)
        assert model.serving == Serving(aliases={"production": 1}, pins=[4])
        model = applied(connection, model, lambda s: serving.mirror(s, 5))
        assert rolled_back(connection, model, 1).serving == Serving(
            pins=[4], shadow=Shadow(version=5)
        )
        connection.rollback()


def test_a_shadow_in_the_middle_of_a_rollout_is_no_step(engine: Engine) -> None:
    with engine.connect() as connection:
        model = begin(connection)
        model = applied(connection, model, lambda s: serving.promote(s, 2))
        model = applied(connection, model, lambda s: serving.promote(s, 3))
        model = applied(connection, model, lambda s: s.model_copy(update={"rollout": ROLLOUT}))
        model = applied(connection, model, lambda s: serving.mirror(s, 5))
        model = applied(connection, model, lambda s: s.model_copy(update={"rollout": None}))
        model = rolled_back(connection, model, 1)
        assert model.serving == Serving(aliases={"production": 2}, shadow=Shadow(version=5))
        connection.rollback()


def test_a_version_that_is_gone_is_not_gone_back_to(engine: Engine) -> None:
    with engine.connect() as connection:
        model = begin(connection)
        model = applied(connection, model, lambda s: serving.promote(s, 1))
        model = applied(connection, model, lambda s: serving.promote(s, 2))
        models.set_state(connection, model.id, 1, "erased", "deleted")
        with pytest.raises(Conflict, match="version 1 of model 'm' is erased"):
            rolled_back(connection, model, 1)
        connection.rollback()


def test_an_alias_of_a_new_version_ends_a_split_as_any_promotion(engine: Engine) -> None:
    with engine.connect() as connection:
        model = begin(connection)
        model = applied(connection, model, lambda s: serving.split(s, {"1": 0.5, "2": 0.5}))
        point_alias(connection, AUTHOR, model, 3, "production")
        model = models.get_model(connection, AUTHOR.tenant, "m")
        assert model.serving == Serving(aliases={"production": 3})
        assert rolled_back(connection, model, 1).serving.split == {"1": 0.5, "2": 0.5}
        connection.rollback()
