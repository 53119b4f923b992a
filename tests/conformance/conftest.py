"""A loopback server for clients that other people wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aiaas_client.protocol.tensors import Array
from aiaas_server.app import Application
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.session import GraphFacts, Session, StopToken
from aiaas_server.core.signature import TensorSpec
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests.server.http.serving import LiveServer, serving


class Bf16Identity:
    """`x -> y`, BF16 `[batch, n]`: onnxruntime takes that type only inside a graph."""

    inputs = (TensorSpec("x", "BF16", (-1, -1)),)
    outputs = (TensorSpec("y", "BF16", (-1, -1)),)
    batch_symbols = ("batch", "batch")
    providers = ("CPUExecutionProvider",)
    metadata: Mapping[str, str] = {}
    graph = GraphFacts()

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        return [inputs["x"].copy() for _ in outputs]

    def close(self) -> None:
        """Nothing is held."""


def open_any(model: Path | bytes, config: ModelConfig) -> Session:
    """onnxruntime for every model but the one it cannot serve."""
    if isinstance(model, Path) and model.parent.parent.name == "bf16":
        return Bf16Identity()
    return open_session(model, config)


Serve = Callable[..., LiveServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`server = serve(repository, **settings)`: a loopback server, stopped afterwards."""
    with ExitStack() as stack:

        def make(repository: Path, **given: Any) -> LiveServer:
            settings = Settings(models=repository, **given)
            pool = ModelPool(Repository(repository), open_any, settings)
            return stack.enter_context(serving(Application(pool, settings)))

        yield make
