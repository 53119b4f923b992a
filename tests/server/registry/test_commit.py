"""Commit: one transaction makes a version of a draft, or nothing of it stays."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiaas_client.protocol.management import Policy, Serving
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound, Rejected, StateUnavailable
from aiaas_server.registry import history, models
from aiaas_server.registry.rows import Author
from aiaas_server.state.artefacts import claims
from aiaas_server.state.database import Database
from tests.server.registry.conftest import OpenDeployment
from tests.server.registry.deploying import (
    ME,
    Looked,
    accept,
    deploy,
    files_below,
    in_pieces,
    load_it,
    open_deployment,
    request_for,
    send,
    sha,
)

MODEL = {"model.onnx": b"one model"}
OTHER = {"model.onnx": b"another model"}


def serving_of(database: Database, name: str = "m") -> Serving:
    return database.read_now(lambda c: models.get_model(c, ME.tenant, name)).serving


def kinds(database: Database, name: str = "m") -> list[str]:
    def read(connection: Any) -> list[str]:
        model = models.get_model(connection, ME.tenant, name)
        return [entry.kind for entry in history.list_history(connection, model.id)]

    return database.read_now(read)


async def test_a_real_model_becomes_a_version_that_tells_what_it_is(
    open_here: OpenDeployment, onnx_models: SimpleNamespace, database: Database
) -> None:
    files = {"model.onnx": onnx_models.scale(3.0), "labels.txt": b"a\nb\n"}
    deployment = open_here(verify=load_it)
    done = await deploy(
        deployment, "m", files, note="first", metrics={"f1": 0.9}, lineage={"job": "j"},
        alias="canary", description="scales",
    )  # fmt: skip
    version = done.version
    assert (done.created, version.number, version.state) == (True, 1, "verified")
    assert version.signature["inputs"][0]["name"] == "x"
    assert (version.metrics, version.lineage, version.note) == ({"f1": 0.9}, {"job": "j"}, "first")
    assert version.size == sum(map(len, files.values()))
    assert serving_of(database).aliases == {"canary": 1}
    assert kinds(database) == ["promoted", "deployed"]
    model = database.read_now(lambda c: models.get_model(c, ME.tenant, "m"))
    assert model.description == "scales"
    place = deployment.cache.materialise(version, ME.tenant)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == files
    with pytest.raises(NotFound):  # the draft is over
        await deployment.drafts.get(ME, "m", "0" * 32)


async def test_the_log_tells_of_a_new_version(
    open_here: OpenDeployment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiaas_server")
    deployment = open_here()
    await deploy(deployment, "m", MODEL, note="SECRET")
    await deploy(deployment, "m", MODEL, alias="canary")
    assert [one.getMessage() for one in caplog.records if one.levelname == "INFO"] == [
        f"model 'm': version 1 deployed by {ME.by}, 9 bytes",
        f"model 'm': version 1 is 'canary', by {ME.by}",
    ]


async def test_what_is_refused_leaves_nothing(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here(verify=load_it)
    with pytest.raises(Rejected, match="cannot be loaded"):
        await deploy(deployment, "m", MODEL)
    assert files_below(tmp_path / "data") == set()
    assert database.read_now(claims.unused) == []
    assert database.read_now(lambda c: models.find_model(c, ME.tenant, "m")) is None


async def test_what_is_refused_takes_nothing_from_others(
    open_here: OpenDeployment, onnx_models: SimpleNamespace
) -> None:
    labels = {"labels.txt": b"shared"}
    deployment = open_here(verify=load_it)
    kept = await deploy(deployment, "m", {"model.onnx": onnx_models.scale(), **labels})
    with pytest.raises(Rejected):
        await deploy(deployment, "n", {**MODEL, **labels})
    place = deployment.cache.materialise(kept.version, ME.tenant)
    assert (place / "labels.txt").read_bytes() == b"shared"


async def test_the_same_bytes_are_the_same_version(
    open_here: OpenDeployment, database: Database
) -> None:
    deployment = open_here()
    first = await deploy(deployment, "m", MODEL)
    again = await deploy(deployment, "m", MODEL, alias="a", version=1)
    other = await deploy(deployment, "m", OTHER)
    assert (again.created, again.version) == (False, first.version)
    assert (other.created, other.version.number) == (True, 2)
    assert serving_of(database).aliases == {"a": 1}


async def test_a_number_may_be_asked_for_once(open_here: OpenDeployment) -> None:
    deployment = open_here()
    assert (await deploy(deployment, "m", MODEL, version=7)).version.number == 7
    with pytest.raises(Conflict, match="version 7 of 'm' exists with other bytes"):
        await deploy(deployment, "m", OTHER, version=7)
    assert (await deploy(deployment, "m", OTHER)).version.number == 8
    third = {"model.onnx": b"third"}
    assert (await deploy(deployment, "m", third, version=3)).version.number == 3
    await deployment.eraser.erase_version(ME, "m", 3)
    with pytest.raises(Conflict, match="version 3 of 'm' was erased"):
        await deploy(deployment, "m", third, version=3)


async def test_bytes_have_one_number(open_here: OpenDeployment, database: Database) -> None:
    deployment = open_here()
    await deploy(deployment, "m", MODEL)
    with pytest.raises(Conflict, match="version 7 of 'm' was asked for, and .* version 1 already"):
        await deploy(deployment, "m", MODEL, alias="a", version=7)
    assert serving_of(database).aliases == {}
    await deploy(deployment, "m", OTHER)
    await deployment.eraser.erase_version(ME, "m", 1)
    assert (await deploy(deployment, "m", MODEL, version=7)).version.number == 7


async def test_latest_is_no_alias_to_be_set(open_here: OpenDeployment) -> None:
    with pytest.raises(InvalidInput, match="'latest' is always the newest"):
        await deploy(open_here(), "m", MODEL, alias="latest")


async def test_a_draft_that_is_not_complete_stays(open_here: OpenDeployment) -> None:
    deployment = open_here()
    files = {**MODEL, "labels.txt": b"a"}
    draft, _ = await deployment.drafts.create(ME, "m", request_for(files))
    with pytest.raises(Conflict, match="model.onnx: not all of it has come; 2 of 2"):
        await deployment.commits.commit(ME, "m", draft.id)
    draft = await send(deployment, draft, files)
    assert (await deployment.commits.commit(ME, "m", draft.id)).created


async def test_two_commits_of_one_draft_at_once_are_one(open_here: OpenDeployment) -> None:
    looked = []

    async def counting(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
        looked.append(name)
        return await accept(directory, name=name, digests=digests)

    deployment = open_here(verify=counting)
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    await send(deployment, draft, MODEL)
    both = [deployment.commits.commit(ME, "m", draft.id) for _ in range(2)]
    one, other = await asyncio.gather(*both)
    assert one == other
    assert looked == ["m"]


async def test_of_two_processes_that_commit_one_draft_one_wins(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    both_verify = asyncio.Barrier(2)

    async def together(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
        await both_verify.wait()
        return await accept(directory, name=name, digests=digests)

    one, other = open_here(verify=together), open_here(verify=together)
    draft, _ = await one.drafts.create(ME, "m", request_for(MODEL))
    await send(one, draft, MODEL)
    came = await asyncio.gather(
        *(side.commits.commit(ME, "m", draft.id) for side in (one, other)), return_exceptions=True
    )
    assert sorted(type(c).__name__ for c in came) == ["Committed", "NotFound"]
    assert kinds(database) == ["deployed"]


async def test_two_drafts_that_end_at_once_are_two_versions(open_here: OpenDeployment) -> None:
    both_verify = asyncio.Barrier(2)

    async def together(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
        await both_verify.wait()
        return await accept(directory, name=name, digests=digests)

    deployment = open_here(verify=together)
    done = await asyncio.gather(*(deploy(deployment, "m", files) for files in (MODEL, OTHER)))
    assert {each.version.number for each in done} == {1, 2}


async def test_a_client_that_leaves_does_not_stop_the_commit(
    open_here: OpenDeployment, database: Database
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
        begun.set()
        await go_on.wait()
        return await accept(directory, name=name, digests=digests)

    deployment = open_here(verify=slow)
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    await send(deployment, draft, MODEL)
    leaving = asyncio.create_task(deployment.commits.commit(ME, "m", draft.id))
    await begun.wait()
    leaving.cancel()
    await asyncio.wait({leaving})
    joining = asyncio.create_task(deployment.commits.commit(ME, "m", draft.id))
    await asyncio.sleep(0)
    go_on.set()
    assert (await joining).version.number == 1


async def test_a_draft_that_is_thrown_away_while_it_is_verified_becomes_nothing(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    async def removing(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
        await deployment.drafts.remove(await deployment.drafts.row(ME, "m", draft.id))
        return await accept(directory, name=name, digests=digests)

    deployment = open_here(verify=removing)
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    await send(deployment, draft, MODEL)
    with pytest.raises(NotFound):
        await deployment.commits.commit(ME, "m", draft.id)
    assert files_below(tmp_path / "data") == set()
    assert database.read_now(lambda c: models.find_model(c, ME.tenant, "m")) is None


async def test_a_verifier_that_cannot_work_keeps_the_draft(open_here: OpenDeployment) -> None:
    async def failing(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
        raise StateUnavailable("no process can be started")

    deployment = open_here(verify=failing)
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    await send(deployment, draft, MODEL)
    with pytest.raises(StateUnavailable):
        await deployment.commits.commit(ME, "m", draft.id)
    assert (await deployment.drafts.get(ME, "m", draft.id)).missing == []


async def test_bytes_that_are_damaged_in_the_store_are_asked_for_again(
    open_here: OpenDeployment,
) -> None:
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    await send(deployment, draft, MODEL)
    damage(deployment, MODEL["model.onnx"])
    with pytest.raises(Conflict, match="model.onnx: its bytes in the store are damaged"):
        await deployment.commits.commit(ME, "m", draft.id)
    draft = await deployment.drafts.get(ME, "m", draft.id)
    await send(deployment, draft, MODEL)
    assert (await deployment.commits.commit(ME, "m", draft.id)).created


async def test_deploying_the_bytes_again_makes_a_damaged_version_whole(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    done = await deploy(open_here(), "m", MODEL)
    later = open_here()  # another process: it has verified nothing yet
    damage(later, MODEL["model.onnx"])
    with pytest.raises(Exception, match="model.onnx: artefact .* is damaged"):
        later.cache.materialise(done.version, ME.tenant)
    assert state_of(database, 1) == "corrupt"
    again = await deploy(later, "m", MODEL)
    assert (again.created, again.version.number, again.version.state) == (False, 1, "verified")
    place = later.cache.materialise(again.version, ME.tenant)
    assert (place / "model.onnx").read_bytes() == MODEL["model.onnx"]
    assert kinds(database) == ["repaired", "damaged", "deployed"]


def damage(deployment: Any, content: bytes) -> None:
    """Turn one bit of an artefact."""
    path = deployment.artefacts.local(ME.tenant, sha(content))
    with path.open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))


def state_of(database: Database, number: int, name: str = "m") -> str:
    def read(connection: Any) -> str:
        model = models.get_model(connection, ME.tenant, name)
        return models.get_version(connection, model, number).state

    return database.read_now(read)


async def test_the_policy_lets_old_versions_go_after_a_commit(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", {"model.onnx": b"1"}, alias="production")
    await deploy(deployment, "m", {"model.onnx": b"2"}, alias="canary")

    def keep_two(connection: Any) -> None:
        model = models.get_model(connection, ME.tenant, "m")
        serving = model.serving.model_copy(update={"pins": [3]})
        models.update_model(connection, model, serving=serving, policy=Policy(keep_last=2))

    await database.write(keep_two)
    for number in range(3, 8):
        await deploy(deployment, "m", {"model.onnx": b"%d" % number})
    states = [state_of(database, number) for number in range(1, 8)]
    assert states == ["verified"] * 3 + ["erased"] * 2 + ["verified"] * 2
    assert deployment.artefacts.size(ME.tenant, sha(b"4")) is None
    assert "retention: the last 2 are kept" in str(
        database.read_now(lambda c: history.list_history(c, models.get_model(c, ME.tenant, "m").id))
    )


async def test_tenants_do_not_see_one_another(
    open_here: OpenDeployment, database: Database
) -> None:
    deployment, other = open_here(), Author("other")
    await deploy(deployment, "m", MODEL)
    assert (await deploy(deployment, "m", MODEL, other)).created
    await deployment.eraser.erase_model(other, "m", force=True)
    assert deployment.artefacts.size("other", sha(MODEL["model.onnx"])) is None
    assert state_of(database, 1) == "verified"
    assert deployment.artefacts.size(ME.tenant, sha(MODEL["model.onnx"])) == 9


async def test_a_commit_under_way_is_given_up_at_the_end_and_the_draft_stays(
    database: Database, tmp_path: Path
) -> None:
    begun = asyncio.Event()

    async def never(directory: Path, *, name: str, digests: Mapping[str, str]) -> Looked:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    first = open_deployment(database, tmp_path / "data", verify=never)
    draft, _ = await first.drafts.create(ME, "m", request_for(MODEL))
    await first.drafts.receive(ME, "m", draft.id, "model.onnx", in_pieces(MODEL["model.onnx"]))
    waiting = asyncio.create_task(first.commits.commit(ME, "m", draft.id))
    await begun.wait()
    await first.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    second = open_deployment(database, tmp_path / "data")
    assert (await second.commits.commit(ME, "m", draft.id)).created
    await second.close()
