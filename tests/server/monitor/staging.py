"""A pool over real files and the real onnxruntime whose versions can be shadows of each other."""

from __future__ import annotations

import threading

import numpy as np

from aiaas_client.protocol.management import Serving
from aiaas_server.core.errors import InferenceFailed
from aiaas_server.core.events import CALLER, Caller
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.monitor.shadow import Shadows
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests.waiting import until

ALL = '{"version_policy": {"all": {}}%s}'


class Stage:
    """Versions of a model `m`; a test holds up runs of one, or makes them fail.

    Attributes:
        records: Every record that an observer got.
        held: Versions whose runs wait until `let_go`.
        failing: Versions whose runs fail.
        began: Set when a held run began.
    """

    def __init__(self, root, **settings):
        self.records = []
        self.held = set()
        self.failing = set()
        self.began = threading.Event()
        self._gate = threading.Event()
        self.pool = ModelPool(
            Repository(root),
            self._open,
            Settings(**settings),
            [self.records.append],
            measure=lambda: 0,
            give_back=lambda: None,
        )
        self.judged = []
        self.shadows = Shadows(
            self.pool.find,
            self.pool.models,
            node="a",
            mirrored=self._judge,
            wall=lambda: 1_700_000_000.0,
        )

    def _judge(self, name, version, *, agrees):
        self.judged.append((name, version, agrees))

    def _open(self, path, config):
        version, session = int(path.parent.name), open_session(path, config)
        run = session.run

        def watched(inputs, outputs, stop=None):
            if version in self.held:
                if stop is not None:
                    stop.on_stop(self._gate.set)
                self.began.set()
                assert self._gate.wait(60)
            if version in self.failing:
                raise InferenceFailed("made to fail")
            return run(inputs, outputs, stop)

        session.run = watched
        return session

    def let_go(self):
        self._gate.set()

    def follow(self, serving: Serving, name="m"):
        """As the registry does: take note of the document."""
        return self.shadows.follow("id-" + name, name, serving)

    def version(self, number, name="m"):
        return self.pool.resolve(name, number)

    async def ask(self, version, x, request_id="r", **options):
        CALLER.set(Caller(request_id))
        return (await self.version(version).infer({"x": x}, **options)).outputs["y"]

    def mirror(self, name="m"):
        of = self.shadows._models[name]
        return of.shadow or of.trial

    async def idle(self):
        await idle(self.mirror())

    def counts(self, version, name="m"):
        """What was counted so far; it goes on counting."""
        watch = self.shadows._watches["id-" + name, version]
        taken = watch.taken()
        watch.put_back(taken)
        return taken

    async def close(self):
        self.let_go()
        for name in list(self.shadows._models):
            self.shadows.forget(name)
        await self.pool.close()


async def idle(mirror):
    """Wait until no copy waits or runs."""
    await until(lambda: not (mirror._new or mirror.waiting or mirror._tasks))


def row(*values):
    """One row that nobody can write to, as a request's body gives it."""
    made = np.array([values], np.float32)
    made.flags.writeable = False
    return made
