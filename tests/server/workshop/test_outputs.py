"""What a job needs is laid out, and what it made is kept: once, however often that is repeated."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from sqlalchemy import update

from aiaas_client.protocol.datasets import Dataset
from aiaas_client.protocol.management import Guard, PromoteRequest
from aiaas_server.core.author import Author
from aiaas_server.core.errors import NotFound
from aiaas_server.jobs import queue
from aiaas_server.jobs.keeping import Keeping
from aiaas_server.jobs.orders import LaidCheckpoint, MadeDataset, MadeVersion, Product
from aiaas_server.jobs.rows import JobRow, find_job, job_user
from aiaas_server.monitor.profiles import get_profile
from aiaas_server.registry import history, models
from aiaas_server.registry.deployment import Deployment
from aiaas_server.registry.registry import Registry
from aiaas_server.registry.rollout import begin
from aiaas_server.state.artefacts import claims
from aiaas_server.state.artefacts.artefacts import Corrupt
from aiaas_server.state.artefacts.removal import Remover
from aiaas_server.state.database import Connection, Database
from aiaas_server.state.tables import DATASETS
from aiaas_server.workshop.inputs import Inputs
from aiaas_server.workshop.outputs import Outputs
from tests.server.registry.deploying import deploy, load_it, open_deployment

ME = Author("t", "me")
ROWS = b"the rows of a data set"


class Shop:
    """What goes before and behind a job, over one data directory."""

    def __init__(self, database: Database, data: Path) -> None:
        self.database = database
        self.deployment: Deployment = open_deployment(database, data, verify=load_it)
        kept = self.deployment
        remover = Remover(database, kept.artefacts, kept.remote, data)
        self.keeping = Keeping(database, kept.artefacts, remover, kept.remote)
        self.registry = Registry(database, begin)
        self.told: list[str] = []
        self.made: list[tuple[MadeDataset, bytes]] = []
        self.inputs = Inputs(
            database,
            kept.artefacts,
            kept.cache,
            kept.remote,
            lambda needed: None,
            memory_bytes=1 << 30,
            threads_each=1,
        )
        self.outputs = Outputs(
            database,
            kept.drafts,
            kept.commits,
            self.keeping,
            kept.remote,
            keep_dataset=self._keep_dataset,
            promote=self._promote,
            changed=self._changed,
        )

    async def _changed(self, tenant: str, name: str) -> None:
        self.told.append(name)

    async def _promote(
        self, author: Author, name: str, request: PromoteRequest, alias: str
    ) -> None:
        await self.registry.promote(author, name, request, alias)

    async def _keep_dataset(self, author: Author, made: MadeDataset, path: Path) -> Dataset:
        self.made.append((made, path.read_bytes()))
        path.unlink()
        return Dataset(name=made.name, number=1)

    async def job(self, **spec: Any) -> JobRow:
        def work(connection: Connection) -> JobRow:
            row = queue.enqueue(
                connection, tenant="t", by="me", kind=spec["kind"], subject="m", spec=spec
            )
            claimed = queue.claim(connection, "a")
            assert claimed is not None
            found = find_job(connection, row.id)
            assert found is not None
            return found

        return await self.database.write(work)


@pytest_asyncio.fixture
async def shop(database: Database, tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(database, tmp_path / "data")
    yield made
    await made.deployment.close()


def add_dataset(connection: Connection, shop: Shop, place: Path, number: int = 1) -> str:
    digest = hashlib.sha256(ROWS).hexdigest()
    path = place / "rows"
    path.write_bytes(ROWS)
    shop.deployment.artefacts.put("t", digest, path)
    claims.claim(connection, "t", digest, f"dataset/{number}")
    claims.set_size(connection, "t", digest, len(ROWS))
    connection.execute(
        DATASETS.insert().values(
            tenant="t",
            name="d",
            number=number,
            state="ready",
            digest=digest,
            size=len(ROWS),
            rows=3,
            columns=[],
            format="csv",
            lineage={},
            created=0.0,
            created_by="me",
        )
    )
    return digest


def made(directory: Path, onnx_models: SimpleNamespace, factor: float = 2.0) -> Product:
    """A version with a reference, a data set, metrics and a file."""
    (directory / "out" / "version").mkdir(parents=True)
    (directory / "out/version/model.onnx").write_bytes(onnx_models.scale(factor))
    rows = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.savez(directory / "out" / "reference.npz", **{"in:x": rows, "out:y": rows * factor})
    (directory / "out" / "rows.parquet").write_bytes(ROWS)
    (directory / "out" / "report.html").write_text("<p>good</p>")
    version = MadeVersion(
        model="m",
        path="out/version",
        reference="out/reference.npz",
        metrics={"accuracy": 0.9},
        lineage={"recipe": "r"},
        alias="production",
        guard=Guard(),
    )
    dataset = MadeDataset(name="scores", path="out/rows.parquet", rows=3, columns=[])
    return Product(
        versions=[version],
        datasets=[dataset],
        metrics={"accuracy": 0.9},
        files={"report.html": "out/report.html"},
    )


async def test_a_job_finds_what_it_names(
    shop: Shop, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    files = {"model.onnx": onnx_models.scale(3.0)}
    await deploy(shop.deployment, "m", files, ME)
    await shop.database.write(lambda c: add_dataset(c, shop, tmp_path))
    row = await shop.job(kind="evaluate", model="m@1", dataset="d@1")
    place = tmp_path / "job"
    place.mkdir()
    order = await shop.inputs.lay_out(row, place)
    assert (place / order.datasets["d@1"].path).read_bytes() == ROWS
    assert (place / order.versions["m@1"].path / "model.onnx").read_bytes() == files["model.onnx"]
    assert order.datasets["d@1"].dataset.ref == "d@1"
    assert order.versions["m@1"].version.version == 1
    assert order.checkpoint is None


async def test_what_was_erased_meanwhile_is_told(shop: Shop, tmp_path: Path) -> None:
    await shop.database.write(lambda c: add_dataset(c, shop, tmp_path))
    row = await shop.job(kind="train", model="m", dataset="d@1")
    await shop.database.write(lambda c: c.execute(update(DATASETS).values(state="erased")) and None)
    with pytest.raises(NotFound, match="erased"):
        await shop.inputs.lay_out(row, tmp_path)
    row = await shop.job(kind="evaluate", model="gone@1", dataset="d@1")
    with pytest.raises(NotFound):
        await shop.inputs.lay_out(row, tmp_path)


async def test_damaged_rows_are_never_worked_on(shop: Shop, tmp_path: Path) -> None:
    digest = await shop.database.write(lambda c: add_dataset(c, shop, tmp_path))
    stored = shop.deployment.artefacts.local("t", digest)
    assert stored is not None
    stored.write_bytes(b"other rows")
    row = await shop.job(kind="train", model="m", dataset="d@1")
    place = tmp_path / "job"
    place.mkdir()
    with pytest.raises(Corrupt, match="is damaged"):
        await shop.inputs.lay_out(row, place)


async def test_a_checkpoint_is_laid_out(shop: Shop, tmp_path: Path) -> None:
    digest = await shop.database.write(lambda c: add_dataset(c, shop, tmp_path))
    row = await shop.job(kind="train", model="m", dataset="d@1")
    row = row._replace(checkpoint={"sha256": digest, "size": len(ROWS), "step": 7})
    place = tmp_path / "job"
    place.mkdir()
    order = await shop.inputs.lay_out(row, place)
    assert order.checkpoint == LaidCheckpoint(step=7, path="checkpoint")
    assert (place / "checkpoint").read_bytes() == ROWS


async def test_what_was_made_is_kept_once(
    shop: Shop, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    """The second time, as after a crash, gives the same and adds nothing."""
    row = await shop.job(kind="train", model="m", dataset="d@1")
    product = made(tmp_path, onnx_models)
    first = await shop.outputs.keep(row, product, tmp_path)
    assert (first.model, first.versions, first.datasets) == ("m", [1], ["scores@1"])
    assert [file.name for file in first.files] == ["report.html"]
    again = await shop.outputs.keep(row, product, tmp_path)
    assert again == first

    def look(connection: Connection) -> None:
        model = models.get_model(connection, "t", "m")
        version = models.get_version(connection, model, 1)
        assert version.lineage == {"job": row.id, "recipe": "r"}
        assert version.metrics["accuracy"] == 0.9
        assert model.serving.aliases == {"production": 1}
        stored = get_profile(connection, model.id, 1)
        assert stored is not None
        assert (stored.profile.source, stored.profile.rows) == ("training", 100)
        kinds = [entry.kind for entry in history.list_history(connection, model.id)]
        assert sorted(kinds) == ["deployed", "promoted"]
        assert claims.used_by(connection, "t", job_user(row.id)) == {first.files[0].sha256}

    await shop.database.read(look)
    assert [one for _, one in shop.made] == [ROWS, ROWS]
    report = b"".join(shop.deployment.artefacts.pieces("t", first.files[0].sha256))
    assert report == b"<p>good</p>"


async def test_a_second_version_is_rolled_out_under_its_guard(
    shop: Shop, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    """And the rollout is begun once."""
    row = await shop.job(kind="train", model="m", dataset="d@1")
    for at, factor in enumerate((2.0, 3.0)):
        place = tmp_path / str(at)
        place.mkdir()
        product = made(place, onnx_models, factor)
        await shop.outputs.keep(row, product, place)
        await shop.outputs.keep(row, product, place)
    model = await shop.database.read(lambda c: models.get_model(c, "t", "m"))
    assert model.serving.aliases == {"production": 1}
    assert model.serving.rollout is not None
    assert model.serving.rollout.version == 2


async def test_metrics_are_added_to_those_of_a_version(
    shop: Shop, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    await deploy(shop.deployment, "m", {"model.onnx": onnx_models.scale(3.0)}, ME)
    row = await shop.job(kind="evaluate", model="m@1", dataset="d@1")
    product = Product(measured={"m@1": {"d@1": {"accuracy": 0.5}}})
    for _ in range(2):
        await shop.outputs.keep(row, product, tmp_path)

    def look(connection: Connection) -> None:
        model = models.get_model(connection, "t", "m")
        assert models.get_version(connection, model, 1).metrics["d@1"] == {"accuracy": 0.5}
        entries = history.list_history(connection, model.id)
        assert [entry.kind for entry in entries] == ["updated", "deployed"]
        assert entries[0].reason == f"measured by job {row.id}"

    await shop.database.read(look)
