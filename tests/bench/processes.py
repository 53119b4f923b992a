"""Servers under measurement: started on a free port, their CPU and memory read from the kernel."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import Connection, write_requests

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
CROWD = {
    "max_connections": 3_000, "max_connections_per_address": 0,
    "queue_size": 3_000, "total_queue_size": 3_000,
}  # fmt: skip
"""Settings that let one address have very many connections with a request on each."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that is up: its name in the table, its port and process."""

    name: str
    port: int
    pid: int
    start_seconds: float

    def cpu(self) -> float:
        """CPU seconds of the process and its children so far, user and system."""
        return sum(self.times())

    def times(self) -> tuple[float, float]:
        """The same apart: seconds in its own code, and in the kernel for it."""
        user, system = zip(*(_ticks(pid) for pid in family(self.pid)), strict=True)
        return sum(user) / TICK, sum(system) / TICK

    def ask(self, request: bytes) -> bytes:
        """The whole answer to one request."""
        connection = Connection("127.0.0.1", self.port)
        connection.send(request)
        while not connection.receive():
            pass
        connection.socket.close()
        return connection.answer

    def rss(self) -> int:
        """Resident bytes of the process itself."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def settled_rss(self, patience: float = 2.0) -> int:
        """The least of some seconds: memory is given back a moment after the work."""
        found, until = [self.rss()], time.monotonic() + patience
        while time.monotonic() < until:
            time.sleep(0.1)
            found.append(self.rss())
        return min(found)


@dataclass(frozen=True, slots=True)
class Load:
    """What one or several rounds of load showed; CPU of the server in seconds a request."""

    rate: float
    cpu: float
    p50: float
    p99: float
    requests: float


def family(pid: int) -> set[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(_fields(stat)[1]), []).append(int(stat.parent.name))
    found, waiting = set(), [pid]
    while waiting:
        found.add(one := waiting.pop())
        waiting += children.get(one, [])
    return found


def _fields(stat: Path) -> list[str]:
    return stat.read_text().rpartition(")")[2].split()


def _ticks(pid: int) -> tuple[int, int]:
    try:
        fields = _fields(Path(f"/proc/{pid}/stat"))
    except OSError:
        return 0, 0
    return int(fields[11]), int(fields[12])


@contextmanager
def aiaas(models: Path, patience: float = 60.0, **settings: int | str) -> Iterator[Target]:
    """Our server on `models`, ready within `patience` seconds; `settings` by their names."""
    command = [sys.executable, "-m", "aiaas_server", "serve", "--models", str(models)]
    command += ["--metrics-port", "0", "--log-level", "warning", "--port"]
    with started("aiaas", command, environment=variables(settings), patience=patience) as target:
        yield target


def variables(settings: Mapping[str, int | str]) -> dict[str, str]:
    """Settings by their names as the server's environment."""
    return {f"AIAAS_SERVER_{name.upper()}": str(value) for name, value in settings.items()}


def floor(models: Path) -> AbstractContextManager[Target]:
    return started("floor", [sys.executable, str(HERE / "direct.py"), str(models)])


def echo() -> AbstractContextManager[Target]:
    return started("echo", [sys.executable, str(HERE / "echo.py")])


def prototype(model: Path) -> AbstractContextManager[Target]:
    return started("prototype", [sys.executable, str(HERE / "prototype.py"), str(model)])


@contextmanager
def started(
    name: str,
    command: Sequence[str],
    *,
    ready: str = "/v2/health/ready",
    environment: Mapping[str, str] | None = None,
    patience: float = 60.0,
) -> Iterator[Target]:
    """Run `command` with a free port after it until the block ends.

    Yields when a GET of the path `ready` is answered 200.

    Raises:
        RuntimeError: It ended, or was not ready within `patience` seconds.
    """
    port = _free_port()
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=None if environment is not None else subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    ) as process:
        try:
            while not _answers(port, ready):
                if process.poll() is not None or time.perf_counter() - began > patience:
                    raise RuntimeError(f"{name} did not start: {' '.join(command)}")
                # A start of seconds needs no fine reading, and the asking costs the server.
                time.sleep(max(0.005, (time.perf_counter() - began) / 100))
            yield Target(name, port, process.pid, time.perf_counter() - began)
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; what it has not ended itself 15 seconds later is killed with it."""
    descendants = family(process.pid)
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
    for pid in descendants - {process.pid}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _answers(port: int, path: str) -> bool:
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request)
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
    """Load each target in turn, `rounds` times over; the best of each.

    Turns close together share the machine's mood, so that their ratio means something.
    """
    seen: list[list[Load]] = [[] for _ in plan]
    for _ in range(rounds):
        for (target, requests), found in zip(plan, seen, strict=True):
            found.append(one_round(target, requests, connections, seconds))
    return [best(found) for found in seen]


def one_round(target: Target, requests: list[bytes], connections: int, seconds: float) -> Load:
    """Load `target` for some seconds, after a moment to warm up.

    Raises:
        RuntimeError: An answer was not 200.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests"
        write_requests(path, requests)
        generate(target, path, connections, min(0.3, seconds))  # warm up
        told = generate(target, path, connections, seconds)
    if set(told["statuses"]) != {"200"}:
        raise RuntimeError(f"{target.name} answered {told['statuses']}")
    count = told["requests"]
    rate, cpu = count / told["seconds"], told["server_cpu"]
    return Load(rate, cpu, told["p50"], told["p99"], count)


def generate(target: Target, path: Path, connections: int, seconds: float) -> dict[str, Any]:
    """What `load.py` tells of one round, whatever was answered."""
    pids = ",".join(map(str, family(target.pid)))
    arguments = ["127.0.0.1", str(target.port), str(connections), str(seconds), str(path), pids]
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


def best(found: Sequence[Load]) -> Load:
    """Column by column: whatever else the machine does only ever adds."""
    return Load(
        max(load.rate for load in found),
        min(load.cpu for load in found),
        min(load.p50 for load in found),
        min(load.p99 for load in found),
        sum(load.requests for load in found),
    )
