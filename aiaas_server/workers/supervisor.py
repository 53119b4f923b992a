"""The parent: starts workers, starts them again when they die, and keeps them alike.

What one worker is told it hands on as an operation, one at a time. One worker carries it out
first: if that fails, or kills it, nothing else has changed. Then all others do, at the same time.
If one of them refuses, those that did it undo it and the caller is told who refused; if one dies or
is not done in time, it is replaced, and its replacement does what the log of operations says before
it accepts connections.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiaas_server.core.errors import (
    Draining,
    InvalidInput,
    LoadFailed,
    ModelUnavailable,
    ServerError,
)
from aiaas_server.http.operations import Operation
from aiaas_server.listen import StartError, bind_metrics
from aiaas_server.process import stop_signals
from aiaas_server.settings import Settings
from aiaas_server.started import tell
from aiaas_server.workers.ledger import Ledger
from aiaas_server.workers.link import Document, Link, LinkLost
from aiaas_server.workers.operation_log import OperationLog

logger = logging.getLogger("aiaas_server")

FIRST_DELAY = 0.1  # before a dead worker is started again; doubles
LONGEST_DELAY = 30.0
STEADY = 10.0  # a worker that lived so long starts again without delay
GIVE_UP = 5  # deaths in a row without any worker having become ready
FOLLOW_WAIT = 10.0  # for workers to load what the registry says; they do it anyway
COUNT_WAIT = 1.0  # for a worker to tell its counts; then those it told before are taken

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class WorkerArguments:
    """What a worker's process is started with.

    Attributes:
        index: Its number, from 0.
        replaces: It takes the place of one that died: the others serve meanwhile.
        parent: Its end of the socket pair.
        files: A directory for model files on their way.
    """

    settings: Settings
    listener: socket.socket
    metrics: socket.socket | None
    index: int
    replaces: bool
    parent: socket.socket
    files: Path


Work = Callable[[WorkerArguments], None]


class WorkerGone(Exception):
    """A worker died, or was killed because it did not answer in time."""


@dataclass(slots=True)
class Worker:
    """One of the workers, as the parent sees it, and the process that it is now."""

    index: int
    process: Any = None
    link: Link | None = None
    joined: bool = False
    ready: bool = False
    deaths: int = 0
    lines: list[str] = field(default_factory=list)
    counting: asyncio.Task[Document] | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"worker {self.index + 1}"

    def kill(self) -> None:
        """End the process, if there is one, at once."""
        if self.process is not None:
            with suppress(OSError, ValueError):
                self.process.kill()


class Supervisor:
    """Starts, watches and stops the workers, and hands on what one of them is told."""

    def __init__(self, settings: Settings, listener: socket.socket, work: Work) -> None:
        self._settings = settings
        self._listener = listener
        self._metrics = bind_metrics(settings)
        self._work = work
        self._workers = [Worker(index) for index in range(settings.workers)]
        self._files = Path(tempfile.mkdtemp(prefix="aiaas-workers-", dir=_scratch(settings)))
        self._log = OperationLog()
        self._ledger = Ledger()
        self._one_operation: asyncio.Lock
        self._stopping: asyncio.Event
        self._failure: StartError | None = None
        self._told = False
        self._failures = 0

    async def run(self, drain_seconds: float) -> int:
        """Look after the workers until a signal comes; returns the exit code.

        Args:
            drain_seconds: Longest time the workers get to stop, then they are killed.
        Raises:
            StartError: The workers die as soon as they start.
        """
        loop = asyncio.get_running_loop()
        self._one_operation, self._stopping = asyncio.Lock(), asyncio.Event()
        for number in stop_signals():
            loop.add_signal_handler(number, self._signalled, number)
        keeping = [asyncio.create_task(self._keep(worker)) for worker in self._workers]
        try:
            await self._stopping.wait()
            await self._drain(keeping, drain_seconds)
        finally:
            for worker in self._workers:
                worker.kill()
            await asyncio.gather(*keeping, return_exceptions=True)
            if self._metrics is not None:
                self._metrics.close()
            shutil.rmtree(self._files, ignore_errors=True)
        if self._failure is not None:
            raise self._failure
        logger.info("stopped")
        return 0

    def _signalled(self, number: int) -> None:
        first = not self._stopping.is_set()
        self._stopping.set()
        # A terminal that closes may send SIGHUP twice, by the kernel and by the shell.
        if not first and number != signal.SIGHUP:
            for worker in self._workers:
                worker.kill()
            shutil.rmtree(self._files, ignore_errors=True)
            os._exit(128 + number)

    async def _drain(self, keeping: list[asyncio.Task[None]], seconds: float) -> None:
        """Tell all workers to stop and wait for them."""
        self._listener.close()
        for worker in self._workers:
            if worker.link is not None:
                worker.link.tell("stop")
        _, late = await asyncio.wait(keeping, timeout=seconds)
        if late:
            logger.warning("killing the workers that did not stop in time")

    # One worker

    async def _keep(self, worker: Worker) -> None:
        """Have a process be the worker until the server stops."""
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._live(worker)
            if self._stopping.is_set():
                return
            lived = time.monotonic() - began
            worker.deaths = 0 if lived > STEADY else worker.deaths + 1
            self._failures += 1
            if not self._told and self._failures >= GIVE_UP:
                text = f"the workers do not start: the last one ended with code {code}"
                self._failure = StartError(text)
                self._stopping.set()
                return
            level = logging.ERROR if code else logging.INFO  # it may have been told to
            logger.log(level, "%s ended with code %s; starting it again", worker.name, code)
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2**worker.deaths)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _live(self, worker: Worker) -> int:
        """Run one process of the worker until it ends; gives its exit code."""
        ours, theirs = socket.socketpair()
        worker.process = self._start(worker, theirs)
        link = worker.link = await Link.open(ours, partial(self._on_call, worker))
        ended = _ended(worker.process)
        if self._stopping.is_set():
            link.tell("stop")
        try:
            await link.serve()
            self._set_joined(worker, False)
            await ended
        finally:
            worker.link = None
            self._ledger.bury(worker.index)
            process, worker.process = worker.process, None
            process.join()
            code: int = process.exitcode
            process.close()
        return code

    def _start(self, worker: Worker, theirs: socket.socket) -> Any:
        """Start a process for the worker. Ctrl+C must not end it before it can drain."""
        arguments = WorkerArguments(
            self._settings,
            self._listener,
            self._metrics,
            worker.index,
            replaces=self._told,
            parent=theirs,
            files=self._files,
        )
        process = _spawn.Process(
            target=self._work, args=(arguments,), name=f"aiaas-worker-{worker.index + 1}"
        )
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
            theirs.close()
        return process

    def _set_joined(self, worker: Worker, joined: bool, ready: bool = False) -> None:
        worker.joined = joined
        worker.ready = joined and ready
        self._tell_ready()

    def _tell_ready(self) -> None:
        ready = all(worker.ready for worker in self._workers)
        for worker in self._workers:
            if worker.link is not None:
                worker.link.tell("ready", {"ready": ready})

    # What a worker calls

    async def _on_call(self, worker: Worker, call: str, body: Document) -> Document:
        if call == "join":
            await self._join(worker, body)
        elif call == "apply":
            await self._apply_to_all(worker, Operation.from_json(body))
        elif call in ("follow", "follow_keys"):
            await self._follow(worker, call, body)
        elif call == "totals":
            return await self._totals()
        elif call == "counts":
            self._note(worker, body)
        elif call == "leave":
            self._set_joined(worker, False)
        return {}

    async def _join(self, worker: Worker, body: Document) -> None:
        """Have a worker do what the others have done; from then on it is one of them."""
        async with self._one_operation:
            for operation in self._log.operations():
                try:
                    await self._apply(worker, operation)
                except WorkerGone:
                    return
            self._failures = 0
            ready = worker.ready if self._log.operations() else body["ready"]
            self._set_joined(worker, True, ready)
        worker.lines = body["lines"]
        if not self._told and all(other.lines for other in self._workers):
            self._told = True
            lines = joined_lines([worker.lines for worker in self._workers])
            tell(lines, as_json=self._settings.json_logs)

    async def _apply_to_all(self, asker: Worker, operation: Operation) -> None:
        async with self._one_operation:
            try:
                await self._carry_out(asker, operation)
            except BaseException:
                self._discard(operation)
                raise

    async def _carry_out(self, asker: Worker, operation: Operation) -> None:
        if self._stopping.is_set():
            raise Draining("the server is stopping")
        members = [worker for worker in self._workers if worker.joined]
        # The asker last: if the operation kills who tries it, somebody can still tell the caller.
        members.sort(key=lambda worker: worker is asker)
        if not members:
            raise ModelUnavailable("the server is still starting", retry_after=1.0)
        first, *others = members
        served = await self._try(first, operation)
        results = await asyncio.gather(
            *[self._apply(worker, operation) for worker in others], return_exceptions=True
        )
        outcomes = dict(zip([worker.name for worker in others], results, strict=True))
        refused = {name: e for name, e in outcomes.items() if isinstance(e, ServerError)}
        if refused:
            done = [first, *[p for p in others if isinstance(outcomes[p.name], dict)]]
            raise await self._undone(operation, done, served, refused)
        self._tell_ready()
        known = self._log.last(operation) is not None
        if operation.kind == "unload" and not served and not known:
            return  # nobody had it: there is nothing to remember
        replaced = self._log.remember(operation)
        if replaced is not None:
            self._discard(replaced)

    async def _follow(self, asker: Worker, call: str, body: Document) -> None:
        """Have the other workers follow the database; one that takes long goes on by itself."""
        asked = [
            asyncio.ensure_future(other.link.ask(call, body))
            for other in self._workers
            if other is not asker and other.joined and other.link is not None
        ]
        if not asked:
            return
        done, late = await asyncio.wait(asked, timeout=FOLLOW_WAIT)
        for one in late:
            one.cancel()
        for one in done:
            one.exception()  # it ended, or logs by itself what it could not do

    async def _try(self, worker: Worker, operation: Operation) -> bool:
        """Carry an operation out on the first worker; gives whether the model was served before.

        Raises:
            ServerError: It was refused, or the worker did not survive it.
        """
        try:
            return bool((await self._apply(worker, operation))["served"])
        except WorkerGone as gone:
            if operation.kind not in ("load", "register"):
                return True  # the others do it, and who replaces this one
            raise LoadFailed(f"{gone} while it did this; no other worker has done it") from None

    async def _apply(self, worker: Worker, operation: Operation) -> Document:
        """Have one worker carry an operation out.

        Raises:
            WorkerGone: It died, is stopping, or was killed because it was not done in time.
            ServerError: It was refused.
        """
        if worker.link is None:
            raise WorkerGone(f"{worker.name} ended")
        try:
            async with asyncio.timeout(self._settings.worker_timeout):
                answer = await worker.link.ask("apply", operation.as_json())
        except TimeoutError:
            seconds = self._settings.worker_timeout
            logger.error("%s did not carry out %r in %g s", worker.name, operation.kind, seconds)
            worker.kill()
            raise WorkerGone(f"{worker.name} was not done in {seconds:g} s and was ended") from None
        except (LinkLost, Draining):
            raise WorkerGone(f"{worker.name} ended") from None
        worker.ready = answer["ready"]
        return answer

    async def _undone(
        self,
        operation: Operation,
        done: list[Worker],
        served: bool,
        refused: dict[str, ServerError],
    ) -> ServerError:
        """Have the workers that carried `operation` out go back; gives the error for the caller."""
        back = self._log.last(operation) or _opposite(operation, served)
        if back is not None:
            results = await asyncio.gather(
                *[self._apply(worker, back) for worker in done], return_exceptions=True
            )
            for worker, result in zip(done, results, strict=True):
                if isinstance(result, ServerError):
                    logger.error("%s could not go back: %s", worker.name, result.message)
                    worker.kill()
        self._tell_ready()
        names, error = ", ".join(refused), next(iter(refused.values()))
        text = f"{error.message} ({names} refused, the other workers have undone it)"
        return type(error)(text, retry_after=error.retry_after)

    def _discard(self, operation: Operation) -> None:
        """Remove the files of an operation that nobody needs any more."""
        for folder in {Path(file).parent for file in operation.stored.values()}:
            shutil.rmtree(folder, ignore_errors=True)

    # Counts

    async def _totals(self) -> Document:
        """The sums over all workers; of one that does not answer, what it told last."""
        asked = [self._count(worker) for worker in self._workers if worker.link is not None]
        if asked:
            await asyncio.wait(asked, timeout=COUNT_WAIT)
        return self._ledger.totals()

    def _count(self, worker: Worker) -> asyncio.Task[Document]:
        """Ask a worker for its counts; a question still open is not asked again."""
        if worker.counting is None or worker.counting.done():
            worker.counting = asyncio.create_task(self._ask_counts(worker))
        return worker.counting

    async def _ask_counts(self, worker: Worker) -> Document:
        link = worker.link
        if link is None:
            return {}
        try:
            counts = await link.ask("counts")
        except (LinkLost, InvalidInput):
            return {}
        if worker.link is link:
            self._note(worker, counts)
        return counts

    def _note(self, worker: Worker, counts: Document) -> None:
        self._ledger.note(worker.index, counts)
        if worker.joined and worker.ready != counts["ready"]:
            worker.ready = counts["ready"]
            self._tell_ready()


def _ended(process: Any) -> asyncio.Future[None]:
    """Done when the process has ended."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        loop.remove_reader(process.sentinel)
        future.set_result(None)

    loop.add_reader(process.sentinel, end)
    return future


def _opposite(operation: Operation, served: bool) -> Operation | None:
    """What undoes an operation that came after none of its kind."""
    if operation.kind == "register":
        return Operation("unregister", operation.name)
    if operation.kind == "load" and not served:
        return Operation("unload", operation.name)
    if operation.kind in ("load", "unload") and served:
        return Operation("load", operation.name)
    return None


def joined_lines(all_lines: list[list[str]]) -> list[str]:
    """What a person is told when all workers are ready."""
    first, *rest = all_lines[0]
    count = f"  workers  {len(all_lines)}, told the same and counted together"
    return [first, count, *rest]


def supervise(settings: Settings, listener: socket.socket, work: Work, drain_seconds: float) -> int:
    """Serve with `settings.workers` processes; returns the exit code.

    Raises:
        StartError: The metrics port is busy, or the workers die as soon as they start.
    """
    return asyncio.run(Supervisor(settings, listener, work).run(drain_seconds))


def _scratch(settings: Settings) -> Path | None:
    """Where files lie that a worker hands to the others."""
    if settings.data is None:
        return None
    from aiaas_server.state.prepare import scratch_of  # a database only where wanted

    return scratch_of(settings)
