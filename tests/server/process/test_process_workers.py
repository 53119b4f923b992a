"""Several workers on one port: all serve, a dead one comes back, all stop together."""

from __future__ import annotations

import json
import os
import signal
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow


def worker_of(server: Any) -> str:
    """Which worker answers a new connection."""
    connection = server.http()
    try:
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        answer.read()
        return f"{answer.status} {answer.getheader('x-aiaas-worker')}"
    finally:
        connection.close()


def turns_away(server: Any) -> bool:
    """Whether a new request is refused, be it by a worker that has already gone."""
    try:
        return worker_of(server).startswith("503")
    except (ConnectionError, HTTPException):
        return True


def workers_of(server: Any) -> list[psutil.Process]:
    """The worker processes."""
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def seen(server: Any, wanted: set[str]) -> None:
    """Ask until all of `wanted` have answered."""
    found: set[str] = set()
    end = time.monotonic() + 60
    while not wanted <= found:
        assert time.monotonic() < end, found
        try:
            found.add(worker_of(server))
        except ConnectionError:
            continue  # a connection that waited in the backlog of the one that died


def test_all_workers_serve_one_port_and_say_who_they_are(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--workers", "2")
    assert any(line.startswith("  workers  2") for line in server.lines)
    seen(server, {"200 1/2", "200 2/2"})
    server.signal()
    assert server.exit_code() == 0


def test_a_dead_worker_is_replaced(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--workers", "2")
    victim = workers_of(server)[0]
    victim.send_signal(signal.SIGKILL)
    server.line("starting it again")
    seen(server, {"200 1/2", "200 2/2"})
    assert victim.pid not in {process.pid for process in workers_of(server)}
    server.signal()
    assert server.exit_code() == 0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["term", "int", "hup"]
)
def test_a_signal_to_the_whole_group_is_an_orderly_stop(
    start_aiaas: Any, models: Path, number: int
) -> None:
    server = start_aiaas("--models", models, "--workers", "2")
    workers = workers_of(server)
    for process in workers:
        process.send_signal(number)
    server.signal(number)
    assert server.exit_code() == 0
    assert psutil.wait_procs(workers, timeout=120)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
def test_a_signal_to_one_worker_replaces_it(start_aiaas: Any, models: Path, number: int) -> None:
    server = start_aiaas("--models", models, "--workers", "2")
    victim = workers_of(server)[0]
    victim.send_signal(number)
    assert " INFO " in server.line("ended with code 0; starting it again")
    seen(server, {"200 1/2", "200 2/2"})
    assert victim.pid not in {process.pid for process in workers_of(server)}
    server.signal(number)
    assert server.exit_code() == 0


def test_the_logs_of_all_workers_are_json_lines(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--workers", "2", "--json-logs", until="")
    workers_of(server)[0].send_signal(signal.SIGKILL)
    server.line("starting it again")
    seen(server, {"200 1/2", "200 2/2"})
    server.signal()
    assert server.exit_code() == 0
    server.to_the_end()
    told = [json.loads(line) for line in server.lines]
    assert {one["logger"] for one in told} == {"aiaas_server"}


def test_workers_do_not_outlive_a_parent_that_was_killed(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--workers", "2")
    workers = workers_of(server)
    os.kill(server.process.pid, signal.SIGKILL)
    assert psutil.wait_procs(workers, timeout=120)[1] == []


def test_a_second_signal_ends_parent_and_workers(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--workers", "2")
    stalled = server.connect()
    stalled.sendall(b"GET /v2 HT")
    workers = workers_of(server)
    seen(server, {"200 1/2", "200 2/2"})
    server.signal()
    while not turns_away(server):
        continue
    server.signal()
    assert server.exit_code(5) == 128 + signal.SIGTERM
    assert psutil.wait_procs(workers, timeout=120)[1] == []
    stalled.close()
