"""Counts of shadows add up over windows and processes, and are written while the server runs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from aiaas_client.protocol.management import Serving, Shadow
from aiaas_server.core.errors import StateUnavailable
from aiaas_server.monitor.comparison import Compared
from aiaas_server.monitor.mirror import Finding
from aiaas_server.monitor.shadow_counts import ShadowCounts, read_shadow, write_shadows
from aiaas_server.registry.models import ensure_model
from aiaas_server.registry.rows import Author
from aiaas_server.state.database import Database, open_engine
from aiaas_server.state.tables import METADATA
from tests.server.monitor.staging import row

MINUTE = 1_700_000_000 // 60 * 60


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """A file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("state") / "empty.db"
    engine = open_engine(f"sqlite:///{path}")
    METADATA.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture
async def database(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "state.db")
    made = Database(f"sqlite:///{tmp_path / 'state.db'}")
    yield made
    made.close()


@pytest.fixture
async def model_id(database):
    model = await database.write(lambda c: ensure_model(c, Author(), "m"))
    return model.id


def some(seed):
    rng = np.random.default_rng(seed)
    counts = ShadowCounts(dropped=int(rng.integers(5)))
    for _ in range(int(rng.integers(1, 30))):
        if rng.random() < 0.2:
            counts.add(Finding(None, failure=f"failed {seed}"))
            continue
        agrees, within = rng.random(2) < 0.5
        compared = Compared(bool(agrees), bool(within), float(rng.random()), 2, 1, "")
        counts.add(Finding(compared, (float(rng.random()), float(rng.random()))))
    return counts


@pytest.mark.parametrize("seed", range(10))
def test_they_add_up_and_survive_json(seed):
    one, two = some(seed), some(100 + seed)
    whole = ShadowCounts.from_json(one.to_json())
    assert whole == one
    whole.merge(ShadowCounts.from_json(two.to_json()))
    assert whole.agreed + whole.disagreed + whole.failed == sum(
        c.agreed + c.disagreed + c.failed for c in (one, two)
    )
    assert whole.largest == max(one.largest, two.largest)
    assert whole.shadow.count == one.shadow.count + two.shadow.count
    assert ShadowCounts.from_json({}) == ShadowCounts()


async def test_windows_of_processes_add_up(database, model_id):
    expected = ShadowCounts()
    for seed, (start, node) in enumerate(
        [(MINUTE, "a"), (MINUTE, "a"), (MINUTE, "b"), (MINUTE + 60, "a")]
    ):
        taken = {(model_id, 2): some(seed)}
        expected.merge(some(seed))
        await database.write(lambda c, s=start, n=node, t=taken: write_shadows(c, s, n, t))
    found = await database.read(lambda c: read_shadow(c, model_id, 2))
    assert found.to_json() | {"last": ""} == expected.to_json() | {"last": ""}
    later = await database.read(lambda c: read_shadow(c, model_id, 2, MINUTE + 60))
    assert later == some(3)
    assert await database.read(lambda c: read_shadow(c, model_id, 3)) == ShadowCounts()


async def test_of_a_model_that_is_gone_nothing_is_kept(database, model_id):
    taken = {("gone", 2): some(1), (model_id, 2): some(2)}
    await database.write(lambda c: write_shadows(c, MINUTE, "a", taken))
    assert await database.read(lambda c: read_shadow(c, model_id, 2)) == some(2)


async def test_what_a_shadow_did_is_written_and_kept_where_it_cannot_be(stage, database, model_id):
    stage.shadows.follow(model_id, "m", Serving(shadow=Shadow(version=2)))
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    with pytest.raises(StateUnavailable):
        await stage.shadows.flush(_Away())
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    await stage.shadows.flush(database)
    assert (await database.read(lambda c: read_shadow(c, model_id, 2))).agreed == 2
    await stage.ask(1, row(1, 1, 1, 1))
    await stage.idle()
    stage.shadows.start(database)
    await stage.shadows.close(database)
    assert (await database.read(lambda c: read_shadow(c, model_id, 2))).agreed == 3
    assert stage.version(1).scheduler.tap is None


class _Away:
    async def write(self, work):
        raise StateUnavailable("away")
