"""`serve(settings)`: one server process from its sockets to its exit code.

Life: check, bind, load in the background, answer; on SIGTERM or SIGINT not ready at once, no new
inference, everything accepted answered, whatever stalls cut, exit code 0; on a second signal
the process ends at once.
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
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from importlib.metadata import version
from typing import Any

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from aiaas_server.app import Application, create_app
from aiaas_server.core.errors import ServerError
from aiaas_server.core.memory import share_one_heap
from aiaas_server.http.edge import TURNED_AWAY, EdgeLimits, EdgeProtocol, make_protocol
from aiaas_server.http.group import Alone
from aiaas_server.listen import (
    Acceptor,
    StartError,
    address_of,
    bind_metrics,
    bind_tcp,
    bind_unix,
    check_exposure,
    most_connections,
    tls_context,
)
from aiaas_server.observe.logging import access_logger, start_logging
from aiaas_server.observe.spans import missing_package
from aiaas_server.settings import Settings
from aiaas_server.workers.member import Member
from aiaas_server.workers.supervisor import supervise
from aiaas_server.workers.worker import work

logger = logging.getLogger("aiaas_server")

METRICS_CONNECTIONS = 100
LONG_LOAD = 2.0  # seconds after which a person is told that models are still loading
GRACE = 1.0  # for requests that came during the drain
LEAVE_GRACE = 1.0  # for clients to be told that a worker's connections end
CANCEL_TIMEOUT = 1.0  # for cancelled requests to say so
CLOSE_TIMEOUT = 2.0  # for the models to be released
HARD_STOP = CANCEL_TIMEOUT + CLOSE_TIMEOUT + 1.5  # after the drain, nothing is waited for


@dataclass(frozen=True, slots=True)
class Seat:
    """Which worker of how many a process is.

    Attributes:
        again: It replaces one that died; others serve until it can.
    """

    index: int = 0
    workers: int = 1
    again: bool = False


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop.

    Returns:
        The exit code: 0 after an orderly stop, 1 when it could not start.
    """
    log = start_logging(settings.log_level, as_json=settings.json_logs)
    try:
        return _serve(settings)
    except StartError as error:
        print(f"aiaas: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        log.stop()


def _serve(settings: Settings) -> int:
    check_exposure(settings)
    if settings.otel and (missing := missing_package()):
        raise StartError(f"otel needs {missing}; run: pip install 'aiaas-client[server,tracing]'")
    if not settings.models.exists():
        raise StartError(f"--models {settings.models}: no such file or directory")
    tls_context(settings)
    listener = (
        bind_unix(settings.uds)
        if settings.uds is not None
        else bind_tcp(settings.host, settings.port)
    )
    try:
        if settings.workers > 1:
            patience = settings.drain_timeout + HARD_STOP + 0.5
            return supervise(settings, listener, work, patience)
        return run_process(settings, listener, bind_metrics(settings))
    finally:
        listener.close()
        if settings.uds is not None:
            settings.uds.unlink(missing_ok=True)


def run_process(
    settings: Settings,
    listener: socket.socket,
    metrics: socket.socket | None,
    *,
    seat: Seat = Seat(),
    member: Member | None = None,
) -> int:
    """Serve in this process until a signal comes; returns the exit code.

    Args:
        settings: All settings.
        listener: The bound main socket.
        metrics: The bound metrics socket, if there is one.
        seat: Which worker this is.
        member: Its side of the group when it is one of several workers.
    """
    share_one_heap()
    app = create_app(settings, make_group=member or Alone)
    process = Process(settings, app, listener, metrics, seat, member)
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
        max_body_bytes=max(
            settings.max_body_bytes, settings.max_control_bytes, settings.max_upload_bytes
        ),
    )


class Process:
    """One serving process: acceptors, models, signals, drain."""

    def __init__(
        self,
        settings: Settings,
        app: Application,
        listener: socket.socket,
        metrics: socket.socket | None,
        seat: Seat,
        member: Member | None = None,
    ) -> None:
        self.settings = settings
        self.app = app
        self.seat = seat
        scheme = "https" if settings.certfile is not None else "http"
        self.address = address_of(listener, scheme)
        self.metrics_address = address_of(metrics, scheme) if metrics is not None else None
        self.started_at = time.monotonic()
        self.exit_code = 0
        self._member = member
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
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        tasks = [loop.create_task(self._tell_date()), loop.create_task(self._load())]
        if self._member is not None:
            tasks.append(loop.create_task(self._member.serve(self.stop)))
        if not self.seat.again:
            self._listen()
        try:
            await self._stopping.wait()
            await self._drain()
        finally:
            if self._member is not None:
                self._member.end()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    def stop(self) -> None:
        """Begin the orderly stop: not ready from now on."""
        if self._stopping.is_set():
            return
        self.app.pool.begin_drain()
        for protocol in self._protocols:
            protocol.edge.leaving = True
            protocol.edge.draining = not self._leaves
        self._stop_by = time.monotonic() + self.settings.drain_timeout
        _end_after(self.settings.drain_timeout + HARD_STOP)
        self._stopping.set()

    def _signalled(self, number: int) -> None:
        if not self._stopping.is_set():
            self._leaves = self._member is not None
            if self._member is not None:
                self._member.leave()
            self.stop()
        elif self.seat.workers == 1:  # a worker is ended by its parent, a terminal signals both
            os._exit(128 + number)

    def _listen(self) -> None:
        settings = self.settings
        context = tls_context(settings)
        limits = edge_limits(settings)
        on_access = access_logger() if settings.access_log else None
        protocol = make_protocol(limits, on_access=on_access)
        self._accept(self._listener, self.app, protocol, context)
        if self._metrics is not None:
            few = make_protocol(EdgeLimits(max_connections=METRICS_CONNECTIONS))
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
        if self._member is None:
            tell_terminal(self)
        else:
            await self._join(self._member)

    async def _join(self, member: Member) -> None:
        """Catch up with the other workers; one that cannot ends, and is tried again later."""
        try:
            await member.join(started_lines(self))
        except ServerError as error:
            if not self._stopping.is_set():
                logger.error("cannot do what the other workers have done: %s", error.message)
                self.exit_code = 1
                self.stop()
        else:
            if self.seat.again and not self._stopping.is_set():
                self._listen()

    async def _tell_date(self) -> None:
        """Keep the Date header; beside it, workers say which of them answers."""
        own: list[tuple[bytes, bytes]] = []
        if self.seat.workers > 1:
            own = [(b"x-aiaas-worker", b"%d/%d" % (self.seat.index + 1, self.seat.workers))]
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
        accepted = {c for c in state.connections if isinstance(c, EdgeProtocol) and c.busy}
        await _until(lambda: not accepted & state.connections, self._stop_by)
        for acceptor in self._acceptors:
            acceptor.close()
        for connection in tuple(state.connections):
            connection.shutdown()
        grace = min(self._stop_by, time.monotonic() + GRACE)
        await _until(lambda: not state.connections and not state.tasks, grace)
        if state.tasks:
            logger.warning("cutting %d requests that did not end", len(state.tasks))
        for task in tuple(state.tasks):
            task.cancel()
        if state.tasks:
            await asyncio.wait(tuple(state.tasks), timeout=CANCEL_TIMEOUT)
        for connection in tuple(state.connections):
            connection.transport.abort()

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


def tell_terminal(process: Process) -> None:
    """Print what a person wants to know when the server is up; programs get one log line."""
    lines = started_lines(process)
    if process.settings.json_logs:
        logger.info("%s", lines[0])
    else:
        print("\n".join(lines), flush=True)


def started_lines(process: Process) -> list[str]:
    """The address, the models with their versions, those that failed, and how to call it."""
    pool = process.app.pool
    entries = pool.index(ready_only=False)
    ready: dict[str, list[str]] = {}
    failed: list[str] = []
    for entry in entries:
        name, state = str(entry["name"]), entry.get("state", "")
        if state == "READY":
            ready.setdefault(name, []).append(str(entry.get("version", "")))
        elif entry.get("reason"):
            failed.append(f"{name}: {str(entry['reason'])[:300]}")
    seconds = time.monotonic() - process.started_at
    models = f"{len(ready)} model{'' if len(ready) == 1 else 's'} ready"
    lines = [
        f"aiaas {version('aiaas-client')} serving on {process.address}  ({models}, {seconds:.1f} s)"
    ]
    lines += [f"  ready    {name}  {', '.join(versions)}" for name, versions in ready.items()]
    lines += [f"  failed   {text}" for text in failed]
    if process.metrics_address is not None:
        lines.append(f"  metrics  {process.metrics_address}/metrics")
    if ready and process.address.startswith("http"):
        name = next(iter(ready))
        lines.append(f"  look     curl {process.address}/v2/models/{name}")
        inputs = ", ".join(f"{x.name}=..." for x in pool.resolve(name, None).signature.inputs)
        lines.append(f'  call     Client("{process.address}").model("{name}").infer({inputs})')
    if process.settings.api_key is not None:
        lines.append("  key      needed by every route but /v2/health/live and /v2/health/ready")
    lines.append("  stop     Ctrl+C")
    return lines
