"""Keeps a process for a model: starts it, starts it again when it dies, and gives up in the end."""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from weakref import WeakSet

from aiaas_server.core.errors import LoadFailed, ModelUnavailable, ServerError
from aiaas_server.core.session import Isolation, StopToken
from aiaas_server.runtimes.isolated.frames import Broken
from aiaas_server.runtimes.isolated.orders import Order, Told
from aiaas_server.runtimes.isolated.process import ENTRY, Ending, Worker

_log = logging.getLogger("aiaas_server")

DEATHS: Final = 3
"""Of them within `WITHIN` seconds, a model gets no further process."""
WITHIN: Final = 60.0
UNLOADED: Final = "the model was unloaded"
_LONGEST_LOAD: Final = 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0
_PATIENCE: Final = 2.0  # seconds: a run waits for no process that is started later than that
_EXITS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a process is kept; all but the tests keep to these.

    Attributes:
        entry: The module that the process runs.
        load: Seconds in which it has to have opened its model, and run it once.
        pause: Seconds until the first new start; doubled each time, up to `longest_pause`.
    """

    entry: str = ENTRY
    load: float = _LONGEST_LOAD
    pause: float = _FIRST_PAUSE
    longest_pause: float = _LONGEST_PAUSE


class Keeper:
    """The process of one model. A thread starts it, waits for its end, and starts the next.

    Args:
        name: Of the model, for the log.
        content: The model, where the order has no path.

    Attributes:
        isolation: What operators are told.
    """

    def __init__(
        self, name: str, order: Order, content: bytes, isolation: Isolation, terms: Terms
    ) -> None:
        self._name = name
        self._order = order
        self._content = content
        self._terms = terms
        self.isolation = isolation
        self._changed = threading.Condition()
        self._worker: Worker | None = None
        self._told: Told | None = None
        self._problem: ServerError | None = None  # of the first start
        self._next_start = 0.0  # on the monotonic clock
        self._died: deque[float] = deque(maxlen=DEATHS)
        self._pauses = 0
        self._closing = False
        self._recycles = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # something is to be done
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # nothing is, ever again
        self._thread = threading.Thread(target=self._keep, name=f"aiaas-keeps-{name}", daemon=True)

    def open(self) -> Told:
        """Start the first one, and have it tell what it opened.

        Raises:
            LoadFailed: It opened nothing.
        """
        _kept.add(self)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._told or self._problem)
            if self._told is not None:
                return self._told
        self._thread.join()
        raise self._problem or LoadFailed("its process was not started")

    def worker(self, stop: StopToken | None) -> Worker:
        """The process to run on; one that is about to be started is waited for.

        Raises:
            ModelUnavailable: There is none, and will not be soon.
        """
        worker = self._worker
        if worker is not None and worker.ending is None:
            return worker
        if stop is not None:
            stop.on_stop(self._tell_all)
        with self._changed:
            self._changed.wait_for(lambda: self._settled() or (stop is not None and stop.stopped))
            self._refuse()
            if self._worker is None or self._worker.ending is not None:
                raise ModelUnavailable("the model's process is being started", retry_after=1.0)
            return self._worker

    def _settled(self) -> bool:
        """Whether waiting is over, for good or ill."""
        is_up = self._worker is not None and self._worker.ending is None
        far = self._next_start - time.monotonic() > _PATIENCE
        return is_up or far or self._closing or bool(self.isolation.quarantined)

    def _refuse(self) -> None:
        if self._closing:
            raise ModelUnavailable(UNLOADED, retry_after=1.0)
        if self.isolation.quarantined:
            raise ModelUnavailable(
                f"the model is quarantined: {self.isolation.quarantined}", retry_after=WITHIN
            )

    def _tell_all(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def recycle(self) -> None:
        """Have another process in the place of this one, which has grown; runs go on meanwhile."""
        if not self._recycles:
            self._recycles = True
            self._awake()

    def _awake(self) -> None:
        with suppress(OSError, ValueError):  # it is closed, or full
            os.eventfd_write(self._wake, 1)

    def died(self, worker: Worker, reason: str = "") -> Ending:
        """Note that one has ended, or is to be ended for that reason; once for each."""
        ending = worker.end(_EXITS, reason)
        with self._changed:
            if worker is not self._worker:
                return ending
            self._worker = None
            if not self._closing:
                self._count(ending)
            self._changed.notify_all()
        self._awake()
        return ending

    def _count(self, ending: Ending) -> None:
        now = time.monotonic()
        if not self._died or now - self._died[-1] > WITHIN:
            self._pauses = 0
        self._died.append(now)
        pause = min(self._terms.pause * 2**self._pauses, self._terms.longest_pause)
        self._pauses += 1
        self._next_start = now + pause
        isolation = self.isolation
        isolation.deaths += 1
        _log.warning("model '%s': its process ended: %s", self._name, ending)
        if len(self._died) == DEATHS and now - self._died[0] <= WITHIN:
            isolation.quarantined = (
                f"its process ended {DEATHS} times within {WITHIN:g} s, the last time: {ending}"
            )
            _log.error("model '%s' is quarantined: %s", self._name, isolation.quarantined)

    def close(self) -> None:
        """End it; the thread sees to it, so that this returns at once."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            if self._worker is not None:
                self._worker.kill(UNLOADED)
            self._changed.notify_all()
            with suppress(OSError, ValueError):  # the thread has ended
                os.eventfd_write(self._stop, 1)

    def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until nothing is left of it."""
        self._thread.join(timeout)

    # The thread

    def _keep(self) -> None:
        try:
            if self._first():
                self._go_on()
        except BaseException:
            _log.exception("model '%s': the thread that keeps its process failed", self._name)
            self.isolation.quarantined = "the server failed to keep its process"
            raise
        finally:
            if self._worker is not None:
                self._worker.end(reason=UNLOADED)
            with self._changed:
                self._closing = True
                for file in (self._wake, self._stop):
                    os.close(file)
                self._wake = self._stop = -1
                self._changed.notify_all()

    def _go_on(self) -> None:
        while not self._closing:
            self._watch()
            if self.isolation.quarantined:
                self._sleep(None)
            elif not self._closing:
                self._again()

    def _first(self) -> bool:
        try:
            worker, told = self._start()
        except ServerError as error:
            with self._changed:
                self._problem = error
                self._changed.notify_all()
            return False
        with self._changed:
            self._worker, self._told = worker, told
            self.isolation.memory_bytes = worker.memory_bytes
            self._changed.notify_all()
        return True

    def _start(self) -> tuple[Worker, Told]:
        """One that has opened the model.

        Raises:
            LoadFailed: It did not; ModelUnavailable: nobody wants it any more.
        """
        until = time.monotonic() + self._terms.load
        try:
            worker = Worker(self._order, self._content, self._terms.entry)
        except OSError as error:
            raise LoadFailed(f"no process for it: {error.strerror}") from error
        try:
            told = worker.hear(until, self._stop)
        except Broken as error:
            worker.end(reason=f"it broke the rules: {error}")
            raise LoadFailed(f"its process broke the rules: {error}") from error
        except BaseException:
            worker.end(reason="it did not open the model")
            raise
        if told.failed:
            worker.end(reason="it did not open the model")
            if not told.mistake:
                _log.error("model '%s': no confined process: %s", self._name, told.failed)
            raise LoadFailed(told.failed)
        return worker, told

    def _watch(self) -> None:
        """Return once the process has ended, or nobody wants it."""
        while not self._closing:
            worker = self._worker
            if worker is None or worker.ending is not None:
                return
            poll = select.poll()
            for file in (self._wake, self._stop, control := worker.control):
                if file >= 0:  # its own is gone where it has just ended
                    poll.register(file, select.POLLIN)
            ready = {file for file, _ in poll.poll()}
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            if self._recycles:
                self._replace(worker)
            elif control in ready:
                self.died(worker)

    def _replace(self, old: Worker) -> None:
        """Have a new process serve, and end the old one when its runs have."""
        try:
            new, told = self._start()
        except (LoadFailed, ModelUnavailable) as error:
            _log.warning("model '%s': its process is kept: %s", self._name, error.message)
            return
        finally:
            self._recycles = False
        if told != self._told:
            new.end(reason="it tells another model")
            return
        with self._changed:
            self._worker, current = new, self._worker
            self.isolation.memory_bytes = new.memory_bytes
            self.isolation.recycled += 1
        if current is old:
            threading.Thread(target=_retired, args=(old,), daemon=True).start()

    def _again(self) -> None:
        """Start the next one after its pause; a failure counts as another death."""
        self._recycles = False
        if not self._sleep(self._next_start):
            return
        try:
            worker, told = self._start()
            if told != self._told:
                worker.end(reason="it tells another model than before")
                raise LoadFailed("it is not the model that it was")
        except (LoadFailed, ModelUnavailable) as error:
            with self._changed:
                if not self._closing:
                    self._count(Ending(0, 0, f"it could not be opened again: {error.message}"))
                self._changed.notify_all()
            return
        with self._changed:
            self._worker = worker
            self.isolation.restarts += 1
            self.isolation.memory_bytes = worker.memory_bytes
            self._changed.notify_all()

    def _sleep(self, until: float | None) -> bool:
        """Wait until then, or for ever; False where the model was closed meanwhile."""
        left = None if until is None else max(until - time.monotonic(), 0) * 1000
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        return not poll.poll(left)


def _retired(worker: Worker) -> None:
    worker.drained()
    worker.end(reason="another one serves in its place")


_kept: WeakSet[Keeper] = WeakSet()


@atexit.register
def _close_all() -> None:
    for keeper in list(_kept):
        keeper.close()
    for keeper in list(_kept):
        keeper.wait_closed(5.0)
