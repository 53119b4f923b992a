"""Promotions and rollbacks under load: no request fails, and all answers are right."""

from __future__ import annotations

import threading
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_client import Client
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import LiveServer, serving
from tests.server.registry.bringing import Bringer
from tests.waiting import wait_until

SWAPS = 100
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


class Caller(threading.Thread):
    """Calls `m` on one connection after the other answer, and checks each answer.

    Attributes:
        seen: Version to how many answers it gave.
        wrong: What went wrong, if anything.
    """

    def __init__(self, url: str, stop: threading.Event, how: str) -> None:
        super().__init__()
        self._url = url
        self._stop_asked = stop
        self._how = how
        self.seen: dict[int, int] = {}
        self.wrong: list[str] = []

    def run(self) -> None:
        with Client(self._url, max_retries=0) as client:
            while not self._stop_asked.is_set() and not self.wrong:
                try:
                    self._call(client)
                except Exception as error:
                    self.wrong.append(repr(error))

    def _call(self, client: Client) -> None:
        version = "canary" if self._how == "alias" else None
        answer = client.infer("m", {"x": ROWS}, version=version)
        served = int(answer.model_version)
        if not np.array_equal(answer["y"], ROWS * served):
            self.wrong.append(f"version {served} answered {answer['y']}")
        self.seen[served] = self.seen.get(served, 0) + 1


def ask(server: LiveServer, method: str, path: str, body: bytes = b"{}") -> Any:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        headers = {"content-type": "application/json"}
        connection.request(method, f"/api/v1/models/m/{path}", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("lane", [True, False], ids=["lane", "asgi"])
def test_no_request_fails_while_versions_come_and_go(
    bringer: Bringer, data: Path, models: Path, onnx_models: SimpleNamespace, lane: bool
) -> None:
    for factor in (1.0, 2.0, 3.0):
        bringer.bring("m", onnx_models.scale(factor))
    app = create_app(Settings(data=data, models=models))
    with serving(app, lane=lane) as server:
        ask(server, "PUT", "aliases/production", b'{"version": 1}')
        ask(server, "PUT", "aliases/canary", b'{"version": 1}')
        stop = threading.Event()
        callers = [Caller(server.url, stop, how) for how in ("", "", "", "alias")]
        for caller in callers:
            caller.start()
        try:
            for swap in range(SWAPS):
                before = sum(sum(caller.seen.values()) for caller in callers)
                if swap % 4 == 3:
                    ask(server, "POST", "rollback")
                elif swap % 4 == 2:
                    version = b'{"version": %d}' % (swap % 2 + 2)
                    ask(server, "PUT", "aliases/canary", version)
                else:
                    ask(server, "PUT", "aliases/production", b'{"version": %d}' % (swap % 3 + 1))
                wait_until(  # each state is called a while
                    lambda n=before: (
                        any(caller.wrong for caller in callers)  # type: ignore[misc]
                        or sum(sum(caller.seen.values()) for caller in callers) > n + 8
                    )
                )
        finally:
            stop.set()
            for caller in callers:
                caller.join(60)
        assert [wrong for caller in callers for wrong in caller.wrong] == []
        assert {version for caller in callers for version in caller.seen} == {1, 2, 3}
        pool = app.pool
        wait_until(lambda: not pool._unloader.ending, "what was retired is closed")
        assert len(pool.ready_versions("m")) <= 2
