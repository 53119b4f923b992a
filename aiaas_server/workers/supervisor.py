"""The parent: starts workers, starts them again when they die, and keeps them alike.

What one worker is told it hands on as an order, one at a time. One worker carries it out first: if
that fails, or kills it, nothing else has changed. Then all others do, at the same time. If one of
them refuses, those that did it undo it and the caller is told who refused; if one dies or is not
done in time, it is replaced, and its replacement does what the log of orders says before it
accepts connections.
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
from aiaas_server.http.orders import Order
from aiaas_server.listen import StartError, bind_metrics
from aiaas_server.settings import Settings
from aiaas_server.workers.control_log import ControlLog
from aiaas_server.workers.ledger import Ledger
from aiaas_server.workers.link import Body, Link, LinkLost

logger = logging.getLogger("aiaas_server")

FIRST_DELAY = 0.1  # before a dead worker is started again; doubles
LONGEST_DELAY = 30.0
STEADY = 10.0  # a worker that lived so long starts again without delay
GIVE_UP = 5  # deaths in a row without any worker having become ready
COUNT_WAIT = 1.0  # for a worker to tell its counts; then those it told before are taken

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker's process is started with.

    Attributes:
        index: Its place, from 0.
        again: It replaces one that died: the others serve meanwhile.
        parent: Its end of the socket pair.
        files: A directory for model files on their way.
    """

    settings: Settings
    listener: socket.socket
    metrics: socket.socket | None
    index: int
    again: bool
    parent: socket.socket
    files: Path


Work = Callable[[Post], None]


class WorkerGone(Exception):
    """A worker died, or was killed because it did not answer in time."""


@dataclass(slots=True)
class Place:
    """One place in the row of workers and the process that holds it now."""

    index: int
    process: Any = None
    link: Link | None = None
    joined: bool = False
    ready: bool = False
    deaths: int = 0
    lines: list[str] = field(default_factory=list)
    counting: asyncio.Task[Body] | None = None

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
        self._places = [Place(index) for index in range(settings.workers)]
        self._files = Path(tempfile.mkdtemp(prefix="aiaas-workers-"))
        self._log = ControlLog()
        self._ledger = Ledger()
        self._one_order: asyncio.Lock
        self._stopping: asyncio.Event
        self._failure: StartError | None = None
        self._told = False
        self._failures = 0
        self._signals = 0

    async def run(self, drain_seconds: float) -> int:
        """Look after the workers until a signal comes; returns the exit code.

        Args:
            drain_seconds: Longest time the workers get to stop, then they are killed.
        Raises:
            StartError: The workers die as soon as they start.
        """
        loop = asyncio.get_running_loop()
        self._one_order, self._stopping = asyncio.Lock(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        keeping = [asyncio.create_task(self._keep(place)) for place in self._places]
        try:
            await self._stopping.wait()
            await self._drain(keeping, drain_seconds)
        finally:
            for place in self._places:
                place.kill()
            await asyncio.gather(*keeping, return_exceptions=True)
            if self._metrics is not None:
                self._metrics.close()
            shutil.rmtree(self._files, ignore_errors=True)
        if self._failure is not None:
            raise self._failure
        return 0

    def _signalled(self, number: int) -> None:
        self._signals += 1
        self._stopping.set()
        if self._signals > 1:
            for place in self._places:
                place.kill()
            shutil.rmtree(self._files, ignore_errors=True)
            os._exit(128 + number)

    async def _drain(self, keeping: list[asyncio.Task[None]], seconds: float) -> None:
        """Tell all workers to stop and wait for them."""
        self._listener.close()
        for place in self._places:
            if place.link is not None:
                place.link.tell("stop")
        _, late = await asyncio.wait(keeping, timeout=seconds)
        if late:
            logger.warning("killing the workers that did not stop in time")

    # One place

    async def _keep(self, place: Place) -> None:
        """Hold a process in the place until the server stops."""
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._live(place)
            if self._stopping.is_set():
                return
            lived = time.monotonic() - began
            place.deaths = 0 if lived > STEADY else place.deaths + 1
            self._failures += 1
            if not self._told and self._failures >= GIVE_UP:
                text = f"the workers do not start: the last one ended with code {code}"
                self._failure = StartError(text)
                self._stopping.set()
                return
            logger.error("%s ended with code %s; starting it again", place.name, code)
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2**place.deaths)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    async def _live(self, place: Place) -> int:
        """Run one process in the place until it ends; gives its exit code."""
        ours, theirs = socket.socketpair()
        place.process = self._start(place, theirs)
        link = place.link = await Link.open(ours, partial(self._on_call, place))
        ended = _ended(place.process)
        if self._stopping.is_set():
            link.tell("stop")
        try:
            await link.serve()
            self._set_joined(place, False)
            await ended
        finally:
            place.link = None
            self._ledger.bury(place.index)
            process, place.process = place.process, None
            process.join()
            code: int = process.exitcode
            process.close()
        return code

    def _start(self, place: Place, theirs: socket.socket) -> Any:
        """Start a process for the place. Ctrl+C must not end it before it can drain."""
        again = self._told
        post = Post(
            self._settings, self._listener, self._metrics, place.index, again, theirs, self._files
        )
        process = _spawn.Process(
            target=self._work, args=(post,), name=f"aiaas-worker-{place.index + 1}"
        )
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
            theirs.close()
        return process

    def _set_joined(self, place: Place, joined: bool, ready: bool = False) -> None:
        place.joined = joined
        place.ready = joined and ready
        self._tell_ready()

    def _tell_ready(self) -> None:
        ready = all(place.ready for place in self._places)
        for place in self._places:
            if place.link is not None:
                place.link.tell("ready", {"ready": ready})

    # What a worker calls

    async def _on_call(self, place: Place, call: str, body: Body) -> Body:
        if call == "join":
            await self._join(place, body)
        elif call == "order":
            await self._order(place, Order.from_json(body))
        elif call == "totals":
            return await self._totals()
        elif call == "counts":
            self._note(place, body)
        elif call == "leave":
            self._set_joined(place, False)
        return {}

    async def _join(self, place: Place, body: Body) -> None:
        """Have a worker do what the others have done; from then on it is one of them."""
        async with self._one_order:
            for order in self._log.orders():
                try:
                    await self._apply(place, order)
                except WorkerGone:
                    return
            self._failures = 0
            self._set_joined(place, True, body["ready"] if not self._log.orders() else place.ready)
        place.lines = body["lines"]
        if not self._told and all(other.lines for other in self._places):
            self._told = True
            print("\n".join(joined_lines([p.lines for p in self._places])), flush=True)

    async def _order(self, asker: Place, order: Order) -> None:
        async with self._one_order:
            try:
                await self._carry_out(asker, order)
            except BaseException:
                self._discard(order)
                raise

    async def _carry_out(self, asker: Place, order: Order) -> None:
        if self._stopping.is_set():
            raise Draining("the server is stopping")
        members = [place for place in self._places if place.joined]
        # The asker last: if the order kills who tries it, somebody can still tell the caller.
        members.sort(key=lambda place: place is asker)
        if not members:
            raise ModelUnavailable("the server is still starting", retry_after=1.0)
        first, *others = members
        served = await self._try(first, order)
        results = await asyncio.gather(
            *[self._apply(place, order) for place in others], return_exceptions=True
        )
        outcomes = dict(zip([place.name for place in others], results, strict=True))
        refused = {name: e for name, e in outcomes.items() if isinstance(e, ServerError)}
        if refused:
            done = [first, *[p for p in others if isinstance(outcomes[p.name], dict)]]
            raise await self._undone(order, done, served, refused)
        self._tell_ready()
        known = self._log.last(order) is not None
        if order.kind == "unload" and not served and not known:
            return  # nobody had it: there is nothing to remember
        replaced = self._log.remember(order)
        if replaced is not None:
            self._discard(replaced)

    async def _try(self, place: Place, order: Order) -> bool:
        """Carry an order out on the first worker; gives whether the model was served before.

        Raises:
            ServerError: It was refused, or the worker did not survive it.
        """
        try:
            return bool((await self._apply(place, order))["served"])
        except WorkerGone as gone:
            if order.kind not in ("load", "register"):
                return True  # the others do it, and who replaces this one
            raise LoadFailed(f"{gone} while it did this; no other worker has done it") from None

    async def _apply(self, place: Place, order: Order) -> Body:
        """Have one worker carry an order out.

        Raises:
            WorkerGone: It died, is stopping, or was killed because it was not done in time.
            ServerError: It was refused.
        """
        if place.link is None:
            raise WorkerGone(f"{place.name} ended")
        try:
            async with asyncio.timeout(self._settings.worker_timeout):
                answer = await place.link.ask("apply", order.as_json())
        except TimeoutError:
            seconds = self._settings.worker_timeout
            logger.error("%s did not carry out %r in %g s", place.name, order.kind, seconds)
            place.kill()
            raise WorkerGone(f"{place.name} was not done in {seconds:g} s and was ended") from None
        except (LinkLost, Draining):
            raise WorkerGone(f"{place.name} ended") from None
        place.ready = answer["ready"]
        return answer

    async def _undone(
        self, order: Order, done: list[Place], served: bool, refused: dict[str, ServerError]
    ) -> ServerError:
        """Have the workers that carried `order` out go back; gives the error for the caller."""
        back = self._log.last(order) or _opposite(order, served)
        if back is not None:
            results = await asyncio.gather(
                *[self._apply(place, back) for place in done], return_exceptions=True
            )
            for place, result in zip(done, results, strict=True):
                if isinstance(result, ServerError):
                    logger.error("%s could not go back: %s", place.name, result.message)
                    place.kill()
        self._tell_ready()
        names, error = ", ".join(refused), next(iter(refused.values()))
        text = f"{error.message} ({names} refused, the other workers have undone it)"
        return type(error)(text, retry_after=error.retry_after)

    def _discard(self, order: Order) -> None:
        """Remove the files of an order that nobody needs any more."""
        for folder in {Path(place).parent for place in order.stored.values()}:
            shutil.rmtree(folder, ignore_errors=True)

    # Counts

    async def _totals(self) -> Body:
        """The sums over all workers; of one that does not answer, what it told last."""
        asked = [self._count(place) for place in self._places if place.link is not None]
        if asked:
            await asyncio.wait(asked, timeout=COUNT_WAIT)
        return self._ledger.totals()

    def _count(self, place: Place) -> asyncio.Task[Body]:
        """Ask a worker for its counts; a question still open is not asked again."""
        if place.counting is None or place.counting.done():
            place.counting = asyncio.create_task(self._ask_counts(place))
        return place.counting

    async def _ask_counts(self, place: Place) -> Body:
        link = place.link
        if link is None:
            return {}
        try:
            counts = await link.ask("counts")
        except (LinkLost, InvalidInput):
            return {}
        if place.link is link:
            self._note(place, counts)
        return counts

    def _note(self, place: Place, counts: Body) -> None:
        self._ledger.note(place.index, counts)
        if place.joined and place.ready != counts["ready"]:
            place.ready = counts["ready"]
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


def _opposite(order: Order, served: bool) -> Order | None:
    """What undoes an order that came after none of its kind."""
    if order.kind == "register":
        return Order("unregister", order.name)
    if order.kind == "load" and not served:
        return Order("unload", order.name)
    if order.kind in ("load", "unload") and served:
        return Order("load", order.name)
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
