"""`Jobs`: runs as many jobs at a time as this process may, for as long as it holds them.

A job is claimed when the change feed tells of one, or a look every few seconds finds it; each has a
`Held` of its own, which renews the lease, writes down what the process tells, keeps its checkpoints
and what it made. All of it can end at any moment, by a kill or a loss of power: the rows say what
has come of a job, and whoever claims it next goes on from there.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from aiaas_server.core.errors import ServerError
from aiaas_server.jobs import places, queue
from aiaas_server.jobs.held import Held
from aiaas_server.jobs.holders import Holders
from aiaas_server.jobs.keeping import Keeping
from aiaas_server.jobs.process import WORKER
from aiaas_server.jobs.rows import KIND, unended_jobs
from aiaas_server.jobs.work import Allowed, Keep, LayOut, Work
from aiaas_server.state.database import Database
from aiaas_server.state.feed import Feed

LOOK: Final = 3.0
"""Seconds between two looks for jobs that nobody told of, and for those that nobody renews."""

_log = logging.getLogger("aiaas_server")


class Jobs:
    """The jobs of one process.

    Args:
        database: The rows.
        feed: Tells of new ones.
        root: `DATA/jobs`, where each has a directory.
        keeping: For checkpoints.
        lay_out, keep: What goes before and behind a process.
        allowed: What they may take.
        turn: Where several processes of a server share `slots`, a file that one of them locks: that
            one runs all of them, until it ends.
        worker: The module that a process runs.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        root: Path,
        keeping: Keeping,
        *,
        lay_out: LayOut,
        keep: Keep,
        allowed: Allowed,
        turn: str = "",
        worker: str = WORKER,
    ) -> None:
        self._database = database
        self._feed = feed
        self._root = root
        self._keeping = keeping
        self._allowed = allowed
        self._turn = turn
        self._holder = uuid.uuid4().hex  # of this start, never used again
        self._holders = Holders(root)
        self._work = Work(database, keeping, lay_out, keep, allowed, worker)
        self._running: dict[str, tuple[Held, asyncio.Task[None]]] = {}
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    def start(self) -> None:
        """Run what there is, and what comes."""
        self._holders.begin(self._holder)
        self._tasks = [
            asyncio.create_task(self._go_on(), name="aiaas jobs"),
            asyncio.create_task(self._listen(), name="aiaas jobs, changes"),
        ]

    async def close(self) -> None:
        """End what runs: it waits for another server, or this one's next start."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for held, _ in self._running.values():
            held.leave()
        await asyncio.gather(*(task for _, task in self._running.values()), return_exceptions=True)
        await asyncio.to_thread(self._holders.end)

    @property
    def running(self) -> int:
        """How many run here now."""
        return len(self._running)

    async def _go_on(self) -> None:
        # A lock tells nobody that it is free.
        while not await asyncio.to_thread(self._holders.take_turn, self._turn):  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        while True:
            try:
                await self._fill()
            except ServerError as error:
                _log.warning("jobs wait: %s", error.message)
            except Exception:
                _log.exception("jobs cannot be claimed")
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._woken.wait()
            self._woken.clear()

    async def _fill(self) -> None:
        """Claim as many as there are places."""
        await self._tidy()
        while len(self._running) < self._allowed.slots:
            if not await self._database.read(queue.has_work):
                return
            claim = partial(queue.claim, holder=self._holder, lease=self._allowed.lease)
            # What is handed over to the database is done, whether or not somebody waits for it.
            found = await asyncio.shield(self._database.write(claim))
            if found is None:
                return
            self._begin(found)

    async def _tidy(self) -> None:
        """Have jobs wait again whose holders are gone, and remove what is left of those over."""
        known = await self._database.read(queue.holders)
        gone = await asyncio.to_thread(self._holders.gone, known - {self._holder})
        expired = await self._database.read(queue.has_expired)
        if gone or expired:
            expire = partial(queue.expire, gone=sorted(gone))
            for over in await self._database.write(expire, spares_room=True):
                await self._keeping.remove(over.tenant, over.digests)
        left = await asyncio.to_thread(places.left, self._root)  # before the rows, which come first
        wanted = await self._database.read(unended_jobs) | self._running.keys()
        await asyncio.to_thread(places.clean, left, wanted)

    def _begin(self, found: queue.Claimed) -> None:
        held = Held(self._work, found, self._root)
        task = asyncio.create_task(held.carry_out(), name=f"aiaas job {found.row.id}")
        self._running[found.row.id] = held, task
        task.add_done_callback(partial(self._ended, found.row.id))

    def _ended(self, job: str, task: asyncio.Task[None]) -> None:
        del self._running[job]
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("job %s: the server failed to run it", job, exc_info=error)

    async def _listen(self) -> None:
        """Wake up when there is something to do."""
        seq = await self._last_change()
        async for rows in self._feed.beyond(seq):
            for row in rows:
                if row.kind != KIND:
                    continue
                self._woken.set()
                if row.data.get("cancelling") and row.object in self._running:
                    self._running[row.object][0].cancel()

    async def _last_change(self) -> int:
        while True:
            try:
                return await self._feed.last()
            except ServerError:  # what is missed meanwhile, the looks find
                await asyncio.sleep(LOOK)
