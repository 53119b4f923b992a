"""Clients that leave, crowd in or send too much, against a whole server."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import wait_until


@pytest.fixture
def models(make_repository: Any, onnx_models: SimpleNamespace) -> Path:
    """The `busy` model, one run at a time."""
    one = json.dumps({"instance_group": [{"count": 1}]})
    repository: Path = make_repository({"busy": onnx_models.busy()}, configs={"busy": one})
    return repository


def request(steps: int) -> bytes:
    """A whole inference request that runs `steps` matrix products."""
    tensor = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = b"POST /v2/models/busy/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def pending(server: Any) -> int:
    """Requests taken and not answered; -1 while no connection is free for the question."""
    name = 'nv_inference_pending_request_count{model="busy"'
    try:
        status, text = server.get("/metrics")
    except ConnectionError:
        return -1
    if status != 200:
        return -1
    found = [line for line in text.decode().splitlines() if line.startswith(name)]
    return int(float(found[0].split()[-1]))


def cancelled(server: Any) -> int:
    """Requests whose client left."""
    lines = server.get("/metrics")[1].decode().splitlines()
    name = "nv_inference_request_failure{"
    found = [x for x in lines if x.startswith(name) and 'reason="CANCELED"' in x]
    return sum(int(float(line.split()[-1])) for line in found)


def test_clients_that_leave_take_their_queued_and_running_work_along(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--models", models)
    with server.connect() as first:
        first.sendall(request(2000))  # shows the server that this model needs a thread
        assert first.recv(15).startswith(b"HTTP/1.1 200 OK")
    began = time.monotonic()
    asking = [server.connect() for _ in range(3)]
    for sock in asking:
        sock.sendall(request(50_000_000))  # far longer than the test
    wait_until(lambda: pending(server) == 3)
    for sock in reversed(asking):
        sock.close()
    wait_until(lambda: cancelled(server) == 3 and pending(server) == 0)
    with server.connect() as again:
        again.sendall(request(1))
        assert again.recv(15).startswith(b"HTTP/1.1 200 OK")
    assert time.monotonic() - began < 60


def test_more_idle_connections_than_allowed_leave_the_server_working(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--models", models, "--max-connections", "20", header_timeout="0.5")
    crowd = [server.connect() for _ in range(100)]
    told = [sock.recv(200) for sock in crowd]
    assert any(b"HTTP/1.1 503" in text for text in told)
    for sock in crowd:
        sock.close()
    wait_until(lambda: server.get("/v2/health/ready")[0] == 200)


def test_a_body_over_the_limit_is_refused_before_it_is_sent(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--max-body-bytes", "1000")
    with server.connect() as sock:
        sock.sendall(
            b"POST /v2/models/busy/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 413")


def test_a_request_that_stops_half_way_is_told_so(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, body_timeout="0.3")
    with server.connect() as sock:
        sock.sendall(request(1)[:-5])
        assert sock.recv(100).startswith(b"HTTP/1.1 408")


def test_many_clients_that_leave_at_once_leave_nothing_behind(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--models", models)

    def storm() -> None:
        for _ in range(50):
            with server.connect() as sock:
                sock.sendall(request(100))

    threads = [threading.Thread(target=storm) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_until(lambda: pending(server) == 0)
    with server.connect() as sock:
        sock.sendall(request(1))
        assert sock.recv(15).startswith(b"HTTP/1.1 200 OK")
    server.signal()
    assert server.exit_code() == 0
