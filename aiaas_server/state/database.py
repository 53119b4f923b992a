"""`Database`: whole transactions, written by one thread and read by a few, awaited from anywhere.

SQLite lets one writer in at a time, and a commit costs a wait for the disk. So one thread writes:
what has gathered while it waited goes into one transaction, each call in a savepoint of its own,
and all are told when the disk has it. That is several times the rate of a connection a call, and
nobody of this process ever waits for a lock. On PostgreSQL the same thread takes one advisory lock
a transaction, so that what is true there is true here: writers come one after the other, whichever
process they are of, and the numbers of rows grow in the order of commits.

A call fails alone. Where it takes the whole transaction with it, as a full disk can, the others
that shared it are run again, each in a transaction of its own.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from sqlalchemy import URL, text
from sqlalchemy import Connection as Connection  # what a `Work` is given
from sqlalchemy.exc import SQLAlchemyError

from aiaas_server.core.errors import StateUnavailable
from aiaas_server.state.engine import (
    failure_of,
    in_transaction,
    is_lost,
    is_sqlite,
    open_engine,
    reading,
    reason_of,
    writing,
)

T = TypeVar("T")
Work = Callable[[Connection], T]
Room = Callable[[int], None]

_log = logging.getLogger("aiaas_server")
WRITERS_LOCK: Final = 0x41494161  # of PostgreSQL's advisory locks, ours: one writer at a time
_MOST_GROUPED: Final = 64
_MOST_WAITING: Final = 4096
_READERS: Final = 2


class _Job:
    """A call that waits for the writer, and what came of it."""

    __slots__ = ("error", "future", "result", "spares_room", "work")

    def __init__(self, work: Work[Any], spares_room: bool) -> None:
        self.work = work
        self.spares_room = spares_room
        self.future: Future[Any] = Future()
        self.result: Any = None
        self.error: BaseException | None = None

    def tell(self) -> None:
        """Hand over what came of it."""
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


class _TransactionLost(Exception):
    """A call took the transaction with it in which others took part."""


class Database:
    """One database, `sqlite:///…` or `postgresql+psycopg://…`.

    Args:
        url: As SQLAlchemy writes it.
        room: Raises `StorageFull` where nothing more is to be written, see `state.space`.

    Attributes:
        engine: For migrations and for whoever needs a connection of its own.
    """

    def __init__(self, url: str | URL, room: Room | None = None) -> None:
        self.engine = open_engine(url)
        self._reading, self._writing = reading(self.engine), writing(self.engine)
        self._room = room
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._accepting = threading.Lock()
        self._closed = False
        self._listeners: list[Callable[[], None]] = []
        self._readers = ThreadPoolExecutor(_READERS, "aiaas-state-read")
        self._writer = threading.Thread(target=self._write_all, name="aiaas-state", daemon=True)
        self._writer.start()

    async def write(self, work: Work[T], *, spares_room: bool = False) -> T:
        """Run `work` in a transaction; returns when the disk has it.

        It may share the transaction with others, but fails alone; `work` changes nothing but
        through its connection, commits nothing, and may be run a second time. A caller that leaves
        changes nothing: what has been handed over is done.

        Args:
            spares_room: It makes room, or takes none worth speaking of: allowed on a full disk.
        Raises:
            ServerError: `work` raised it; nothing of it is kept.
            Conflict: A constraint of the tables does not hold.
            InvalidInput: The database cannot store a value.
            StorageFull: The disk is full.
            StateUnavailable: The database does not answer, or is closed. If the connection broke
                during the commit, the change may have been made.
        """
        done = asyncio.wrap_future(self.submit(work, spares_room=spares_room))
        done.add_done_callback(_seen)
        return await asyncio.shield(done)

    def submit(self, work: Work[T], *, spares_room: bool = False) -> Future[T]:
        """As `write`, for threads. Cancelling works as long as it has not begun."""
        job = _Job(work, spares_room)
        with self._accepting:
            if self._closed:
                raise _closed()
            if self._jobs.qsize() >= _MOST_WAITING:
                raise StateUnavailable(
                    f"{_MOST_WAITING} changes wait for the database; try again", retry_after=1.0
                )
            self._jobs.put(job)
        return job.future

    async def read(self, work: Work[T]) -> T:
        """Run `work`, which only reads, on one consistent state.

        Raises:
            ServerError: `work` raised it.
            StateUnavailable: The database does not answer, or is closed.
        """
        loop = asyncio.get_running_loop()
        try:
            reads = loop.run_in_executor(self._readers, self._read, work)
        except RuntimeError:  # no more after `close`
            raise _closed() from None
        return await reads

    def read_now(self, work: Work[T]) -> T:
        """As `read`, in this thread."""
        if self._closed:
            raise _closed()
        return self._read(work)

    def _read(self, work: Work[T]) -> T:
        try:
            with self._reading.connect() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            failure = failure_of(error, self.engine)
            if failure is error:
                raise
            _log.warning("the database, reading: %s", reason_of(error))
            raise failure from error

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called, in the writer's thread, after each commit of this process.

        Returns:
            What ends that.
        """
        self._listeners.append(listener)

        def end() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return end

    def close(self) -> None:
        """Write and read what has been handed over, and let go of the database."""
        with self._accepting:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._writer.join()
        self._readers.shutdown()
        self.engine.dispose()

    # The writer's thread

    def _write_all(self) -> None:
        more = True
        while more:
            jobs, more = self._gathered()
            away = self._write(jobs) if jobs else None
            if away is not None:
                self._refuse_waiting(away)

    def _gathered(self) -> tuple[list[_Job], bool]:
        """Those that wait, at least one unless it has been cancelled; False with the last ones."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            if job.future.set_running_or_notify_cancel():
                jobs.append(job)
            if len(jobs) >= _MOST_GROUPED:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _refuse_waiting(self, error: BaseException) -> None:
        """Tell all that wait now: each of them would find the database away as well."""
        for _ in range(self._jobs.qsize()):
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)
            elif job.future.set_running_or_notify_cancel():
                job.error = error
                job.tell()

    def _write(self, jobs: list[_Job]) -> BaseException | None:
        """One transaction for all of `jobs`, who are told.

        Returns:
            Why none could be begun; None where one was, whatever came of it.
        """
        wanted = [job for job in jobs if self._has_room(job)]
        began = False
        try:
            if wanted:
                with self._beginning() as connection:
                    began = True
                    for job in wanted:
                        self._run(connection, job)
                    connection.commit()
        except BaseException as error:
            if began and len(wanted) > 1 and not is_lost(error):
                return self._write_apart(jobs, wanted)
            self._fail(wanted, error)
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:
                _log.exception("a listener to commits failed")
        for job in jobs:
            job.tell()
        return None if began or not wanted else wanted[0].error

    def _write_apart(self, jobs: list[_Job], wanted: list[_Job]) -> BaseException | None:
        """Each of `wanted` in a transaction of its own; the rest of `jobs` is told."""
        away: BaseException | None = None
        for job in jobs:
            if job not in wanted or away is not None:
                job.error = away if job in wanted else job.error
                job.tell()
                continue
            job.error = None
            away = self._write([job])
        return away

    def _has_room(self, job: _Job) -> bool:
        try:
            if self._room is not None and not job.spares_room:
                self._room(0)
        except Exception as error:
            job.error = error
        return job.error is None

    @contextmanager
    def _beginning(self) -> Iterator[Connection]:
        """A transaction that has the lock of writers; what it leaves uncommitted is undone."""
        with self._writing.connect() as connection:
            try:
                connection.begin()
                if not is_sqlite(self.engine):
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})"))
                yield connection
            except BaseException:
                # A commit that SQLite refuses leaves its transaction open, in the pool otherwise.
                connection.invalidate()
                raise

    def _run(self, connection: Connection, job: _Job) -> None:
        """One call in a savepoint of its own.

        Raises:
            _TransactionLost: The transaction has ended with it.
            DBAPIError: The connection is gone.
        """
        savepoint = connection.begin_nested()
        try:
            job.result = job.work(connection)
            savepoint.commit()
        except BaseException as error:
            if is_lost(error):
                raise
            job.error = self._told(error)
            with suppress(SQLAlchemyError):  # the error may have ended the whole transaction
                savepoint.rollback()
        if not in_transaction(connection):
            raise _TransactionLost

    def _fail(self, jobs: list[_Job], error: BaseException) -> None:
        """Tell each of `jobs` what ended the transaction, but who has failed before it."""
        if isinstance(error, _TransactionLost):
            (job,) = jobs
            job.error = job.error or RuntimeError("the work ended the transaction that it was in")
            return
        failure = self._told(error)
        for job in jobs:
            job.error = job.error or failure

    def _told(self, error: BaseException) -> BaseException:
        """What a caller is told of what happened to the call."""
        if isinstance(error, SQLAlchemyError):
            _log.error("the database, writing: %s", reason_of(error))
            return failure_of(error, self.engine)
        if isinstance(error, StopIteration):  # which no future can carry
            return RuntimeError(f"the work raised StopIteration({error})")
        return error


def _seen(done: asyncio.Future[Any]) -> None:
    """Look at the error of a call whose caller may have left: nobody else would."""
    if not done.cancelled():
        done.exception()


def _closed() -> StateUnavailable:
    return StateUnavailable("the database is closed")
