"""A server with state: models of a directory that the registry knows too, so that they are counted.

The directory serves them; the rows are what monitoring asks the registry for.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest
from sqlalchemy import Connection

from aiaas_client.protocol.management import Policy, Serving
from aiaas_server.registry.models import insert_version
from aiaas_server.registry.rows import VersionRow
from aiaas_server.state.database import Database
from aiaas_server.state.migrate import upgrade
from aiaas_server.state.tables import MODELS
from tests.conftest import scale
from tests.server.monitor.staging import ALL, Stage


def prepared_database(data: Path) -> Database:
    """The database of a data directory, with all tables."""
    data.mkdir(exist_ok=True)
    url = f"sqlite:///{data / 'state.db'}"
    upgrade(url)
    return Database(url)


def add_model(
    database: Database,
    name: str = "m",
    versions: tuple[int, ...] = (1,),
    policy: Policy | None = None,
) -> str:
    """A model of the registry whose versions take `x` and give `y`, `[n, 4]`; gives its id."""
    model_id = uuid.uuid4().hex
    values = {"created": time.time(), "created_by": "test"}

    def write(connection: Connection) -> None:
        connection.execute(
            MODELS.insert().values(
                id=model_id,
                tenant="default",
                name=name,
                policy=(policy or Policy()).model_dump(mode="json"),
                serving=Serving(aliases={"production": versions[-1]}).model_dump(mode="json"),
                **values,
            )
        )
        for number in versions:
            insert_version(connection, version_row(model_id, number))

    database.submit(write).result()
    return model_id


def version_row(model_id: str, number: int) -> VersionRow:
    """A verified version."""
    spec = {"datatype": "FP32", "shape": [-1, 4]}
    signature = {"inputs": [{"name": "x", **spec}], "outputs": [{"name": "y", **spec}]}
    return VersionRow(
        model_id, number, f"{number:064x}", "verified", "", 1, [], None, signature, {}, {}, {}, "",
        time.time(), "test",
    )  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A directory with versions 1 and 2 of `m`: twice and three times their input."""
    for version, factor in ((1, 2.0), (2, 3.0)):
        folder = tmp_path / "models" / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(scale(factor))
    config = {"version_policy": {"all": {}}}
    (tmp_path / "models" / "m" / "config.json").write_text(json.dumps(config))
    return tmp_path / "models"


@pytest.fixture
async def make_stage(make_repository):
    """`stage = await make_stage({1: model, 2: model})`: a started pool with all versions."""
    made = []

    async def make(versions, config="", **settings):
        stage = Stage(make_repository({"m": versions}, {"m": ALL % config}), **settings)
        made.append(stage)
        await stage.pool.start()
        return stage

    yield make
    for stage in made:
        await stage.close()


@pytest.fixture
async def stage(make_stage, onnx_models):
    """Versions 1 (`y = 2x`), 2 (the same) and 3 (`y = 3x`) of `m`."""
    scale = onnx_models.scale
    return await make_stage({1: scale(2), 2: scale(2), 3: scale(3)})
