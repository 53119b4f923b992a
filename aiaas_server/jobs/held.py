"""`Held`: one job, for as long as this process holds it: laid out, run, kept, and written down."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeVar

from sqlalchemy import Connection

from aiaas_client.protocol.jobs import JobError, JobResult
from aiaas_server.core.errors import (
    InvalidInput,
    ModelUnavailable,
    OutOfMemory,
    QuotaExceeded,
    ServerError,
    StateUnavailable,
    StorageFull,
)
from aiaas_server.jobs import places, queue
from aiaas_server.jobs.hearing import Heard, Limits, LogLine, Outcome
from aiaas_server.jobs.keeping import Kept
from aiaas_server.jobs.notes import Notes
from aiaas_server.jobs.orders import CheckpointLine, Order, Product
from aiaas_server.jobs.process import run
from aiaas_server.jobs.work import Work
from aiaas_server.state.artefacts.artefacts import Corrupt

T = TypeVar("T")
_GATHER: Final = 0.5  # seconds in which news gathers
_AGAIN: Final = 0.5  # seconds before a database that is away is asked again

_log = logging.getLogger("aiaas_server")

Why = Literal["", "cancel", "leave", "lost"]


class _Cannot(NamedTuple):
    """It failed, and would fail again."""

    error: JobError


class Held:
    """A job that was claimed.

    Args:
        work: How jobs are carried out here.
        found: The job.
        root: `DATA/jobs`.
    """

    def __init__(self, work: Work, found: queue.Claimed, root: Path) -> None:
        self._work = work
        self._row = found.row
        self._hold = found.hold
        self._spent = found.spent
        self._root = root
        self._directory = places.place(root, found.row.id, found.row.attempt)
        self._notes = Notes()
        self._news = asyncio.Event()
        self._why: Why = ""
        self._keeping = False
        self._renewed = time.monotonic()
        self._job: asyncio.Task[JobResult | _Cannot | Outcome] | None = None

    def cancel(self) -> None:
        """End it for good, unless it is done but for keeping what it made."""
        if not self._keeping:
            self._stop("cancel")

    def leave(self) -> None:
        """End it here; whoever claims it next goes on."""
        self._stop("leave")

    async def carry_out(self) -> None:
        """All of it; returns when what came of it is written down, or is another's to write."""
        _log.info("job %s (%s) runs, attempt %d", self._row.id, self._row.kind, self._row.attempt)
        self._job = asyncio.create_task(self._done())
        if self._why:
            self._job.cancel()
        renewing = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({self._job})
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        await self._conclude(self._job)

    def _stop(self, why: Why) -> None:
        self._why = self._why or why
        if self._job is not None:
            self._job.cancel()

    # What is done

    async def _done(self) -> JobResult | _Cannot | Outcome:
        product = await asyncio.to_thread(places.made_before, self._root, self._row.id)
        if product is None:
            outcome = await self._run()
            if isinstance(outcome, _Cannot) or outcome.product is None:
                return outcome
            product = outcome.product
            await asyncio.to_thread(places.remember, self._directory, product)
        else:  # the server ended while it kept that
            self._directory = await asyncio.to_thread(
                places.take_over, self._root, self._row.id, self._directory
            )
        return await self._kept(product)

    async def _run(self) -> Outcome | _Cannot:
        whole = min(self._row.timeout or self._work.allowed.timeout, self._work.allowed.timeout)
        if self._spent >= whole:
            text = f"not done within {whole:g} s, all attempts together"
            return _Cannot(JobError(code="timeout", message=text))
        await asyncio.to_thread(places.make, self._root, self._row.id, self._directory)
        allowed = self._work.allowed
        limits = Limits(
            allowed.memory_bytes, whole - self._spent, allowed.threads, whole, allowed.check_room
        )
        try:
            order = await self._laid_out()
            return await run(order, self._directory, limits, self._hear, worker=self._work.worker)
        except StateUnavailable as error:
            return Outcome(lost=error.message)
        except (ServerError, OSError) as error:
            return _Cannot(told(error))

    async def _laid_out(self) -> Order:
        try:
            return await self._work.lay_out(self._row, self._directory)
        except Corrupt as error:
            checkpoint = self._row.checkpoint
            if checkpoint is None or error.digest != checkpoint["sha256"]:
                raise
        self._hear_line("the checkpoint is damaged: it begins anew")
        unused = await self._write(partial(queue.drop_checkpoint, hold=self._hold))
        await self._work.keeping.remove(self._row.tenant, unused or ())
        self._row = self._row._replace(checkpoint=None)
        await asyncio.to_thread(places.make, self._root, self._row.id, self._directory)
        return await self._work.lay_out(self._row, self._directory)

    async def _kept(self, product: Product) -> JobResult | _Cannot | Outcome:
        self._keeping = True  # from here on a cancellation is refused, see `queue.cancel`
        begun = await self._write(partial(queue.begin_keeping, hold=self._hold))
        if begun is None:
            self._keeping = False
            return Outcome(lost="it was taken away before what it made was kept")
        try:
            return await self._work.keep(self._row, product, self._directory)
        except (StateUnavailable, ModelUnavailable) as error:
            return Outcome(lost=error.message)
        except (ServerError, OSError) as error:
            return _Cannot(told(error))

    # What it tells

    async def _hear(self, heard: Heard) -> None:
        if isinstance(heard, LogLine):
            self._hear_line(heard.text)
        elif isinstance(heard, CheckpointLine):
            await self._keep_checkpoint(heard)
        else:
            self._notes.progress(heard.progress)
            self._news.set()

    def _hear_line(self, text: str) -> None:
        self._notes.line(text)
        self._news.set()

    async def _keep_checkpoint(self, line: CheckpointLine) -> None:
        path = self._directory / line.path

        def note(connection: Connection, kept: Kept) -> list[str] | None:
            return queue.set_checkpoint(connection, self._hold, kept.sha256, kept.size, line.step)

        try:
            unused = await self._work.keeping.keep(self._row.tenant, self._row.user, path, note)
            if unused:
                await self._work.keeping.remove(self._row.tenant, unused)
        except (ServerError, OSError) as error:  # the one before it stays
            self._hear_line(f"the checkpoint of step {line.step} could not be kept: {error}")
        finally:
            path.unlink(missing_ok=True)  # a name of a local disk

    # What is written down

    async def _renew(self) -> None:
        """Hold it, until it is done, another has it, or nobody can tell any more."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._work.allowed.lease / 6):
                    await self._news.wait()
            self._news.clear()
            await self._write_down()
            await asyncio.sleep(_GATHER)

    async def _write_down(self) -> None:
        news, asked = self._notes.take(), time.monotonic()
        renew = partial(queue.renew, hold=self._hold, news=news, lease=self._work.allowed.lease)
        try:
            row = await self._work.database.write(renew, spares_room=True)
        except ServerError as error:
            self._notes.give_back(news)
            if time.monotonic() - self._renewed > self._work.allowed.lease:
                _log.warning("job %s is let go: %s", self._row.id, error.message)
                self._stop("lost")
            return
        self._renewed = asked
        if row is None:
            _log.warning("job %s is no longer this server's", self._row.id)
            self._stop("lost")
        elif row.cancelling:
            self.cancel()

    async def _conclude(self, job: asyncio.Task[JobResult | _Cannot | Outcome]) -> None:
        """Write down what came of it, and remove what is left."""
        if self._why != "lost":
            await self._write_down()
            over = await self._write(partial(self._ended, job=job))
            if over is not None:
                await self._work.keeping.remove(over.tenant, over.digests)
        if not self._is_kept_later(job):
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def _is_kept_later(self, job: asyncio.Task[JobResult | _Cannot | Outcome]) -> bool:
        """Whether the next attempt goes on with what this one made."""
        if job.cancelled():
            return self._keeping and self._why == "leave"
        done = job.exception() is None and isinstance(job.result(), Outcome)
        return self._keeping and done

    def _ended(
        self, connection: Connection, job: asyncio.Task[JobResult | _Cannot | Outcome]
    ) -> queue.Over | None:
        if job.cancelled():
            if self._why == "cancel":
                return queue.cancelled(connection, self._hold)
            return queue.put_back(connection, self._hold, spent=False)
        error = job.exception()
        if error is not None:
            _log.error("job %s: the server failed to run it", self._row.id, exc_info=error)
            text = f"the server failed to run it: {type(error).__name__}"
            return queue.fail(connection, self._hold, JobError(code="failed", message=text))
        came = job.result()
        if isinstance(came, JobResult):
            return queue.succeed(connection, self._hold, came)
        found = came.error
        if found is not None:
            return queue.fail(connection, self._hold, found)
        _log.warning("job %s: %s", self._row.id, came.lost)  # type: ignore[union-attr]
        return queue.put_back(connection, self._hold, spent=True)

    async def _write(self, work: Callable[[Connection], T]) -> T | None:
        """Write, again and again for as long as the job is held; None where that has ended."""
        while time.monotonic() - self._renewed < self._work.allowed.lease:
            try:
                return await self._work.database.write(work, spares_room=True)
            except StateUnavailable:
                await asyncio.sleep(_AGAIN)
        return None


def told(error: ServerError | OSError) -> JobError:
    """What is told of a job that the server could not lay out, start, or keep."""
    if isinstance(error, OSError):
        full = error.errno in (28, 122)  # ENOSPC, EDQUOT
        text = "the disk of the server is full" if full else f"the server: {error.strerror}"
        return JobError(code="storage_full" if full else "failed", message=text)
    codes: tuple[tuple[type[ServerError], str], ...] = (
        (InvalidInput, "invalid_input"),
        (StorageFull, "storage_full"),
        (QuotaExceeded, "quota_exceeded"),
        (OutOfMemory, "out_of_memory"),
    )
    code = next((code for kind, code in codes if isinstance(error, kind)), "failed")
    return JobError(code=code, message=error.message)
