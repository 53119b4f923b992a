"""`client.models.wait_rollout`: to the end of a guarded promotion, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aiaas_client import DeadlineExceededError, InputError, NotFoundError, RolledBackError
from aiaas_client.protocol.management import PRODUCTION, Guard, PromoteRequest, RollbackRequest
from aiaas_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def caller(either: Any, server: FakeServer) -> Any:
    """With three versions, of which the first is in production and the second on its way."""
    caller = either(server.url)
    for content in (b"one", b"two", b"three"):
        caller.run(caller.client.models.deploy("m", content))
    caller.run(caller.client.models.promote("m", 1))
    caller.run(caller.client.models.promote("m", 2, guard=Guard()))
    return caller


def finish(server: FakeServer, version: int = 2, guard: Guard | None = None) -> None:
    server.registry.promote("m", PRODUCTION, PromoteRequest(version=version, guard=guard))


def test_the_model_is_given_once_its_version_is_promoted(caller: Any, server: FakeServer) -> None:
    seen = []

    def look(model: Any) -> None:
        seen.append(model.serving.rollout)
        if len(seen) == 1:
            finish(server)

    model = caller.run(caller.client.models.wait_rollout("m", progress=look))
    assert model.production == 2
    assert [None if one is None else one.version for one in seen] == [2, None]


def test_a_rollout_that_ended_before_is_told_as_well(caller: Any, server: FakeServer) -> None:
    finish(server)
    server.registry.promote("m", "canary", PromoteRequest(version=3))
    assert caller.run(caller.client.models.wait_rollout("m")).production == 2


@pytest.mark.parametrize("is_before", [True, False])
def test_why_it_went_back_is_told(caller: Any, server: FakeServer, is_before: bool) -> None:
    def go_back(_: Any) -> None:
        if server.registry.about("m").serving.rollout is not None:
            server.registry.rollback("m", RollbackRequest(note="2 of 50 requests failed"))

    if is_before:
        go_back(None)
    with pytest.raises(RolledBackError, match=r"version 2 of model 'm' went back: 2 of 50") as told:
        caller.run(caller.client.models.wait_rollout("m", progress=go_back))
    assert told.value.model == "m"


@pytest.mark.parametrize("guard", [None, Guard()])
def test_another_version_may_take_its_place(
    caller: Any, server: FakeServer, guard: Guard | None
) -> None:
    def replace(model: Any) -> None:
        if model.serving.rollout is not None and model.serving.rollout.version == 2:
            finish(server, 3, guard)

    with pytest.raises(RolledBackError, match=r"version 2 .* was ended \(.*, version 3\)"):
        caller.run(caller.client.models.wait_rollout("m", progress=replace))


def test_a_wait_has_an_end(caller: Any) -> None:
    with pytest.raises(DeadlineExceededError, match="rollout of version 2 of model 'm' goes on"):
        caller.run(caller.client.models.wait_rollout("m", 0.2))


def test_what_cannot_be_waited_for_is_told(caller: Any) -> None:
    models = caller.client.models
    caller.run(models.deploy("n", b"n"))
    with pytest.raises(InputError, match="model 'n' had no rollout"):
        caller.run(models.wait_rollout("n"))
    with pytest.raises(NotFoundError):
        caller.run(models.wait_rollout("no"))


def test_a_server_that_is_away_for_a_moment_is_waited_for(caller: Any, server: FakeServer) -> None:
    finish(server)
    server.fail(503, times=4)
    assert caller.run(caller.client.models.wait_rollout("m")).production == 2
