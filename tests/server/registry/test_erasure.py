"""Erasure: refused while it serves, proven where it is done, and finished after a crash."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from aiaas_client.protocol.management import Guard, Rollout, Serving, Shadow
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound, StateUnavailable
from aiaas_server.registry import history, models
from aiaas_server.registry.erasure import take_model, take_version
from aiaas_server.registry.standing import reasons, without
from aiaas_server.state.database import Database
from aiaas_server.state.tables import PROFILES
from tests.server.registry.conftest import OpenDeployment
from tests.server.registry.deploying import ME, deploy, files_below, in_pieces, request_for, sha

V1, V2, V3 = ({"model.onnx": b"one"}, {"model.onnx": b"two"}, {"model.onnx": b"three"})


async def serve(database: Database, **serving: Any) -> None:
    def change(connection: Any) -> None:
        model = models.get_model(connection, ME.tenant, "m")
        models.update_model(connection, model, serving=Serving(**serving))

    await database.write(change)


def serving_of(database: Database) -> Serving:
    return database.read_now(lambda c: models.get_model(c, ME.tenant, "m")).serving


async def test_what_was_erased_is_gone_and_said_to_be(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here()
    labels = {"labels.txt": b"shared"}
    first = await deploy(deployment, "m", {**V1, **labels, "model.json": b"{}"})
    await deploy(deployment, "m", {**V2, **labels})
    deployment.cache.materialise(first.version, ME.tenant)
    profile = {"version": 1, "source": "golden", "rows": 1, "profile": {}, "created": 0.0}
    await database.write(
        lambda c: c.execute(PROFILES.insert().values(model_id=first.version.model_id, **profile))
    )
    proof = await deployment.eraser.erase_version(ME, "m", 1)
    assert (proof.versions, proof.verified) == ([1], True)
    assert proof.artefacts == sorted([sha(b"one"), sha(b"{}")])
    assert proof.kept == [sha(b"shared")]
    left = files_below(tmp_path / "data")
    assert not any(sha(content) in path for content in (b"one", b"{}") for path in left)
    assert not any(first.version.digest in path for path in left)
    row = database.read_now(lambda c: models.find_version(c, first.version.model_id, 1))
    assert row is not None
    assert (row.state, row.card, row.metrics) == ("erased", None, {})
    assert database.read_now(lambda c: c.execute(select(PROFILES)).all()) == []
    entry = database.read_now(lambda c: history.list_history(c, first.version.model_id))[0]
    assert (entry.kind, entry.version, entry.by) == ("erased", 1, "me")
    with pytest.raises(NotFound, match="has no version 1: it was erased"):
        await deployment.eraser.erase_version(ME, "m", 1)


IN_USE: dict[str, tuple[dict[str, Any], str]] = {
    "latest": ({}, "it is the latest"),
    "alias": ({"aliases": {"canary": 2, "production": 1}}, "the alias 'canary' points at it"),
    "split": ({"split": {"1": 0.75, "2": 0.25}}, "25% of the calls"),
    "shadow": ({"aliases": {"production": 1}, "shadow": Shadow(version=2)}, "it is the shadow"),
    "pinned": ({"aliases": {"production": 1}, "pins": [2]}, "it is pinned"),
    "rollout": ({"rollout": Rollout(version=2, stable=1, guard=Guard())}, "it is being rolled out"),
    "stable": ({"rollout": Rollout(version=1, stable=2, guard=Guard())}, "rolled out beside it"),
}


@pytest.mark.parametrize(("serving", "reason"), IN_USE.values(), ids=IN_USE)
async def test_what_is_in_use_is_refused_unless_its_place_is_given(
    serving: dict[str, Any], reason: str, open_here: OpenDeployment, database: Database
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", V1)
    await deploy(deployment, "m", V2)
    await serve(database, **serving)
    erase = deployment.eraser.erase_version
    for force, replacement in ((False, None), (True, None), (False, 1)):
        with pytest.raises(Conflict, match=f"version 2 of 'm' is in use: .*{reason}"):
            await erase(ME, "m", 2, force=force, replacement=replacement)
    assert (await erase(ME, "m", 2, force=True, replacement=1)).verified
    now = serving_of(database)
    assert 2 not in reasons(now, 1)


REPLACED: dict[str, tuple[Serving, Serving]] = {
    "alias": (
        Serving(aliases={"a": 2, "production": 3}),
        Serving(aliases={"a": 1, "production": 3}),
    ),
    "split, another": (
        Serving(split={"2": 0.25, "3": 0.75}),
        Serving(split={"3": 0.75, "1": 0.25}),
    ),
    "split, the other": (
        Serving(split={"1": 0.5, "2": 0.5}),
        Serving(aliases={"production": 1}),
    ),
    "rolled out": (
        Serving(aliases={"production": 3}, rollout=Rollout(version=2, stable=3)),
        Serving(aliases={"production": 3}),
    ),
    "stable": (
        Serving(aliases={"production": 2}, rollout=Rollout(version=3, stable=2)),
        Serving(aliases={"production": 1}),
    ),
    "the latest": (Serving(), Serving(aliases={"production": 1})),
    "pins and shadow": (
        Serving(aliases={"production": 3}, pins=[2, 3], shadow=Shadow(version=2)),
        Serving(aliases={"production": 3}, pins=[3]),
    ),
}


@pytest.mark.parametrize(("before", "after"), REPLACED.values(), ids=REPLACED)
def test_the_place_of_a_version_is_given_to_another(before: Serving, after: Serving) -> None:
    assert without(before, 2, 1, latest_then=3) == after


def test_the_version_that_is_latest_then_anyway_needs_no_alias() -> None:
    assert without(Serving(), 2, 1, latest_then=1) == Serving()


async def test_only_a_verified_version_takes_anothers_place(
    open_here: OpenDeployment, database: Database
) -> None:
    asked = []

    async def ready(tenant: str, name: str, number: int) -> None:
        asked.append((tenant, name, number))

    deployment = open_here(ready=ready)
    for content in (V1, V2, V3):
        await deploy(deployment, "m", content)
    erase = deployment.eraser.erase_version
    await erase(ME, "m", 1)
    for replacement, text in ((1, "version 1 of 'm' is erased"), (9, "version 9 of 'm' does not")):
        with pytest.raises(Conflict, match=f"replacement: {text}"):
            await erase(ME, "m", 3, force=True, replacement=replacement)
    with pytest.raises(InvalidInput, match="cannot replace itself"):
        await erase(ME, "m", 3, force=True, replacement=3)
    assert asked == []
    await erase(ME, "m", 3, force=True, replacement=2)
    assert asked == [("default", "m", 2)]


async def test_a_replacement_that_does_not_load_changes_nothing(
    open_here: OpenDeployment, database: Database
) -> None:
    async def fails(tenant: str, name: str, number: int) -> None:
        raise StateUnavailable("no memory")

    deployment = open_here(ready=fails)
    await deploy(deployment, "m", V1)
    await deploy(deployment, "m", V2)
    with pytest.raises(StateUnavailable):
        await deployment.eraser.erase_version(ME, "m", 2, force=True, replacement=1)
    assert models_latest(database) == 2


def models_latest(database: Database) -> int | None:
    return database.read_now(
        lambda c: models.latest_version(c, models.get_model(c, ME.tenant, "m").id)
    )


async def test_a_model_goes_with_versions_and_drafts_and_its_history_stays(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here()
    first = await deploy(deployment, "m", V1)
    await deploy(deployment, "m", V2)
    draft, _ = await deployment.drafts.create(ME, "m", request_for(V3))
    await deployment.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(b"th"))
    with pytest.raises(Conflict, match="model 'm' serves: version 2"):
        await deployment.eraser.erase_model(ME, "m")
    proof = await deployment.eraser.erase_model(ME, "m", force=True)
    assert (proof.versions, len(proof.artefacts), proof.verified) == ([1, 2], 2, True)
    assert files_below(tmp_path / "data") == set()
    entries = database.read_now(lambda c: history.list_history(c, first.version.model_id))
    assert [entry.kind for entry in entries] == ["deleted", "deployed", "deployed"]
    with pytest.raises(NotFound):
        await deployment.eraser.erase_model(ME, "m", force=True)
    assert (await deploy(deployment, "m", V1)).version.number == 1


async def test_bytes_of_another_model_stay(open_here: OpenDeployment, database: Database) -> None:
    deployment = open_here()
    await deploy(deployment, "m", V1)
    other = await deploy(deployment, "n", V1)
    proof = await deployment.eraser.erase_model(ME, "m", force=True)
    assert (proof.artefacts, proof.kept, proof.verified) == ([], [sha(b"one")], True)
    assert deployment.cache.materialise(other.version, ME.tenant).is_dir()


@pytest.mark.parametrize("what", ["version", "model"])
async def test_an_erasure_that_a_crash_cut_short_is_finished_at_the_start(
    what: str, open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", V1)
    await deploy(deployment, "m", V2)
    if what == "version":
        await database.write(lambda c: take_version(c, ME, "m", 1, False, None))
    else:
        await database.write(lambda c: take_model(c, ME, "m", True))
    later = open_here()
    await later.start()
    left = files_below(tmp_path / "data")
    assert not any(sha(b"one") in path for path in left)
    assert (left == set()) == (what == "model")


async def test_a_store_that_is_away_is_no_proof(
    open_here: OpenDeployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", V1)
    await deploy(deployment, "m", V2)

    def away(*_: str) -> None:
        raise StateUnavailable("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(deployment.artefacts, "delete", away)
        proof = await deployment.eraser.erase_version(ME, "m", 1)
    assert (proof.verified, proof.artefacts) == (False, [])
    assert (await deployment.sweep.clean()).artefacts == 1
    assert deployment.artefacts.size(ME.tenant, sha(b"one")) is None


async def test_the_same_bytes_deployed_while_they_are_removed_are_kept(
    open_here: OpenDeployment, database: Database
) -> None:
    """The removal has marked the artefact and waits before the file: the upload waits for it."""
    deployment = open_here()
    await deploy(deployment, "m", V1)
    await deploy(deployment, "m", V2)
    loop, marked, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    delete = deployment.artefacts.delete

    def held(tenant: str, digest: str) -> None:
        loop.call_soon_threadsafe(marked.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        delete(tenant, digest)

    deployment.artefacts.delete = held  # type: ignore[method-assign]
    erasing = asyncio.create_task(deployment.eraser.erase_version(ME, "m", 1))
    await marked.wait()
    deploying = asyncio.create_task(deploy(deployment, "n", V1))
    await asyncio.sleep(0.05)
    assert not deploying.done()
    go_on.set()
    assert (await erasing).verified
    done = await deploying
    assert deployment.cache.materialise(done.version, ME.tenant).is_dir()
