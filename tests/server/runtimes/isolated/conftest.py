"""Sessions in processes of their own, closed at the end, and a model beside them that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.runtimes.isolated.keeper import Terms
from aiaas_server.runtimes.isolated.orders import Order
from aiaas_server.runtimes.sandbox import SandboxedSession
from tests.graphs import model, value
from tests.server.runtimes.graphs import node

HERE = "tests.server.runtimes.isolated"
X = np.arange(4, dtype=np.float32).reshape(1, 4)

Open = Callable[..., SandboxedSession]


def doubles() -> bytes:
    return model([node("Add", ["x", "x"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])])


@pytest.fixture
def opened() -> Iterator[Open]:
    """`opened(graph, name, **terms)`: a session; `memory` are bytes, `threads` a number."""
    sessions: list[SandboxedSession] = []

    def make(
        graph: bytes = b"",
        name: str = "m",
        *,
        memory: int = 1 << 30,
        threads: int = 1,
        filters: bool = True,
        **terms: Any,
    ) -> SandboxedSession:
        order = Order(
            path=None,
            size=len(graph),
            config=ModelConfig(name=name),
            threads=threads,
            memory_bytes=memory,
            filters=filters,
        )
        session = SandboxedSession(order, graph, name=name, terms=Terms(**terms))
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()
    for session in sessions:
        session.wait_closed(60)


@pytest.fixture(scope="module")
def beside() -> Iterator[Callable[[], None]]:
    """Have another model, in a process of its own as well, answer a request."""
    graph = doubles()
    order = Order(
        path=None,
        size=len(graph),
        config=ModelConfig(name="beside"),
        threads=1,
        memory_bytes=1 << 30,
        filters=True,
    )
    session = SandboxedSession(order, graph, name="beside")

    def answers() -> None:
        assert session.run({"x": X}, ["y"])[0].tolist() == (2 * X).tolist()

    yield answers
    session.close()
    session.wait_closed(60)
