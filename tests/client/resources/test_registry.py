"""`client.models` over a registry, from threads and tasks: deploy, serve, look, erase."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aiaas_client import (
    ConfigurationError,
    ConflictError,
    Guard,
    InputError,
    ModelRejectedError,
    NotFoundError,
    NotSupportedError,
    Policy,
    PreconditionFailedError,
)
from aiaas_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def caller(either: Any, server: FakeServer) -> Any:
    """With versions 1 to 3 of a model."""
    caller = either(server.url)
    for content in (b"one", b"two", b"three"):
        caller.run(caller.client.models.deploy("m", content))
    return caller


def test_versions_are_counted_and_the_same_bytes_are_the_same_version(caller: Any) -> None:
    models = caller.client.models
    again = caller.run(models.deploy("m", b"two", note="again"))
    assert (again.version, again.note, again.created_now) == (2, "", False)
    assert "created_now" not in again.model_dump()
    assert [one.version for one in caller.run(models.versions("m"))] == [3, 2, 1]
    assert caller.run(models.version("m", "latest")).version == 3
    assert caller.run(models.version("m", "latest")).created_now is None
    assert caller.run(models.deploy("m", b"two", version=2)).created_now is False
    with pytest.raises(ConflictError, match="these bytes are version 2 already"):
        caller.run(models.deploy("m", b"two", version=7))
    assert caller.run(models.deploy("m", b"new")).created_now
    with pytest.raises(ConflictError, match="version 2 exists"):
        caller.run(models.deploy("m", b"four", version=2))


def test_what_is_told_of_a_version_is_kept(caller: Any) -> None:
    models = caller.client.models
    found = caller.run(
        models.deploy(
            "n",
            b"m",
            alias="canary",
            version=7,
            note="first",
            metrics={"accuracy": 0.9},
            lineage={"parent": 3},
            description="digits",
        )
    )
    assert (found.version, found.note, found.aliases) == (7, "first", ["canary"])
    assert (found.metrics, found.lineage) == ({"accuracy": 0.9}, {"parent": 3})
    assert caller.run(models.about("n")).description == "digits"


def test_a_refused_model_says_why(caller: Any, server: FakeServer) -> None:
    server.fail(422, "no operator Foo", code="model_rejected", path="/commit")
    with pytest.raises(ModelRejectedError, match="no operator Foo"):
        caller.run(caller.client.models.deploy("m", b"bad"))


def test_promotions_are_undone_step_by_step(caller: Any) -> None:
    models = caller.client.models
    for version in (1, "2", 3):
        assert caller.run(models.promote("m", version)).production == int(version)
    assert caller.run(models.rollback("m")).production == 2
    assert caller.run(models.rollback("m")).production == 1
    assert caller.run(models.rollback("m")).production is None
    with pytest.raises(ConflictError):
        caller.run(models.rollback("m", 5))
    kinds = [entry.kind for entry in caller.run(models.history("m"))]
    assert kinds[:6] == ["rolled_back"] * 3 + ["promoted"] * 3
    assert len(caller.run(models.history("m", limit=2))) == 2


def test_an_alias_is_promoted_as_what_it_stands_for(caller: Any) -> None:
    models = caller.client.models
    caller.run(models.promote("m", 2, alias="canary"))
    told = caller.run(models.promote("m", "canary", note="good"))
    assert told.serving.aliases == {"canary": 2, "production": 2}
    assert caller.run(models.unalias("m", "canary")).serving.aliases == {"production": 2}
    assert caller.run(models.history("m", limit=2))[1].reason == "good"


def test_traffic_is_split_and_the_split_ended(caller: Any) -> None:
    models = caller.client.models
    told = caller.run(models.split("m", {"1": 0.9, "2": 0.1}, sticky=False))
    assert (told.shares, told.serving.sticky) == ({1: 0.9, 2: 0.1}, False)
    assert caller.run(models.version("m", 1)).share == 0.9
    assert caller.run(models.split("m", {3: 1})).shares == {3: 1.0}
    assert caller.run(models.unsplit("m")).serving.split == {}


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({}, "expected versions and their shares"),
        ({"1": 0.5, "2": 0.4}, "add up to 1, got 0.9"),
        ({"1": 1.5, "2": -0.5}, "expected a share from 0 to 1, got 1.5"),
        ({"canary": 1.0}, "expected a version's number, got 'canary'"),
        ({"1": float("nan")}, "expected a share"),
        ({"1": "1"}, "expected a share"),
        ({"1": 0.5, 1: 0.5}, "named twice"),
        ({True: 1.0}, "version's number"),
    ],
)
def test_shares_that_are_none_are_not_sent(
    caller: Any, server: FakeServer, shares: Any, told: str
) -> None:
    server.clear()
    with pytest.raises(InputError, match=told):
        caller.run(caller.client.models.split("m", shares))
    assert server.requests == []


def test_a_shadow_gets_copies_until_it_does_not(caller: Any) -> None:
    models = caller.client.models
    shadow = caller.run(models.shadow("m", "3", 0.25)).serving.shadow
    assert (shadow.version, shadow.share) == (3, 0.25)
    assert caller.run(models.unshadow("m")).serving.shadow is None
    for share in (0, 1.1, "all"):
        with pytest.raises(InputError, match="shadow: share"):
            caller.run(models.shadow("m", 3, share))


def test_pins_are_added_and_taken_away(caller: Any, server: FakeServer) -> None:
    models = caller.client.models
    caller.run(models.pin("m", 1))
    assert caller.run(models.pin("m", 3)).serving.pins == [1, 3]
    assert caller.run(models.unpin("m", 1)).serving.pins == [3]
    changes = len(caller.run(models.history("m")))
    assert caller.run(models.pin("m", 3)).serving.pins == [3]
    assert len(caller.run(models.history("m"))) == changes, "nothing was changed"


def test_pins_survive_others_who_are_faster(caller: Any, server: FakeServer) -> None:
    models = caller.client.models
    stale: Any = {"code": "precondition_failed", "path": "/traffic"}
    server.alter(lambda body: body, path="/traffic")  # the reading is as it is
    server.fail(412, "changed meanwhile", **stale)
    assert caller.run(models.pin("m", 2)).serving.pins == [2]
    for _ in range(5):
        server.alter(lambda body: body, path="/traffic")
        server.fail(412, "changed meanwhile", **stale)
    with pytest.raises(PreconditionFailedError):
        caller.run(models.pin("m", 1))


def test_a_guard_is_sent_whole(caller: Any) -> None:
    models = caller.client.models
    for guard in (Guard(window=60.0), {"window": 60}):
        told = caller.run(models.promote("m", 2, guard=guard))
        assert told.serving.rollout.guard == Guard(window=60.0)
        assert told.shares == {2: 0.05, 3: 0.95}
    with pytest.raises(InputError, match="windows"):
        caller.run(models.promote("m", 3, guard={"windows": 60}))


def test_a_model_is_described_and_ruled(caller: Any) -> None:
    models = caller.client.models
    told = caller.run(models.update("m", description="d", policy={"keep_last": 3}))
    assert (told.description, told.policy) == ("d", Policy(keep_last=3))
    changed = caller.run(models.update("m", policy=Policy(drift=False), etag=told.etag))
    assert changed.policy == Policy(drift=False)
    with pytest.raises(PreconditionFailedError):
        caller.run(models.update("m", description="e", etag=told.etag))
    with pytest.raises(InputError, match="expected a description or a policy"):
        caller.run(models.update("m"))


def test_versions_are_compared(caller: Any) -> None:
    found = caller.run(caller.client.models.diff("m", 1, "latest"))
    assert (found.old, found.new, found.same_bytes) == (1, 3, False)
    assert [one.path for one in found.differences] == ["files.model.onnx"]


def test_what_serves_is_erased_only_by_force(caller: Any) -> None:
    models = caller.client.models
    caller.run(models.promote("m", 1))
    with pytest.raises(ConflictError):
        caller.run(models.delete("m", 1))
    proof = caller.run(models.delete("m", 1, force=True, replacement="latest"))
    assert (proof.versions, len(proof.artefacts), proof.verified) == ([1], 1, True)
    assert caller.run(models.about("m")).production == 3
    assert caller.run(models.version("m", 1)).state == "erased"
    with pytest.raises(ConflictError):
        caller.run(models.rollback("m"))


def test_a_model_is_erased_whole_and_its_history_stays(caller: Any) -> None:
    models = caller.client.models
    with pytest.raises(InputError, match="replacement"):
        caller.run(models.delete("m", replacement=2))
    assert caller.run(models.delete("m")).versions == [1, 2, 3]
    assert caller.run(models.registered()) == []
    with pytest.raises(NotFoundError):
        caller.run(models.about("m"))
    assert caller.run(models.history("m"))[0].kind == "deleted"


def test_lists_are_read_to_their_end(caller: Any, server: FakeServer) -> None:
    models = caller.client.models
    for name in ("a", "b"):
        caller.run(models.deploy(name, b"m"))
    assert [one.name for one in caller.run(models.registered())] == ["a", "b", "m"]
    assert [one.name for one in caller.run(models.registered(limit=2))] == ["a", "b"]
    with pytest.raises(InputError, match="limit: "):
        caller.run(models.registered(limit=0))


def test_parts_of_a_list_follow_one_another(either: Any, wire: Any, steps: Any) -> None:
    pages = [{"items": [{"name": one}], "next": following} for one, following in ("ab", "bc")]
    last = {"items": [{"name": "c"}], "next": None}
    server = wire(*(steps.answer(body=page) for page in pages), steps.answer(body=last))
    caller = either(server.url)
    found = caller.run(caller.client.models.registered())
    assert [one.name for one in found] == ["a", "b", "c"]
    assert [one.target for one in server.received] == [
        "/api/v1/models?limit=1000",
        "/api/v1/models?limit=1000&after=b",
        "/api/v1/models?limit=1000&after=c",
    ]


def test_what_is_not_there_is_named(caller: Any) -> None:
    models = caller.client.models
    for call in (
        lambda: models.about("no"),
        lambda: models.version("m", 9),
        lambda: models.promote("m", 9),
        lambda: models.promote("m", "nobody"),
        lambda: models.unalias("m", "nobody"),
        lambda: models.versions("no"),
    ):
        with pytest.raises(NotFoundError) as raised:
            caller.run(call())
        assert not isinstance(raised.value, NotSupportedError)


@pytest.mark.parametrize("body", [b"", b"<html>404</html>", None], ids=["empty", "html", "fake"])
def test_a_server_without_a_registry_says_how_to_get_one(
    either: Any, wire: Any, steps: Any, body: bytes | None
) -> None:
    with FakeServer(registry=False) as fake:
        url = fake.url if body is None else wire(default=steps.answer(404, body)).url
        models = either(url)
        for call in (
            lambda: models.client.models.deploy("m", b"x"),
            lambda: models.client.models.registered(),
            lambda: models.client.models.promote("m", 3),
            lambda: models.client.models.export("m", "nowhere"),
            lambda: models.client.models.monitoring("m"),
            lambda: models.client.models.drift("m"),
            lambda: models.client.models.profile("m", 1),
            lambda: models.client.models.set_profile("m", 1, {"x": [[1.0]]}),
            lambda: models.client.models.remove_profile("m", 1),
            lambda: models.client.feedback("an-id", 1),
        ):
            with pytest.raises(NotSupportedError, match="aiaas serve --data DIR"):
                models.run(call())


def test_whole_answers_are_given(caller: Any) -> None:
    whole = caller.client.models.with_raw_response
    deployed = caller.run(whole.deploy("m", b"four"))
    assert (deployed.status, deployed.parse().version) == (201, 4)
    assert caller.run(whole.deploy("m", b"four")).status == 200
    about = caller.run(whole.about("m"))
    assert about.headers["etag"] == f'"{about.parse().etag}"'
    assert caller.run(whole.pin("m", 1)).parse().serving.pins == [1]
    with pytest.raises(InputError, match="sends no single request"):
        whole.changes()


def test_a_sticky_key_travels_with_every_call(either: Any, server: FakeServer) -> None:
    server.add("m", lambda x: x)
    caller = either(server.url)
    caller.run(caller.client.model("m", sticky_key="alice").infer(x=[1]))
    caller.run(caller.client.with_options(sticky_key="bob").model("m").infer(x=[1]))
    caller.run(caller.client.model("m").infer(x=[1]))
    told = [request.headers.get("x-sticky-key") for request in server.infer_requests]
    assert told == ["alice", "bob", None]
    for wrong in ("", "a b", "ä", "a" * 129):
        with pytest.raises(ConfigurationError, match="sticky_key: "):
            caller.client.model("m", sticky_key=wrong)
