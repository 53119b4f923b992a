"""One serving process: its models, its connections, and its way from the first signal to the end.

Life: load in the background, answer; on SIGTERM, SIGINT or SIGHUP not ready at once, no new
inference, everything accepted answered, whatever stalls cut; on a second SIGTERM or SIGINT the
process ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import Any, NoReturn, Protocol

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from aiaas_server.app import Application, create_app
from aiaas_server.core.errors import ServerError
from aiaas_server.core.pool.loads import is_opening
from aiaas_server.core.pool.memory import share_one_heap
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.garbage import settle, unsettle
from aiaas_server.http.edge.connection import EdgeProtocol, make_protocol
from aiaas_server.http.edge.edge import TURNED_AWAY
from aiaas_server.http.edge.limits import LOOPBACK, EdgeLimits
from aiaas_server.http.operations import Operations
from aiaas_server.http.process_group import ProcessGroup, SingleProcess
from aiaas_server.listen import Acceptor, address_of, most_connections, tls_context
from aiaas_server.observe.logging import access_logger
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.settings import Settings
from aiaas_server.started import started_lines, tell

logger = logging.getLogger("aiaas_server")

METRICS_CONNECTIONS = 100
LONG_LOAD = 2.0  # seconds after which a person is told that models are still loading
GRACE = 1.0  # for requests that came during the drain
LEAVE_GRACE = 1.0  # for clients to be told that a worker's connections end
CANCEL_TIMEOUT = 1.0  # for cancelled requests to say so
CLOSE_TIMEOUT = 2.0  # for the models to be released
HARD_STOP = CANCEL_TIMEOUT + CLOSE_TIMEOUT + 1.5  # after the drain, nothing is waited for


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Which worker of how many a process is.

    Attributes:
        index: From 0.
        workers: How many there are.
        replaces: It takes the place of one that died; others serve until it can.
    """

    index: int = 0
    workers: int = 1
    replaces: bool = False


class Membership(Protocol):
    """One worker's side of all of them; `MakeGroup` for the application that it serves."""

    def __call__(
        self, operations: Operations, pool: ModelPool, requests: RequestMetrics
    ) -> ProcessGroup:
        """Take part with this process's models."""
        ...

    async def serve(self, stop: Callable[[], None]) -> None:
        """Listen to the parent; `stop` is called when it says so, or when it is gone."""
        ...

    async def join(self, lines: list[str]) -> None:
        """Catch up with the other workers and count as one of them.

        Args:
            lines: What a person is told when all have joined.
        Raises:
            ServerError: What the others were told cannot be done here.
        """
        ...

    def leave(self) -> None:
        """Take no further part in what the others are told, because this worker stops."""
        ...

    def end(self) -> None:
        """Tell what has been counted, and close."""
        ...


def run_process(
    settings: Settings,
    listener: socket.socket,
    metrics: socket.socket | None,
    *,
    worker: WorkerInfo = WorkerInfo(),
    membership: Membership | None = None,
) -> int:
    """Serve in this process until a signal comes; returns the exit code.

    Args:
        settings: All settings.
        listener: The bound main socket.
        metrics: The bound metrics socket, if there is one.
        worker: Which worker this is.
        membership: Its side of the workers when it is one of several.
    """
    share_one_heap()
    app = create_app(settings, make_group=membership or SingleProcess)
    process = Process(settings, app, listener, metrics, worker, membership)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(process.run())
    return process.exit_code


def edge_limits(settings: Settings) -> EdgeLimits:
    """The limits of the HTTP edge from the settings."""
    return EdgeLimits(
        request_line_bytes=settings.max_request_line_bytes,
        header_bytes=settings.max_header_bytes,
        headers=settings.max_headers,
        header_timeout=settings.header_timeout,
        body_timeout=settings.body_timeout,
        bytes_per_second=settings.body_bytes_per_second,
        # The longest of any route; inference ends at its deadline, which the route keeps.
        max_body_timeout=max(settings.max_body_timeout, settings.max_upload_timeout),
        write_timeout=settings.body_timeout,
        keep_alive=settings.keep_alive,
        max_connections=most_connections(settings.max_connections),
        max_connections_per_address=settings.max_connections_per_address,
        shared_addresses=(*LOOPBACK, *settings.proxies),
        max_body_bytes=max(
            settings.max_body_bytes,
            settings.max_control_bytes,
            settings.max_upload_bytes,
            *_uploads(settings),
        ),
    )


def _uploads(settings: Settings) -> Iterator[int]:
    """Bodies that only a server with a registry takes."""
    if settings.data is not None:
        yield settings.max_dataset_bytes
        yield settings.max_model_file_bytes


class Process:
    """One serving process: acceptors, models, signals, drain."""

    def __init__(
        self,
        settings: Settings,
        app: Application,
        listener: socket.socket,
        metrics: socket.socket | None,
        worker: WorkerInfo,
        membership: Membership | None = None,
    ) -> None:
        self.settings = settings
        self.app = app
        self.worker = worker
        scheme = "https" if settings.certfile is not None else "http"
        self.address = address_of(listener, scheme)
        self.metrics_address = address_of(metrics, scheme) if metrics is not None else None
        self.started_at = time.monotonic()
        self.exit_code = 0
        self._name = "" if worker.workers == 1 else f"worker {worker.index + 1}/{worker.workers} "
        self._membership = membership
        self._leaves = False
        self._listener = listener
        self._metrics = metrics
        self._state = ServerState()
        self._acceptors: list[Acceptor] = []
        self._protocols: list[type[EdgeProtocol]] = []
        self._stopping: asyncio.Event
        self._stop_by = 0.0

    async def run(self) -> None:
        """Serve until stopped; returns when everything is answered or cut."""
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        for number in stop_signals():
            loop.add_signal_handler(number, self._signalled, number)
        tasks = [loop.create_task(self._tell_date()), loop.create_task(self._load())]
        if self._membership is not None:
            tasks.append(loop.create_task(self._membership.serve(self.stop)))
        if not self.worker.replaces:
            self._listen()
        try:
            await self._stopping.wait()
            await self._drain()
        finally:
            if self._membership is not None:
                self._membership.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()
            unsettle()
        logger.info("%sstopped", self._name)

    def stop(self) -> None:
        """Begin the orderly stop: not ready from now on."""
        if self._stopping.is_set():
            return
        text = "%sstopping: requests to answer: %d, in at most %g s"
        logger.info(text, self._name, len(self._busy()), self.settings.drain_timeout)
        self.app.pool.begin_drain()
        for protocol in self._protocols:
            protocol.edge.leaving = True
            protocol.edge.draining = not self._leaves
        self._stop_by = time.monotonic() + self.settings.drain_timeout
        _end_after(self.settings.drain_timeout + HARD_STOP)
        self._stopping.set()

    def _signalled(self, number: int) -> None:
        if not self._stopping.is_set():
            self._leaves = self._membership is not None
            if self._membership is not None:
                self._membership.leave()
            self.stop()
        elif number != signal.SIGHUP and self.worker.workers == 1:
            # A worker is ended by its parent: a terminal signals both. A terminal that closes may
            # send SIGHUP twice, by the kernel and by the shell.
            os._exit(128 + number)

    def _listen(self) -> None:
        settings = self.settings
        context = tls_context(settings)
        limits, refused = edge_limits(settings), self.app.refused
        on_access = access_logger() if settings.access_log else None
        protocol = make_protocol(limits, on_access=on_access, on_refusal=refused, hot=self.app.hot)
        self._accept(self._listener, self.app, protocol, context)
        if self._metrics is not None:
            limits = replace(limits, max_connections=METRICS_CONNECTIONS)
            few = make_protocol(limits, on_refusal=refused)
            self._accept(self._metrics, self.app.metrics, few, context)

    def _accept(
        self,
        sock: socket.socket,
        app: Any,
        protocol: type[EdgeProtocol],
        context: ssl.SSLContext | None,
    ) -> None:
        config = Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        config.load()
        loop, edge = asyncio.get_running_loop(), protocol.edge
        self._protocols.append(protocol)
        acceptor = Acceptor(
            sock,
            lambda: protocol(config, self._state, {}, loop),
            has_room=lambda more: (
                edge.connections + more < edge.limits.max_connections + TURNED_AWAY
            ),
            context=context,
            handshake_timeout=edge.limits.header_timeout,
            counted_as=edge.limits.counted_as,
            handshakes_per_address=edge.limits.max_connections_per_address,
        )
        self._acceptors.append(acceptor)

    async def _load(self) -> None:
        long = asyncio.get_running_loop().call_later(
            LONG_LOAD, logger.info, "listening on %s, still loading models", self.address
        )
        try:
            await self.app.start()
        except Exception:
            logger.exception("the models could not be loaded; the server stays not ready")
            return
        finally:
            long.cancel()
        settle()
        if self._membership is None:
            tell(self._started_lines(), as_json=self.settings.json_logs)
        else:
            await self._join(self._membership)

    def _started_lines(self) -> list[str]:
        seconds = time.monotonic() - self.started_at
        pool, settings = self.app.pool, self.settings
        return started_lines(pool, settings, self.address, self.metrics_address, seconds)

    async def _join(self, membership: Membership) -> None:
        """Catch up with the other workers; one that cannot ends, and is tried again later."""
        try:
            await membership.join(self._started_lines())
        except ServerError as error:
            if not self._stopping.is_set():
                logger.error("cannot do what the other workers have done: %s", error.message)
                self.exit_code = 1
                self.stop()
        else:
            if self.worker.replaces and not self._stopping.is_set():
                self._listen()

    async def _tell_date(self) -> None:
        """Keep the Date header; beside it, workers say which of them answers."""
        own: list[tuple[bytes, bytes]] = []
        if self.worker.workers > 1:
            own = [(b"x-aiaas-worker", b"%d/%d" % (self.worker.index + 1, self.worker.workers))]
        while True:
            self._state.default_headers = [(b"date", formatdate(usegmt=True).encode()), *own]
            await asyncio.sleep(1.0 - time.time() % 1.0)

    async def _drain(self) -> None:
        """Answer what was accepted, then cut what is left.

        Until then the port stays open, so that probes see `live` and not `ready` and new
        inference is told 503 instead of meeting a closed door half way. A worker that leaves by
        itself closes it at once, because the others have it open.
        """
        state = self._state
        if self._leaves:
            await self._leave()
        accepted = self._busy()
        await _until(lambda: not accepted & state.connections, self._stop_by)
        for acceptor in self._acceptors:
            acceptor.close()
        for connection in tuple(state.connections):
            connection.shutdown()
        grace = min(self._stop_by, time.monotonic() + GRACE)
        await _until(lambda: not state.connections and not state.tasks, grace)
        connections = [c for c in state.connections if isinstance(c, EdgeProtocol)]
        cut = sum([connection.cut() for connection in connections])
        if cut:
            logger.warning("cutting %d requests that did not end", cut)
        for task in tuple(state.tasks):
            task.cancel()  # also of those whose client has gone
        if state.tasks:
            await asyncio.wait(tuple(state.tasks), timeout=CANCEL_TIMEOUT)
        for connection in tuple(state.connections):
            connection.transport.abort()

    def _busy(self) -> set[EdgeProtocol]:
        """Connections whose request is not answered yet."""
        found = self._state.connections
        return {one for one in found if isinstance(one, EdgeProtocol) and one.busy}

    async def _leave(self) -> None:
        """Take no new connections, and answer what still comes on those that are open."""
        for acceptor in self._acceptors:
            acceptor.close()
        until = min(self._stop_by, time.monotonic() + LEAVE_GRACE)
        await _until(lambda: not self._state.connections, until)
        for protocol in self._protocols:
            protocol.edge.draining = True

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.app.close()
        except TimeoutError:
            logger.warning("models were not released in %g s and are left behind", CLOSE_TIMEOUT)


async def _until(condition: Callable[[], bool], end: float) -> None:
    """Wait for what has no event of its own: connections and tasks end each for themselves."""
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def _end_after(seconds: float) -> None:
    """Make sure that the process ends: a model that never returns keeps no one waiting."""
    timer = threading.Timer(seconds, os._exit, (0,))
    timer.daemon = True
    timer.start()


def exit_with(code: int) -> NoReturn:
    """End the process in order; at once where a model is still being opened.

    The interpreter's own end would cut that thread off inside onnxruntime, which aborts.
    """
    if is_opening():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def stop_signals() -> list[signal.Signals]:
    """The signals that begin the orderly stop; SIGHUP unless `nohup` has switched it off."""
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if hangs_up else [])]


def ignore_user_signals() -> None:
    """Signals that mean nothing here end nothing either, as they would by default."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
