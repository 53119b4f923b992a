"""Guarded rollouts over the real scheduler and runtime: the guard sees what callers see."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
import pytest

from aiaas_client.protocol.management import Serving
from aiaas_server.core.errors import ServerError
from aiaas_server.core.events import CALLER, Caller
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.monitor.shadow import Shadows
from aiaas_server.registry.rollout import share_of_new
from aiaas_server.registry.rollouts import Rollouts
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests.graphs import fails_at, takes_long

pytestmark = pytest.mark.slow

ALL = '{"version_policy": {"all": {}}}'
CALLERS = 4


class Site:
    """A server's inside: a pool with versions 2 and 3 of `m`, and a rollout that is watched."""

    def __init__(self, process, root):
        self.process = process
        self.pool = ModelPool(
            Repository(root),
            open_session,
            Settings(),
            [process.counts],
            give_back=lambda: None,
            choose=self._choose,
        )
        self.shadows = Shadows(
            self.pool.find, self.pool.models, node="a", mirrored=process.counts.mirrored
        )
        self.rollouts = Rollouts(
            process.database, process.rollouts._judge, process.counts, node="a", told=self._told
        )
        self.serving = Serving(aliases={"production": 2})
        self.ended = asyncio.Event()
        self.kinds = []
        self.reason = ""
        self.refused = 0
        self._numbers = itertools.count()

    def _choose(self, name, caller):
        rollout = self.serving.rollout
        if rollout is None:
            return self.serving.aliases["production"]
        drawn = int(caller.request_id) * 37 % 100 / 100
        return rollout.version if drawn < share_of_new(rollout) else rollout.stable

    async def _told(self, transition):
        self.follow(transition.model)
        self.kinds.append(transition.kind)
        self.reason = transition.reason
        if transition.model.serving.rollout is None:
            self.ended.set()

    def follow(self, model):
        self.serving = model.serving
        self.shadows.follow(model.id, "m", model.serving)

    async def roll_out(self, **guard):
        """Start the rollout, and send traffic until it has ended, and a little longer."""
        await self.pool.start()
        self.rollouts.start()
        self.process.rollouts = self.rollouts
        self.follow(await self.process.begin(**{"window": 0.3, "steps": [0.2, 0.5, 1.0], **guard}))
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call())
        before = self.process.counts.taken("m")
        assert before == {}
        for _ in range(50):
            await self._ask()

    async def _call(self):
        while not self.ended.is_set():
            await self._ask()
            await asyncio.sleep(0.001)

    async def _ask(self):
        number = next(self._numbers)
        CALLER.set(caller := Caller(str(number)))
        x = np.full((1, 4), number % 10, np.float32)
        try:
            outcome = await self.pool.resolve("m", self._choose("m", caller)).infer({"x": x})
        except ServerError:
            self.refused += 1
        else:
            assert outcome.outputs["y"].shape == (1, 4)

    async def close(self):
        await self.rollouts.close()
        self.shadows.forget("m")
        await self.pool.close()


@pytest.fixture
async def make_site(process, make_repository):
    made = []

    async def make(stable, new):
        made.append(Site(process, make_repository({"m": {2: stable, 3: new}}, {"m": ALL})))
        return made[-1]

    yield make
    for site in made:
        await site.close()


async def test_a_good_version_is_promoted_through_all_steps(make_site, onnx_models):
    site = await make_site(onnx_models.scale(2), onnx_models.scale(2))
    await site.roll_out(max_disagreement=0.01)
    assert site.kinds == ["rollout_advanced", "rollout_advanced", "promoted"]
    assert site.process.model().serving == Serving(aliases={"production": 3})
    assert site.refused == 0


async def test_a_version_made_slow_goes_back_by_itself(make_site):
    site = await make_site(takes_long(1), takes_long(3000))
    await site.roll_out(max_p99_ratio=1.5, steps=[0.05, 1.0])
    assert site.kinds[-1] == "rolled_back"
    assert "the 99th percentile of" in site.reason
    assert "times that of the old version" in site.reason
    assert site.process.model().serving == Serving(aliases={"production": 2})
    assert site.refused == 0


async def test_a_version_made_to_fail_goes_back_by_itself(make_site):
    site = await make_site(fails_at(10), fails_at(5))
    await site.roll_out()
    assert site.kinds == ["rolled_back"]
    assert "requests failed or were turned away (" in site.reason
    assert site.process.model().serving == Serving(aliases={"production": 2})
    assert site.refused > 0
    failed = site.refused
    for _ in range(50):
        await site._ask()
    assert site.refused == failed  # the old version answers all of them


async def test_a_version_made_wrong_goes_back_by_itself(make_site, onnx_models):
    site = await make_site(onnx_models.scale(2), onnx_models.scale(3))
    await site.roll_out(max_disagreement=0.05)
    assert site.kinds == ["rolled_back"]
    assert "mirrored requests were answered differently" in site.reason
    assert site.process.model().serving == Serving(aliases={"production": 2})
    assert site.refused == 0
