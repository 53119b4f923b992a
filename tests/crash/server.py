"""A server process with a registry, which is killed and started again on the same data."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.nursery import Nursery

_LISTENS = re.compile(r"serving on \w+://([^:\s]+):(\d+)")
_START_SECONDS = 120.0
_LOOK = 0.005


class Lost(Exception):
    """The connection broke: what was asked may have been done, or not."""


class Answer(NamedTuple):
    """One answer."""

    status: int
    body: Any


class Server:
    """`aiaas serve --data` in a process of its own.

    Args:
        nursery: What it is forked from.
        place: A directory of its own: the output, and its temporary files.
        data: The data directory.
        environment: Variables of its settings.
        options: More arguments of the command.

    Attributes:
        took: Seconds that each start took.
        scratch: Where its temporary files go.
    """

    def __init__(
        self,
        nursery: Nursery,
        place: Path,
        data: Path,
        environment: dict[str, str],
        options: tuple[str, ...] = (),
    ) -> None:
        self._nursery = nursery
        place.mkdir(parents=True, exist_ok=True)
        self._log = place / "output"
        self.scratch = place / "tmp"
        self.scratch.mkdir(exist_ok=True)
        self._environment = {**environment, "AIAAS_SERVER_METRICS_PORT": "0"}
        self._environment["TMPDIR"] = str(self.scratch)
        self._arguments = ["serve", "--data", str(data), "--port", "0", *options]
        self._process: int | None = None
        self._address = ("", 0)
        self.took: list[float] = []

    def start(self) -> None:
        """Start it; returns when it serves."""
        began = time.monotonic()
        self.begin()
        while True:
            if found := _LISTENS.search(self.output()):
                break
            assert not self._has_ended(), f"it does not start: {self.output()[-4000:]}"
            assert time.monotonic() < began + _START_SECONDS, f"it hangs: {self.output()[-4000:]}"
            time.sleep(_LOOK)
        self._address = (found[1], int(found[2]))
        self.took.append(time.monotonic() - began)

    def begin(self) -> None:
        """Start it and wait for nothing."""
        assert self._process is None, "it runs"
        self._log.unlink(missing_ok=True)
        self._process = self._nursery.fork(self._arguments, self._environment, self._log)

    def output(self) -> str:
        """What it has said since its start."""
        try:
            return self._log.read_text("utf-8", "replace")
        except FileNotFoundError:
            return ""

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self._address
        return f"http://{host}:{port}"

    def kill(self) -> None:
        """End it at once, with all of its group; nothing where it does not run."""
        if self._process is None:
            return
        try:
            os.killpg(self._process, signal.SIGKILL)
        except ProcessLookupError:  # it is forked, and has no group of its own yet
            with suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
        self._nursery.wait(self._process)
        self._process = None

    def stop(self) -> int:
        """End it in order; gives the exit code."""
        assert self._process is not None, "it does not run"
        os.kill(self._process, signal.SIGTERM)
        code = self._nursery.wait(self._process)
        self._process = None
        return code

    def _has_ended(self) -> bool:
        return self._process is None or self._nursery.has_ended(self._process)

    def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request, on a connection of its own.

        Args:
            body: Bytes as they are, anything else as JSON.
        Raises:
            Lost: There was no whole answer.
        """
        raw = isinstance(body, bytes)
        content = body if raw or body is None else json.dumps(body).encode()
        kind = "application/octet-stream" if raw else "application/json"
        connection = HTTPConnection(*self._address, timeout=120)
        try:
            connection.request(
                method, path, content, {"Content-Type": kind, "X-Request-Timeout-Ms": "120000"}
            )
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException) as error:
            raise Lost(str(error)) from None
        finally:
            connection.close()
        if not text:
            return Answer(answer.status, None)
        told = "json" in answer.headers.get("content-type", "")
        return Answer(answer.status, json.loads(text) if told else text)
