"""Several worker processes on one port, looked after by a parent that serves nothing itself.

The parent binds the sockets once and hands them to every worker, starts a worker again when it
dies, passes a stop on through each worker's pipe, and ends with exit code 0 when all have
drained. A worker whose parent has died sees the end of its pipe and stops too.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from aiaas_server.listen import StartError, bind_metrics
from aiaas_server.observe.logging import start_logging
from aiaas_server.settings import Settings

logger = logging.getLogger("aiaas_server")

FIRST_DELAY = 0.1  # before a dead worker is started again; doubles
LONGEST_DELAY = 30.0
STEADY = 10.0  # a worker that lived so long starts again without delay
GIVE_UP = 5  # deaths in a row without any worker having become ready

Work = Callable[[Settings, socket.socket, socket.socket | None, int, Connection], None]

_spawn = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Worker:
    """One place in the row of workers and the process that holds it now."""

    index: int
    metrics: socket.socket | None
    process: Any = None
    pipe: Connection | None = None
    started_at: float = 0.0
    start_at: float | None = 0.0  # when to start it, None while it runs
    deaths: int = 0
    lines: list[str] = field(default_factory=list)


class Supervisor:
    """Starts, watches and stops the workers."""

    def __init__(self, settings: Settings, listener: socket.socket, work: Work) -> None:
        self._settings = settings
        self._listener = listener
        self._work = work
        self._workers = [Worker(i, bind_metrics(settings, i)) for i in range(settings.workers)]
        self._told = False
        self._failures = 0
        self._signals = 0
        self._wake_read, self._wake_write = os.pipe()

    def run(self, drain_seconds: float) -> int:
        """Look after the workers until a signal comes; returns the exit code.

        Args:
            drain_seconds: Longest time the workers get to stop, then they are killed.
        Raises:
            StartError: The workers die as soon as they start.
        """
        previous = {n: signal.signal(n, self._signalled) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._signals:
                self._start_due()
                self._wait(self._next_start())
            return self._drain(time.monotonic() + drain_seconds)
        finally:
            for worker in self._workers:
                if worker.process is not None and worker.process.is_alive():
                    worker.process.kill()
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._close()

    def _close(self) -> None:
        for worker in self._workers:
            self._forget(worker)
            if worker.metrics is not None:
                worker.metrics.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            for worker in self._workers:
                if worker.process is not None:
                    with suppress(OSError):
                        worker.process.kill()
            os._exit(128 + number)
        os.write(self._wake_write, b"\0")

    def _start_due(self) -> None:
        for worker in self._workers:
            if worker.start_at is not None and worker.start_at <= time.monotonic():
                self._start(worker)

    def _start(self, worker: Worker) -> None:
        """Start a process for the place. Ctrl+C must not end it before it can drain."""
        settings = self._settings.model_copy(update={"control": "none"})
        ours, theirs = _spawn.Pipe()
        worker.process = _spawn.Process(
            target=self._work,
            args=(settings, self._listener, worker.metrics, worker.index, theirs),
            name=f"aiaas-worker-{worker.index + 1}",
        )
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            worker.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
            theirs.close()
        worker.pipe = ours
        worker.started_at, worker.start_at = time.monotonic(), None

    def _next_start(self) -> float | None:
        """Seconds until a worker is to be started; None when all run."""
        times = [w.start_at for w in self._workers if w.start_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _wait(self, timeout: float | None) -> None:
        """Wait for a death, a word from a worker, or a signal."""
        running = [w for w in self._workers if w.process is not None]
        sentinels = [worker.process.sentinel for worker in running]
        pipes = [worker.pipe for worker in running if worker.pipe is not None]
        found = wait([*sentinels, *pipes, self._wake_read], timeout)
        for worker, sentinel in zip(running, sentinels, strict=True):
            if worker.pipe is not None and worker.pipe in found:
                self._hear(worker)
            if sentinel in found:
                self._mourn(worker)

    def _hear(self, worker: Worker) -> None:
        """A worker is ready and says what it serves."""
        assert worker.pipe is not None
        try:
            worker.lines = worker.pipe.recv()
        except (EOFError, OSError):
            worker.pipe.close()
            worker.pipe = None
            return
        self._failures = 0
        if not self._told and all(w.lines for w in self._workers):
            self._told = True
            print("\n".join(_joined([w.lines for w in self._workers])), flush=True)

    def _mourn(self, worker: Worker) -> None:
        """A worker has died: start it again, later the more often it did."""
        worker.process.join()
        code = worker.process.exitcode
        lived = time.monotonic() - worker.started_at
        worker.deaths = 0 if lived > STEADY else worker.deaths + 1
        self._forget(worker)
        if self._signals:
            return
        self._failures += 1
        if not self._told and self._failures >= GIVE_UP:
            raise StartError(f"the workers do not start: the last one ended with code {code}")
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2**worker.deaths)
        logger.error("worker %d ended with code %s; starting it again", worker.index + 1, code)
        worker.start_at = time.monotonic() + delay

    def _forget(self, worker: Worker) -> None:
        if worker.process is not None:
            worker.process.join()
            worker.process.close()
            worker.process = None
        if worker.pipe is not None:
            worker.pipe.close()
            worker.pipe = None

    def _drain(self, stop_by: float) -> int:
        """Tell all workers to stop and wait for them."""
        self._listener.close()
        for worker in self._workers:
            worker.start_at = None
            if worker.pipe is not None:
                with suppress(OSError):
                    worker.pipe.send("stop")
        while any(w.process is not None for w in self._workers):
            left = stop_by - time.monotonic()
            if left <= 0:
                logger.warning("killing the workers that did not stop in time")
                break
            self._wait(min(left, 1.0))
        return 0


def _joined(all_lines: list[list[str]]) -> list[str]:
    """What the first worker says, with the metrics ports of all of them."""
    metrics = [line for lines in all_lines for line in lines if line.startswith("  metrics")]
    first, *rest = [line for line in all_lines[0] if not line.startswith("  metrics")]
    count = f"  workers  {len(all_lines)}, each with its own models, counts and limits"
    return [first, count, *metrics, *rest]


def work(
    settings: Settings,
    listener: socket.socket,
    metrics: socket.socket | None,
    index: int,
    pipe: Connection,
) -> None:
    """Be one worker: the entry of its process."""
    from aiaas_server.serve import Process, Seat, run_process, started_lines

    log = start_logging(settings.log_level, as_json=settings.json_logs)

    def tell_parent(process: Process) -> None:
        with suppress(OSError):
            pipe.send(started_lines(process))

    seat = Seat(index, settings.workers)
    try:
        code = run_process(
            settings, listener, metrics, seat=seat, on_ready=tell_parent, stop_on=pipe.fileno()
        )
    finally:
        log.stop()
    sys.exit(code)


def supervise(settings: Settings, listener: socket.socket, drain_seconds: float) -> int:
    """Serve with `settings.workers` processes; returns the exit code.

    Raises:
        StartError: A metrics port is busy, or the workers die as soon as they start.
    """
    return Supervisor(settings, listener, work).run(drain_seconds)
