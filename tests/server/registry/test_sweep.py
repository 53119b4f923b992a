"""Cleaning at the start: what dead processes left goes, what is damaged is said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiaas_server.core.errors import StateUnavailable
from aiaas_server.registry import models
from aiaas_server.registry.rows import VersionRow
from aiaas_server.registry.sweep import Swept
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.artefacts import Corrupt
from aiaas_server.state.artefacts.sealed import seal
from aiaas_server.state.database import Database
from tests.server.registry.conftest import OpenDeployment
from tests.server.registry.deploying import (
    ME,
    accept,
    deploy,
    files_below,
    in_pieces,
    request_for,
    send,
    sha,
)

MODEL = {"model.onnx": b"one model"}


def version(database: Database, number: int = 1, name: str = "m") -> VersionRow:
    def read(connection: Any) -> VersionRow:
        model = models.get_model(connection, ME.tenant, name)
        return models.get_version(connection, model, number)

    return database.read_now(read)


async def test_nothing_is_cleaned_where_nothing_is_wrong(
    open_here: OpenDeployment, tmp_path: Path
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", MODEL)
    draft, _ = await deployment.drafts.create(ME, "n", request_for({"model.onnx": b"half of it"}))
    await deployment.drafts.receive(ME, "n", draft.id, "model.onnx", in_pieces(b"half"), offset=0)
    before = files_below(tmp_path / "data")
    assert await open_here().sweep.clean() == Swept()
    assert files_below(tmp_path / "data") == before


async def test_what_dead_processes_left_is_removed(
    open_here: OpenDeployment, tmp_path: Path
) -> None:
    data, deployment = tmp_path / "data", open_here()
    await deploy(deployment, "m", MODEL)
    before = files_below(data)
    for stray in (
        f"drafts/{'0' * 32}/{'1' * 64}.part",
        f"cache/default/.{'2' * 32}/model.onnx",
        f"cache/default/{'3' * 64}/model.onnx",
        "artefacts/default/aa/.copy",
    ):
        (data / stray).parent.mkdir(parents=True, exist_ok=True)
        (data / stray).write_bytes(b"x")
    assert await open_here().sweep.clean() == Swept(files=3, caches=1)
    assert files_below(data) == before


async def test_objects_that_no_row_knows_are_left_alone(
    open_here: OpenDeployment, tmp_path: Path
) -> None:
    """A database that was lost must not take the bytes with it."""
    lost = tmp_path / "data" / "artefacts" / "default" / "aa" / ("a" * 64)
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"of a database that was lost")
    await open_here().sweep.clean()
    assert lost.exists()


async def test_an_upload_that_died_before_its_row_is_no_stray(
    open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    """Killed between the file and the row: the draft asks for it again, or takes it along."""
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    digest, part = sha(MODEL["model.onnx"]), tmp_path / "part"
    row = await deployment.drafts.row(ME, "m", draft.id)
    for user in (row.user, claims.upload_user(draft.id)):
        chosen = user
        await database.write(lambda c, u=chosen: claims.claim(c, ME.tenant, digest, u))  # type: ignore[misc]
    part.write_bytes(MODEL["model.onnx"])
    deployment.artefacts.put(ME.tenant, digest, part)

    later = open_here()
    await later.sweep.clean()
    assert [file.name for file in (await later.drafts.get(ME, "m", draft.id)).missing]
    await send(later, await later.drafts.get(ME, "m", draft.id), MODEL)
    await later.drafts.remove(await later.drafts.row(ME, "m", draft.id))
    assert files_below(tmp_path / "data") == set()


@pytest.mark.parametrize("damage", ["missing", "shorter"])
async def test_a_version_whose_bytes_are_missing_is_corrupt_and_the_others_are_not(
    damage: str, open_here: OpenDeployment, database: Database, tmp_path: Path
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", MODEL)
    await deploy(deployment, "m", {"model.onnx": b"whole"})
    path = deployment.artefacts.local(ME.tenant, sha(MODEL["model.onnx"]))
    assert path is not None
    path.unlink()
    if damage == "shorter":
        path.write_bytes(b"one")
    later = open_here()
    assert (await later.sweep.clean()).corrupt == 1
    damaged = version(database, 1)
    assert damaged.state == "corrupt"
    assert damaged.reason.startswith("model.onnx: artefact ")
    assert version(database, 2).state == "verified"
    assert await later.sweep.clean() == Swept()  # said once
    assert damage == "missing" or path.exists()  # nothing is deleted silently


async def test_a_part_is_busy_while_somebody_has_it_open(
    open_here: OpenDeployment, database: Database
) -> None:
    deployment = open_here()
    draft, _ = await deployment.drafts.create(ME, "m", request_for(MODEL))
    parts = deployment.drafts._parts
    part = parts.open(draft.id, sha(MODEL["model.onnx"]))
    assert part is not None
    assert parts.is_busy(draft.id, sha(MODEL["model.onnx"]))
    assert parts.open(draft.id, sha(MODEL["model.onnx"])) is None
    part.close()
    assert not parts.is_busy(draft.id, sha(MODEL["model.onnx"]))


async def test_a_store_that_is_away_does_not_keep_a_server_from_starting(
    open_here: OpenDeployment, database: Database
) -> None:
    deployment = open_here()
    await deploy(deployment, "m", MODEL)

    def away(*_: str) -> None:
        raise StateUnavailable("the store does not answer")

    deployment.artefacts.size = away  # type: ignore[method-assign, assignment]
    await deployment.start()
    assert version(database).state == "verified"


async def test_cleaning_never_takes_what_is_being_committed(
    open_here: OpenDeployment, database: Database
) -> None:
    async def sweeping(directory: Path, **_: Any) -> Any:
        assert (await other.sweep.clean()) == Swept()
        assert (directory / "model.onnx").exists()
        return await accept(directory, name="m", digests={})

    other = open_here()
    deployment = open_here(verify=sweeping)
    done = await deploy(deployment, "m", MODEL)
    assert deployment.cache.materialise(done.version, ME.tenant).is_dir()


@pytest.mark.slow
async def test_a_thousand_versions_are_looked_at_without_reading_their_bytes(
    open_here: OpenDeployment, database: Database
) -> None:
    deployment = open_here()
    first = await deploy(deployment, "m", {**MODEL, "a": b"a", "b": b"b"})

    def many(connection: Any) -> None:
        for number in range(2, 1001):
            models.insert_version(connection, first.version._replace(number=number))

    await database.write(many)
    path = deployment.artefacts.local(ME.tenant, sha(MODEL["model.onnx"]))
    assert path is not None
    path.write_bytes(b"two model")  # as long as it was: found when it is loaded
    assert await deployment.sweep.clean() == Swept()
    with pytest.raises(Corrupt):
        open_here().cache.materialise(first.version, ME.tenant)


async def test_what_was_encrypted_behind_a_server_without_the_key_is_not_called_damaged(
    open_here: OpenDeployment, tmp_path: Path, database: Database
) -> None:
    """`aiaas encrypt` beside a server that was started without the master key."""
    deployment = open_here()
    await deploy(deployment, "m", MODEL)
    (artefact,) = (
        path
        for path in (tmp_path / "data" / "artefacts").rglob(sha(MODEL["model.onnx"]))
        if path.is_file()
    )
    artefact.write_bytes(b"".join(seal([MODEL["model.onnx"]], bytes(32), b"about")))
    assert await deployment.sweep.clean() == Swept()
    assert version(database).state == "verified"
    with pytest.raises(StateUnavailable, match="--master-key-file"):
        list(deployment.artefacts.pieces(ME.tenant, sha(MODEL["model.onnx"])))
