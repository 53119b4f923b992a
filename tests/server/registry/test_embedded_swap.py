"""The registry's models in the caller's own process and threads."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aiaas_client.protocol.management import PromoteRequest
from aiaas_server.core.errors import VersionNotFound
from aiaas_server.embedded import EmbeddedServer
from aiaas_server.registry.registry import Registry
from aiaas_server.settings import Settings
from tests.server.registry.bringing import AUTHOR, Bringer
from tests.waiting import wait_until

ONES = {"x": np.ones((1, 4), np.float32)}


def test_runs_in_the_callers_threads_go_on_while_versions_come_and_go(
    bringer: Bringer, data: Path, models: Path, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0):
        bringer.bring("m", onnx_models.scale(factor))
    server = EmbeddedServer(Settings(data=data, models=models))
    registry = Registry(bringer.database)
    stop = threading.Event()
    seen: list[int] = []
    wrong: list[object] = []

    def call() -> None:
        while not stop.is_set() and not wrong:
            try:
                model, outcome = server.infer("m", None, ONES, ())
                if outcome.outputs["y"][0, 0] != model.version:
                    wrong.append((model.version, outcome.outputs))
                seen.append(model.version)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    try:
        server.start()
        for thread in threads:
            thread.start()
        for swap in range(12):
            version = swap % 2 + 1
            asked = PromoteRequest(version=version)
            server.submit(registry.promote(AUTHOR, "m", asked)).result()
            wait_until(lambda v=version: bool(wrong) or seen[-1:] == [v])  # type: ignore[misc]
        model, _ = server.infer("m", "production", ONES, ())
        assert model.version == 2
        with pytest.raises(VersionNotFound, match="'canary' is not found"):
            server.infer("m", "canary", ONES, ())
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        server.close()
    assert wrong == []
    assert set(seen) == {1, 2}
