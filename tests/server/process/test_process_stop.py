"""SIGTERM: not ready at once, everything accepted is answered, exit code 0 in bounded time."""

from __future__ import annotations

import json
import signal
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

INFER = "/v2/models/busy/infer"


def body(steps: int) -> bytes:
    """A request that runs `steps` matrix products."""
    tensor = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.fixture
def busy_models(make_repository: Any, onnx_models: SimpleNamespace) -> Path:
    """A repository with the `busy` model, one run at a time, and a tiny one beside it."""
    one = json.dumps({"instance_group": [{"count": 1}]})
    models: Path = make_repository(
        {"busy": onnx_models.busy(), "tiny": onnx_models.identity()}, configs={"busy": one}
    )
    return models


def second_of_work(server: Any) -> int:
    """How many steps take about a second; the model has its own thread after this."""
    connection = server.http()
    for _ in range(2):
        began = time.perf_counter()
        connection.request("POST", INFER, body(2000))
        assert connection.getresponse().read()
        seconds = time.perf_counter() - began
    connection.close()
    return int(2000 / seconds)


class Asking(threading.Thread):
    """A request in a thread of its own."""

    def __init__(self, server: Any, steps: int) -> None:
        super().__init__()
        self.connection: HTTPConnection = server.http()
        self.connection.connect()
        self.steps = steps
        self.status: int | None = None
        self.headers: Any = None

    def run(self) -> None:
        try:
            self.connection.request("POST", INFER, body(self.steps))
            answer = self.connection.getresponse()
            answer.read()
            self.status, self.headers = answer.status, answer.headers
        except OSError:
            self.status = 0
        finally:
            self.connection.close()


def pending(server: Any) -> int:
    """Inference requests of `busy` that the server has taken and not answered."""
    text = server.get("/metrics")[1].decode()
    name = 'nv_inference_pending_request_count{model="busy"'
    line = next((line for line in text.splitlines() if line.startswith(name)), " 0")
    return int(float(line.split()[-1]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_an_idle_server_stops_at_once_with_code_0(
    start_aiaas: Any, busy_models: Path, number: int
) -> None:
    server = start_aiaas("--models", busy_models)
    idle = server.http()
    idle.request("GET", "/v2")
    idle.getresponse().read()
    fresh = server.connect()
    server.signal(number)
    assert server.exit_code(10) == 0
    assert idle.sock is not None
    assert idle.sock.recv(1) == b""
    assert fresh.recv(1) == b""
    idle.close()
    fresh.close()


def test_running_and_queued_work_is_answered_while_the_server_is_not_ready(
    start_aiaas: Any, busy_models: Path
) -> None:
    server = start_aiaas("--models", busy_models)
    probe = server.http()
    probe.request("GET", "/v2/health/ready")
    assert probe.getresponse().read() == b'{"ready":true}'
    steps = second_of_work(server)
    asking = [Asking(server, steps) for _ in range(3)]
    for thread in asking:
        thread.start()
    while server.get("/v2/health/live")[0] == 200 and pending(server) < 2:
        time.sleep(0.01)
    server.signal()
    statuses = set()
    while 503 not in statuses:
        statuses.add(server.get("/v2/health/ready")[0])
    assert statuses <= {200, 503}
    assert server.get("/v2/health/live")[0] == 200
    refused = Asking(server, 1)
    refused.run()
    assert refused.status == 503
    probe.request("GET", "/v2/health/ready")
    answer = probe.getresponse()
    assert (answer.status, answer.getheader("connection")) == (503, "close")
    answer.read()
    for thread in asking:
        thread.join(30)
    assert [thread.status for thread in asking] == [200, 200, 200]
    assert all(thread.headers["connection"] == "close" for thread in asking)
    assert server.exit_code(10) == 0
    probe.close()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /v2 HT", id="half-a-request-line"),
        pytest.param(b"GET /v2 HTTP/1.1\r\nHost: a\r\n", id="half-a-header"),
        pytest.param(
            b"POST /v2/models/busy/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{",
            id="half-a-body",
        ),
    ],
)
def test_a_stalled_connection_does_not_keep_the_server(
    start_aiaas: Any, busy_models: Path, sent: bytes
) -> None:
    server = start_aiaas("--models", busy_models, drain_timeout="0.5")
    stalled = server.connect()
    stalled.sendall(sent)
    assert server.get("/v2/health/live")[0] == 200
    server.signal()
    assert server.exit_code(10) == 0
    stalled.close()


def test_work_that_takes_longer_than_the_drain_is_cut(start_aiaas: Any, busy_models: Path) -> None:
    server = start_aiaas("--models", busy_models, drain_timeout="0.5")
    asking = Asking(server, second_of_work(server) * 60)
    asking.start()
    while pending(server) < 1 and asking.status is None:
        time.sleep(0.01)
    server.signal()
    assert server.exit_code(10) == 0
    asking.join(10)
    assert asking.status in (0, 503)


def test_a_second_signal_ends_at_once(start_aiaas: Any, busy_models: Path) -> None:
    server = start_aiaas("--models", busy_models)
    asking = Asking(server, second_of_work(server) * 20)
    asking.start()
    while pending(server) < 1 and asking.status is None:
        time.sleep(0.01)
    server.signal()
    while server.get("/v2/health/ready")[0] != 503:
        time.sleep(0.01)
    server.signal()
    assert server.exit_code(5) == 128 + signal.SIGTERM
    asking.join(10)


def test_the_port_is_free_again_at_once(start_aiaas: Any, busy_models: Path) -> None:
    first = start_aiaas("--models", busy_models)
    first.get("/v2")
    first.signal()
    assert first.exit_code() == 0
    second = start_aiaas("--models", busy_models, "--port", str(first.port))
    assert second.get("/v2/health/live")[0] == 200
