"""Real server processes: started by the command line, watched through their output."""

from __future__ import annotations

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

STARTED = re.compile(r"(?:serving|listening) on (?:(\w+)://([^:\s]+):(\d+)|unix:(\S+))")


@dataclass
class Command:
    """A running `aiaas serve`."""

    process: subprocess.Popen[str]
    output: queue.Queue[str | None]
    lines: list[str] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 0

    def connect(self) -> socket.socket:
        """Open a raw connection."""
        return socket.create_connection((self.host, self.port), timeout=120)

    def http(self) -> HTTPConnection:
        """A connection that speaks HTTP."""
        return HTTPConnection(self.host, self.port, timeout=120)

    def get(self, path: str) -> tuple[int, bytes]:
        """GET on a connection of its own."""
        connection = self.http()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def line(self, holding: str, timeout: float = 60.0) -> str:
        """Wait for a line of output that holds the text."""
        end = time.monotonic() + timeout
        while True:
            found = next((line for line in self.lines if holding in line), None)
            if found is not None:
                return found
            try:
                text = self.output.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                text = None
            assert text is not None, f"no {holding!r} in {self.lines}"
            self.lines.append(text)

    def to_the_end(self, timeout: float = 30.0) -> None:
        """Read the output of a process that has ended."""
        while (text := self.output.get(timeout=timeout)) is not None:
            self.lines.append(text)

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the parent process."""
        self.process.send_signal(number)

    def exit_code(self, timeout: float = 30.0) -> int:
        """Wait for the end."""
        return self.process.wait(timeout)


StartCommand = Callable[..., Command]


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without server settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AIAAS_")}
    return {**kept, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **extra}


@pytest.fixture
def models(make_repository: Any, onnx_models: SimpleNamespace) -> Path:
    """A repository with one tiny model."""
    repository: Path = make_repository({"tiny": onnx_models.identity()})
    return repository


@pytest.fixture
def run_aiaas() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command that ends by itself: `run_aiaas("serve", "--models", "x")`."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "aiaas_server", *arguments],
            env=clean_environment(**environment),
            capture_output=True,
            text=True,
            timeout=900,
        )

    return run


@contextmanager
def starting() -> Iterator[StartCommand]:
    """Give what starts servers; those that still run are stopped in the end."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str | Path,
        until: str = "  stop",
        code: str = "",
        told: str = "serving on",
        **settings: str,
    ) -> Command:
        environment = {f"AIAAS_SERVER_{name.upper()}": text for name, text in settings.items()}
        process = subprocess.Popen(
            [sys.executable, *(["-c", code] if code else ["-m", "aiaas_server"])]
            + ["serve", "--port", "0", "--metrics-port", "0"]
            + [str(argument) for argument in arguments],
            env=clean_environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        started.append(process)
        output: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read, args=(process.stdout, output)).start()
        command = Command(process, output)
        found = STARTED.search(command.line(told))
        assert found is not None
        if found[3] is not None:
            command.host, command.port = found[2], int(found[3])
        if until:
            command.line(until)
        return command

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def start_aiaas() -> Iterator[StartCommand]:
    """Start servers: `start_aiaas("--models", path, header_timeout="0.2")`; ready on return.

    `until` is a text of the output that is waited for; `code` is Python to run instead of the
    command, which then calls `aiaas_server.__main__.main` itself; `told` is in the line of output
    that tells the address.
    """
    with starting() as start:
        yield start


@pytest.fixture(scope="module")
def start_shared() -> Iterator[StartCommand]:
    """As `start_aiaas`, servers for all tests of a module."""
    with starting() as start:
        yield start


def _read(stream: Any, output: queue.Queue[str | None]) -> None:
    """Hand on the lines of a process until it ends."""
    with stream:
        for line in stream:
            output.put(line.rstrip("\n"))
    output.put(None)
