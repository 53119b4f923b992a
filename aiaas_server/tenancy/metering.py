"""`Metering`: has what was counted get into the database, by a thread of its own.

Every 0.4 seconds what was added up is put aside; 0.4 later, when the answers have left, it
becomes a line of the journal, and then of the database, in one transaction with the number of the
line. Whoever is killed loses what has no line yet, a second's work, and nothing is added twice. The
journals of processes that are gone are added by whoever gets their locks.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection

from aiaas_server.core.errors import ServerError
from aiaas_server.state.database import Database
from aiaas_server.state.engine import is_sqlite
from aiaas_server.tenancy import measured, usage_rows
from aiaas_server.tenancy.journal import SUFFIX, Journal, Line, added_up, journals
from aiaas_server.tenancy.meter import Meter, Taken

EVERY: Final = 0.4
"""Seconds between two lines; with twice as many, what is lost is within a second."""
MINUTE: Final = 60.0
JOBS_EVERY: Final = 5.0
MOST_LINES: Final = 500
"""Of a journal, in one transaction."""
MOST_KEPT: Final = 100_000
"""Amounts in memory while the journal cannot be written; those of others are lost."""
PATIENCE: Final = 10.0
"""Seconds that a server which ends waits for the database; the rest stays in the journal."""
SKEW: Final = 1.0
"""Seconds that the clocks of two nodes may differ."""

_log = logging.getLogger("aiaas_server")
_EMPTY: Final = Taken({}, [])


class Metering:
    """Writes what one process has counted.

    Args:
        directory: Of the journals, on a disk of this machine.
        meter: What has counted.

    Attributes:
        lost: Amounts that neither disk nor memory had room for.
        told: Called with why the journal cannot be written, once it cannot; and with "" once it
            can again.
    """

    def __init__(
        self,
        database: Database,
        directory: Path,
        meter: Meter,
    ) -> None:
        self._database = database
        self._directory = directory
        self._meter = meter
        self._journal: Journal | None = None
        self._fresh = self._ripe = _EMPTY
        self._applying: Future[int] | None = None
        self._handed = 0  # the last line that was handed to the database
        self._again: dict[str, float] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiaas-usage", daemon=True)
        self._failing = False
        self.lost = 0
        self.told: Callable[[str], object] | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Write everything; what the database does not take stays in the journal."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._end()

    def _run(self) -> None:
        while not self._ending.wait(EVERY):
            try:
                self.tick()
            except Exception:  # the next one may do better
                _log.exception("usage cannot be written; it is tried again")

    def tick(self) -> None:
        """What is done every so often; by one thread."""
        self._ripe, self._fresh = added_up((self._ripe, self._fresh)), self._meter.take()
        self._write()
        self._apply()
        if self._is_due("attempts", 2.0):
            self._try(self._absorb)
        if self._is_due("jobs", JOBS_EVERY):
            self._try(self._measure_jobs)
        if self._is_due("stored", MINUTE):
            self._try(self._measure_stored)
        if self._is_due("replay", MINUTE):
            self._try(self._replay)

    # The journal

    def _write(self) -> None:
        if not self._ripe:
            return
        try:
            if self._journal is None:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._journal = Journal.make(self._directory / f"{uuid.uuid4().hex}{SUFFIX}")
            self._journal.append(self._ripe)
            self._ripe = _EMPTY
            self._journal.compact(self._handed)
            self._tell("")
        except OSError as error:
            self._bound()
            self._tell(error.strerror or str(error))
            if self._is_due("told", MINUTE):
                _log.error(
                    "usage cannot be written to %s: %s; it is kept in memory, requests go on",
                    self._directory.name,
                    error.strerror or error,
                )

    def _tell(self, problem: str) -> None:
        """Tell the operator when it begins to fail, and when that is over."""
        if self._failing != bool(problem):
            self._failing = bool(problem)
            if self.told is not None:
                self.told(problem)

    def _bound(self) -> None:
        """Keep what waits in memory within its bound."""
        amounts, left = self._ripe
        over = len(amounts) + len(left) - MOST_KEPT
        if over <= 0:
            return
        self.lost += over
        kept = dict(list(amounts.items())[:MOST_KEPT])
        self._ripe = Taken(kept, left[: MOST_KEPT - len(kept)])
        _log.error("usage: %d amounts are lost, there is no room for them", over)

    # The database

    def _apply(self) -> None:
        journal = self._journal
        if journal is None:
            return
        if self._applying is not None:
            if not self._applying.done():
                return
            self._applied(journal)
        if journal.waiting and self._applying is None:
            self._hand_over(journal)

    def _hand_over(self, journal: Journal) -> None:
        # After a failure the same lines again, which may have been added, and no more: all behind
        # them may be added up to one where the journal grows.
        lines = [line for line in journal.waiting if line.seq <= self._handed]
        lines = lines or journal.waiting[:MOST_LINES]
        self._handed = lines[-1].seq
        with suppress(ServerError):  # closed, or too many wait
            self._applying = self._database.submit(_adding(journal.node, lines), spares_room=True)

    def _applied(self, journal: Journal) -> None:
        assert self._applying is not None
        applying, self._applying = self._applying, None
        try:
            journal.cut(applying.result())
        except ServerError as error:
            if self._is_due("away", MINUTE):
                _log.warning("usage waits in %s: %s", journal.path.name, error.message)

    def _end(self) -> None:
        """Write and add everything, as far as that goes within the patience."""
        end = time.monotonic() + PATIENCE
        self._ripe = added_up((self._ripe, self._fresh, self._meter.take()))
        self._fresh = _EMPTY
        self._write()
        while self._journal is not None and self._journal.waiting:
            with suppress(ServerError, FutureTimeout):
                if self._applying is not None:
                    self._applying.result(max(0.0, end - time.monotonic()))
            self._apply()
            if time.monotonic() >= end:
                break
            if self._applying is None:  # the database is away, or closed
                time.sleep(0.1)
        if self._ripe:
            _log.error("usage: %d amounts could not be written", len(self._ripe.amounts))
        if self._journal is not None:
            self._let_go(self._journal)

    def _let_go(self, journal: Journal) -> None:
        """Remove a journal that is empty, and only then what was noted of it."""
        try:
            if journal.waiting:
                return
            journal.remove()
            node = journal.node
            self._change(lambda connection: usage_rows.forget(connection, node))
        except OSError as error:
            _log.warning("the journal %s stays: %s", journal.path.name, error)
        finally:
            journal.close()

    def _replay(self) -> None:
        """Add what processes have left that are gone."""
        for path in journals(self._directory):
            if self._journal is not None and path == self._journal.path:
                continue
            found = Journal.take_over(path)
            if found is None:
                continue
            try:
                lines = len(found.waiting)
                while found.waiting:
                    part = found.waiting[:MOST_LINES]
                    found.cut(self._change(_adding(found.node, part)))
                if lines:
                    _log.info("usage: %d lines of a process that is gone were read", lines)
                self._let_go(found)
            finally:
                found.close()

    def _absorb(self) -> None:
        """Have attempts paid with those of the same request that were answered here."""
        waiting = self._database.read_now(usage_rows.attempts)
        if not waiting:
            return
        skew = 0.0 if is_sqlite(self._database.engine) else SKEW
        paid = [one.id for one in waiting if self._meter.absorbs(one.left, skew)]
        if paid:
            self._change(lambda connection: usage_rows.absorb(connection, paid))
        if any(one.left.at <= time.time() - usage_rows.GRACE for one in waiting):
            grace = usage_rows.GRACE
            self._change(lambda c: usage_rows.settle(c, time.time(), grace))

    def _measure_stored(self) -> None:
        now = int(time.time())
        self._change(lambda c: usage_rows.measure(c, measured.STORED, now, measured.stored))

    def _measure_jobs(self) -> None:
        if self._database.read_now(measured.has_run):
            now = int(time.time())
            self._change(lambda c: usage_rows.measure(c, measured.RAN, now, measured.ran))

    def _change(self, work: Callable[[Connection], Any]) -> Any:
        return self._database.submit(work, spares_room=True).result(3 * PATIENCE)

    # Helpers

    def _is_due(self, name: str, every: float) -> bool:
        now = time.monotonic()
        if now < self._again.get(name, 0.0):
            return False
        self._again[name] = now + every
        return True

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (ServerError, OSError, FutureTimeout) as error:
            if self._is_due("failed", MINUTE):
                _log.warning("usage: %s; it is tried again", error)


def _adding(node: str, lines: list[Line]) -> Callable[[Connection], int]:
    """The work that adds lines."""
    return lambda connection: usage_rows.apply(connection, node, lines, time.time())
