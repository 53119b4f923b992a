"""SIGTERM: not ready at once, everything accepted is answered, exit code 0 in bounded time."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.ports import free_port
from tests.waiting import wait_until

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


def workers_of(server: Any) -> list[psutil.Process]:
    """The worker processes."""
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


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


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["term", "int", "hup"]
)
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
    wait_until(lambda: server.get("/v2/health/live")[0] != 200 or pending(server) >= 2)
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
    server.to_the_end()
    begun = server.line("stopping: requests to answer: ", 0)
    assert int(begun.partition("answer: ")[2].partition(",")[0]) >= 2
    assert server.lines[-1].endswith("INFO stopped")
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
    wait_until(lambda: pending(server) >= 1 or asking.status is not None)
    server.signal()
    assert server.exit_code(10) == 0
    asking.join(10)
    assert asking.status == 503
    assert asking.headers["connection"] == "close"
    assert asking.headers["x-request-id"]


def test_a_second_signal_ends_at_once(start_aiaas: Any, busy_models: Path) -> None:
    server = start_aiaas("--models", busy_models)
    asking = Asking(server, second_of_work(server) * 20)
    asking.start()
    wait_until(lambda: pending(server) >= 1 or asking.status is not None)
    server.signal()
    wait_until(lambda: server.get("/v2/health/ready")[0] == 503)
    server.signal()
    assert server.exit_code(5) == 128 + signal.SIGTERM
    asking.join(10)


def test_a_terminal_that_closes_twice_over_does_not_cut_the_drain(
    start_aiaas: Any, busy_models: Path
) -> None:
    server = start_aiaas("--models", busy_models)
    asking = Asking(server, second_of_work(server))
    asking.start()
    wait_until(lambda: pending(server) >= 1 or asking.status is not None)
    server.signal(signal.SIGHUP)
    wait_until(lambda: server.get("/v2/health/ready")[0] == 503)
    server.signal(signal.SIGHUP)
    asking.join(30)
    assert asking.status == 200
    assert server.exit_code(10) == 0


@pytest.fixture
def nohup() -> Iterator[None]:
    """Processes started meanwhile ignore SIGHUP, as those of the command `nohup` do."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("nohup")
def test_a_server_under_nohup_outlives_its_terminal(
    start_aiaas: Any, busy_models: Path, workers: str
) -> None:
    server = start_aiaas("--models", busy_models, "--workers", workers)
    for process in (psutil.Process(server.process.pid), *workers_of(server)):
        process.send_signal(signal.SIGHUP)
    assert server.get("/v2/health/ready")[0] == 200
    server.signal()
    assert server.exit_code() == 0
    assert "starting it again" not in "\n".join(server.lines)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_signal_that_means_nothing_here_ends_nothing(
    start_aiaas: Any, busy_models: Path, workers: str
) -> None:
    server = start_aiaas("--models", busy_models, "--workers", workers)
    for process in (psutil.Process(server.process.pid), *workers_of(server)):
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGUSR2)
    assert server.get("/v2/health/ready")[0] == 200
    server.signal()
    assert server.exit_code() == 0
    server.line("", 1)
    assert "starting it again" not in "\n".join(server.lines)


def test_the_port_is_free_again_at_once(start_aiaas: Any, busy_models: Path) -> None:
    port = str(free_port())
    first = start_aiaas("--models", busy_models, "--port", port)
    first.get("/v2")
    first.signal()
    assert first.exit_code() == 0
    second = start_aiaas("--models", busy_models, "--port", port)
    assert second.get("/v2/health/live")[0] == 200
