"""Pools over real files and the real onnxruntime, whose opening a test can hold up."""

from __future__ import annotations

import threading

import pytest

from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings


class Opener:
    """Opens sessions; those of the models named in `held` wait until `let_go`.

    Attributes:
        opened, closed: Names of models, in order.
    """

    def __init__(self):
        self.held = set()
        self.opened = []
        self.closed = []
        self._gate = threading.Event()

    def __call__(self, path, config):
        name = path.parent.parent.name
        self.opened.append(name)
        if name in self.held:
            self._gate.wait(20)
        session = open_session(path, config)
        close = session.close
        session.close = lambda: (self.closed.append(name), close())
        return session

    def let_go(self):
        self._gate.set()


@pytest.fixture
def opener():
    made = Opener()
    yield made
    made.let_go()


@pytest.fixture
async def make_pool(opener):
    """`pool = await make_pool(root, **settings)`: a started pool, closed afterwards."""
    made = []

    async def make(
        root,
        open_model=opener,
        *,
        start=True,
        patience=60.0,
        choose=None,
        names=None,
        give_back=lambda: None,
        **settings,
    ):
        pool = ModelPool(
            Repository(root),
            open_model,
            Settings(**settings),
            measure=lambda: 0,
            give_back=give_back,
            patience=patience,
            choose=choose,
            names=names,
        )
        made.append(pool)
        if start:
            await pool.start()
        return pool

    yield make
    for pool in made:
        await pool.close()


@pytest.fixture
def repository(make_repository, onnx_models):
    return make_repository({name: onnx_models.scale(2) for name in ("a", "b", "c")})
