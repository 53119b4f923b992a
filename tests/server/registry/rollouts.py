"""A database with one model of three versions, and processes that watch its rollouts."""

from __future__ import annotations

import time

from aiaas_client.protocol.management import Guard, PromoteRequest, Serving
from aiaas_server.core.events import NOBODY, InferenceRecord, Units
from aiaas_server.monitor.guard import judge
from aiaas_server.monitor.steps import StepCounts
from aiaas_server.registry.history import list_history
from aiaas_server.registry.models import (
    ensure_model,
    get_model,
    insert_version,
    set_state,
    take_number,
    update_model,
)
from aiaas_server.registry.rollouts import Rollouts
from aiaas_server.registry.rows import Author, VersionRow
from aiaas_server.state.changes import changes_after
from aiaas_server.state.database import Database

AUTHOR = Author(by="ann", request_id="r-1")


def three_versions(connection, name="m", production=2):
    """Model `m` with verified versions 1, 2, 3; `production` points at 2."""
    model = ensure_model(connection, AUTHOR, name)
    for _ in range(3):
        number = take_number(connection, model, None)
        insert_version(
            connection,
            VersionRow(
                model.id, number, f"{number:064}", "verified", "", 1, [], None, {}, {}, {}, {}, "",
                time.time(), "ann",
            ),
        )  # fmt: skip
    if production is not None:
        update_model(connection, model, serving=Serving(aliases={"production": production}))
    return get_model(connection, "default", name)


class Process:
    """One process that watches rollouts, with clocks that a test turns."""

    def __init__(self, url, node):
        self.database = Database(url)
        self.counts = StepCounts()
        self.now = 1000.0
        self.wall = 1_700_000_000.0
        self.told = []
        self.node = node
        self.rollouts = self.made()

    def made(self):
        return Rollouts(
            self.database,
            judge,
            self.counts,
            node=self.node,
            told=self._tell,
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    async def _tell(self, transition):
        self.told.append((transition.kind, transition.version, transition.reason))

    def restart(self, node):
        """The same database, nothing in memory, and other clocks."""
        self.node, self.counts, self.now = node, StepCounts(), 5.0
        self.rollouts = self.made()
        self.rollouts.follow(self.model())

    def model(self, name="m"):
        return self.database.read_now(lambda c: get_model(c, "default", name))

    async def write(self, work, *args, **named):
        return await self.database.write(lambda c: work(c, *args, **named))

    async def corrupt(self, version):
        model = self.model()
        await self.write(set_state, model.id, version, "corrupt", "its bytes are damaged")

    async def begin(self, version=3, name="m", note="", alias="production", **guard):
        guard = Guard(**{"window": 10.0, "steps": [0.1, 0.5, 1.0], "min_requests": 10, **guard})
        request = PromoteRequest(version=version, guard=guard, note=note)
        return await self.rollouts.begin(AUTHOR, name, request, alias)

    def answered(self, version, count=1, seconds=0.01, failure=None, caller=NOBODY, name="m"):
        for _ in range(count):
            record = InferenceRecord(
                name, version, Units(1), 1, 0.0, seconds, seconds, failure, caller
            )
            self.counts(record)

    async def after(self, seconds):
        """Look when so many seconds have passed; the kinds of what this process changed."""
        self.now += seconds
        self.wall += seconds
        return [transition.kind for transition in await self.rollouts.look()]

    def history(self):
        model = self.model()
        return self.database.read_now(lambda c: list_history(c, model.id))[::-1]

    def changes(self, kind="rollout"):
        found = self.database.read_now(lambda c: changes_after(c, 0))
        return [change.data for change in found if change.kind == kind]

    async def close(self):
        await self.rollouts.close()
        self.database.close()
