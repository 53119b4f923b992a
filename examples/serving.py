"""Start a real server for as long as an example needs it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Server:
    """A running `aiaas serve`: where it listens, and its process."""

    url: str
    process: subprocess.Popen[bytes]

    def stop(self) -> int:
        """Ask it to finish what it has accepted and end; return its exit code, 0 if all is well."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def serve(
    models: Path | None = None,
    *options: str,
    data: Path | None = None,
    jobs: int = 0,
    start_timeout: float = 60.0,
) -> Iterator[Server]:
    """Serve models on a free port of this machine until the block ends.

    Args:
        models: A repository directory or one `.onnx` file.
        options: More options of `aiaas serve`.
        data: The directory of a registry, to which models are deployed.
        jobs: That it runs at a time, of training and the like; needs `data`.
        start_timeout: Seconds until every model must be ready.
    Raises:
        RuntimeError: The server ended or was not ready in time.
    """
    port = _free_port()
    command = [sys.executable, "-m", "aiaas_server", "serve"]
    for option, place in (("--models", models), ("--data", data)):
        command += [] if place is None else [option, str(place)]
    command += ["--jobs", str(jobs)] if jobs else []
    command += ["--port", str(port), "--metrics-port", "0", *options]
    server = Server(f"http://127.0.0.1:{port}", subprocess.Popen(command))
    try:
        _wait_ready(server, time.monotonic() + start_timeout)
        yield server
    finally:
        server.stop()


def _wait_ready(server: Server, until: float) -> None:
    while not _is_ready(server.url):
        if (code := server.process.poll()) is not None:
            raise RuntimeError(f"the server ended with exit code {code} before it was ready")
        if time.monotonic() > until:
            raise RuntimeError("the server was not ready in time")
        time.sleep(0.02)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
