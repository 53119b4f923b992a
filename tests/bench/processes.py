"""Servers under measurement: started on a free port, their CPU and memory read from the kernel."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import write_requests

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
READY = b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is up: its name in the table, its port and process."""

    name: str
    port: int
    pid: int
    start_seconds: float

    def cpu(self) -> float:
        """CPU seconds of the process so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def rss(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Load:
    """What one or several rounds of load showed; CPU of the server in seconds a request."""

    rate: float
    cpu: float
    p50: float
    p99: float


@contextmanager
def aiaas(models: Path, *options: str) -> Iterator[Target]:
    command = [sys.executable, "-m", "aiaas_server", "serve", "--models", str(models)]
    command += ["--metrics-port", "0", *options]
    with _started("aiaas", [*command, "--port"]) as target:
        yield target


@contextmanager
def echo() -> Iterator[Target]:
    with _started("echo", [sys.executable, str(HERE / "echo.py")]) as target:
        yield target


@contextmanager
def _started(name: str, command: Sequence[str]) -> Iterator[Target]:
    port = _free_port()
    began = time.perf_counter()
    process = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL)
    try:
        while not _answers(port):
            if process.poll() is not None or time.perf_counter() - began > 60:
                raise RuntimeError(f"{name} did not start: {' '.join(command)}")
            time.sleep(0.005)
        yield Target(name, port, process.pid, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(40)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(READY)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def interleaved(
    plan: Sequence[tuple[Target, list[bytes]]], connections: int, seconds: float, rounds: int
) -> list[Load]:
    """Load each target in turn, `rounds` times over; the medians for each.

    Turns close together share the machine's mood, so that their ratio means something.
    """
    seen: list[list[Load]] = [[] for _ in plan]
    for _ in range(rounds):
        for (target, requests), found in zip(plan, seen, strict=True):
            found.append(_one_round(target, requests, connections, seconds))
    return [_median(found) for found in seen]


def _one_round(target: Target, requests: list[bytes], connections: int, seconds: float) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests"
        write_requests(path, requests)
        _generate(target, path, connections, min(0.3, seconds))  # warm up
        before = target.cpu()
        told = _generate(target, path, connections, seconds)
        cpu = target.cpu() - before
    if set(told["statuses"]) != {"200"}:
        raise RuntimeError(f"{target.name} answered {told['statuses']}")
    count = told["requests"]
    return Load(count / told["seconds"], cpu / count, told["p50"], told["p99"])


def _generate(target: Target, path: Path, connections: int, seconds: float) -> dict[str, Any]:
    arguments = ["127.0.0.1", str(target.port), str(connections), str(seconds), str(path)]
    command = [sys.executable, "-S", str(HERE / "load.py"), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the load generator failed against {target.name}")
    result: dict[str, Any] = json.loads(line)
    return result


def _median(found: list[Load]) -> Load:
    columns = zip(*((f.rate, f.cpu, f.p50, f.p99) for f in found), strict=True)
    return Load(*(statistics.median(column) for column in columns))
