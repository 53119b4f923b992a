"""The thread that writes: it alone uses the network, and does one run after another.

Between two runs it takes what came in, lets go who left, gives slots, and hands over what was
written: to each event loop by one call a run. Whatever happens in here, nobody is left waiting.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, Protocol
from weakref import WeakSet

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, InvalidInput, OutOfMemory, ServerError, bare
from aiaas_server.core.generation import Piece
from aiaas_server.core.session import StopToken
from aiaas_server.core.statistics import Statistics
from aiaas_server.generate.accounts import Counts
from aiaas_server.generate.job import Job
from aiaas_server.generate.network import Network
from aiaas_server.generate.pace import Pace
from aiaas_server.generate.sampling import Choice, choose
from aiaas_server.generate.scheduler import Fill, Scheduler

_log = logging.getLogger("aiaas_server")
Message = Callable[[], object]
_LAST_RUN: Final = 60.0  # seconds that the end of the process waits for a run to break off


class FillsMasks(Protocol):
    """The tokens that formats permit, found while the network runs: `constraint.Masks`."""

    def fill_later(self, matchers: Sequence[Any]) -> None: ...
    def wait(self) -> Array: ...
    def close(self) -> None: ...


class Sent(NamedTuple):
    """What one run gave one reader.

    Attributes:
        piece: More of the answer, or None.
        error: What it broke off by, or None.
        tokens: Written so far.
    """

    job: Job
    piece: Piece | None
    error: Exception | None
    tokens: int


class _Run(NamedTuple):
    jobs: tuple[Job, ...]
    stop: StopToken


class Writer:
    """Runs the network for all jobs.

    Args:
        hand_over: Is called on a job's loop with what its readers get.
        ended: Is called in the thread when it ends, with why: None where it was closed.
        open_masks: Makes what finds masks, with the first answer that has a format.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        pace: Pace,
        statistics: Statistics,
        counts: Counts,
        hand_over: Callable[[list[Sent]], object],
        ended: Callable[[Exception | None], object],
        open_masks: Callable[[], FillsMasks],
        *,
        speculate: bool,
    ) -> None:
        self._name = name
        self._network = network
        self._pace = pace
        self._statistics = statistics
        self._counts = counts
        self._hand_over = hand_over
        self._tell_end = ended
        self._open_masks = open_masks
        self._masks: FillsMasks | None = None
        self._speculate = speculate
        self._jobs: Scheduler[Job] = Scheduler(network.slots, pace)
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._posting = threading.Lock()
        self._over = False
        self._closing = False
        self._sent: dict[AbstractEventLoop, list[Sent]] = {}
        self._run_now: _Run | None = None
        self.thread = threading.Thread(target=self._live, name=f"generate {name}", daemon=True)
        _writers.add(self)

    # From any thread

    def begin(self, job: Job) -> bool:
        """Have a job written; False where the thread has ended."""
        return self._post(lambda: self._jobs.join(job))

    def leave(self, job: Job) -> None:
        """Nobody waits for a job any more: a run that only such are part of is ended."""
        self._post(lambda: self._left(job))
        run = self._run_now
        if run is not None and job in run.jobs and all(one.written.over for one in run.jobs):
            run.stop.stop()

    def close(self) -> None:
        """End the thread, after the run in progress."""
        self._post(self._close)
        run = self._run_now
        if run is not None:
            run.stop.stop()

    def _post(self, message: Message) -> bool:
        with self._posting:
            if not self._over:
                self._inbox.put(message)
            return not self._over

    # The thread

    def _live(self) -> None:
        failed: Exception | None = None
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # a mistake in here, or no memory for it
            _log.exception("model '%s': the thread that writes has ended", self._name)
            failed = InferenceFailed(f"writing ended: {type(error).__name__}")
        finally:
            with self._posting:
                self._over = True
            self._tell_end(failed)
            self._let_go()

    def _let_go(self) -> None:
        self._run_now = None
        self._sent.clear()
        self._jobs = Scheduler(0, self._pace)
        self._counts.running = self._counts.waiting = 0
        self._counts.network = {}
        try:
            if self._masks is not None:
                self._masks.close()
            self._network.release()
        except Exception:  # nobody waits for it
            _log.exception("model '%s': letting go failed", self._name)

    def _turn(self) -> None:
        self._read_messages()
        self._admit()
        plan = self._jobs.plan()
        if isinstance(plan, Fill):
            self._fill(plan.job, plan.tokens)
        elif plan is not None:
            self._write(plan.jobs)
        self._counts.running = len(self._jobs.running)
        self._counts.waiting = self._jobs.waiting
        self._counts.network = self._network.measures()
        self._send()

    def _read_messages(self) -> None:
        if not self._jobs:
            self._inbox.get()()  # there is nothing to do meanwhile
        try:
            while not self._closing:
                self._inbox.get_nowait()()
        except Empty:
            pass

    def _close(self) -> None:
        self._closing = True

    # Slots

    def _left(self, job: Job) -> None:
        if not job.over:
            job.over = True
            self._release(job)

    def _admit(self) -> None:
        while (job := self._jobs.admit(self._has_room)) is not None:
            try:
                self._refuse_outsized(job)
                whose = job.course.caller.identity.tenant
                job.filled = self._network.open(job.slot, job.tokens, job.ask.constants, whose)
                job.opened = True
                if job.probed is None and job.filled:  # its logits are wanted all the same
                    self._network.truncate(job.slot, 0)
                    job.filled = 0
            except OutOfMemory as error:
                self._make_room((job,), error)
                continue
            except Exception as error:
                self._fail(job, error)
                continue
            self._admitted(job)

    def _refuse_outsized(self, job: Job) -> None:
        """Raise InvalidInput where a prompt would not fit if it were alone."""
        if not job.count and not self._has_room([job.length]):
            raise InvalidInput(
                f"the prompt has {job.length} tokens: their keys and values take more memory "
                "than the server gives them (generate_cache_bytes)"
            )

    def _has_room(self, lengths: Sequence[int]) -> bool:
        context = self._network.context
        return self._network.room([min(length, context) for length in lengths])

    def _admitted(self, job: Job) -> None:
        if not job.course.admitted_ns:
            job.course.admitted_ns = time.monotonic_ns()
            job.cached = job.filled
            self._counts.tokens_cached += job.filled

    def _release(self, job: Job) -> None:
        """Free what a job has; it is not to be written on."""
        if job.opened:
            job.opened = False
            self._network.close(job.slot, remember=job.remembered)
        self._jobs.leave(job)

    def _make_room(self, jobs: Sequence[Job], error: Exception) -> None:
        """There is no memory to go on: the youngest, if it is not alone, is worked out anew later.

        What it has written stays written: only its keys and values are computed once more.
        """
        if len(self._jobs.running) == 1:
            for job in jobs:
                self._fail(job, error)
            return
        youngest = self._jobs.running[-1]
        if youngest.opened:
            self._network.close(youngest.slot, remember=youngest.remembered)
            youngest.opened = False
        youngest.filled = 0
        self._jobs.preempt()
        self._counts.preemptions += 1

    # Runs

    def _fill(self, job: Job, tokens: int) -> None:
        """Run a piece of a prompt; the last one gives the first token."""
        probes = job.probed is None
        piece = job.tokens[job.filled : job.filled + (1 if probes else tokens)]
        chooses = len(piece) == job.left
        ran = self._extended(job, piece, keep=int(chooses or probes))
        if ran is None:
            return
        logits, seconds = ran
        self._pace.filled(len(piece), seconds)
        job.filled += len(piece)
        self._jobs.served(job, len(piece))
        if probes:
            job.probe(logits[0])
        if chooses:
            self._choose((job,), logits)

    def _write(self, jobs: Sequence[Job]) -> None:
        """Give each job its next token; one that is alone may guess ahead."""
        if self._speculate and len(self._jobs.running) == 1:
            guesses = jobs[0].guesses(self._pace.cost)
            if guesses and self._has_room([jobs[0].length + len(guesses)]):
                self._check(jobs[0], guesses)
                return
        slots, tokens = [job.slot for job in jobs], [job.tokens[-1] for job in jobs]
        ran = self._ran(jobs, lambda stop: self._network.step(slots, tokens, stop))
        if ran is None:
            return
        logits, seconds = ran
        self._pace.stepped(len(jobs), seconds)
        for row, job in enumerate(jobs):
            job.filled += 1
            self._jobs.served(job, 1)
            if job.probed is None:  # the prompt is this one token
                job.probe(logits[row])
        self._choose(jobs, logits)

    def _check(self, job: Job, guesses: list[int]) -> None:
        """Run guesses behind the last token, and keep those that would have been chosen."""
        ran = self._extended(job, [job.tokens[-1], *guesses], keep=len(guesses) + 1)
        if ran is None:
            return
        logits, seconds = ran
        self._pace.checked(len(guesses) + 1, seconds)
        before, kept = job.filled, 0
        for row in range(len(guesses) + 1):
            if row:
                self._find_masks((job,))
            kept += 1
            self._add_all((job,), logits[row : row + 1])
            if job.over or row == len(guesses) or job.tokens[-1] != guesses[row]:
                break
        job.filled = before + kept
        if kept <= len(guesses):
            self._network.truncate(job.slot, job.filled)
        self._jobs.served(job, kept)
        job.guessed(len(guesses), kept - 1)
        self._counts.guessed += len(guesses)
        self._counts.guessed_right += kept - 1
        if job.over:
            self._release(job)

    def _extended(self, job: Job, tokens: list[int], keep: int) -> tuple[Array, float] | None:
        return self._ran((job,), lambda stop: self._network.extend(job.slot, tokens, keep, stop))

    def _ran(
        self, jobs: Sequence[Job], call: Callable[[StopToken], Array]
    ) -> tuple[Array, float] | None:
        """Logits and seconds of a run; None where it failed, and that is dealt with."""
        self._find_masks(jobs)
        stop = StopToken()
        self._run_now = _Run(tuple(jobs), stop)
        started = time.perf_counter_ns()
        try:
            logits = call(stop)
        except Exception as error:
            self._masks_found()
            self._broke_off(jobs, stop, error)
            return None
        finally:
            self._run_now = None
        took = time.perf_counter_ns() - started
        self._statistics.executed(len(jobs), 0, took, 0)
        for job in jobs:
            job.course.ran_ns += took
            job.course.own_ns += took // len(jobs)
            job.course.rows = max(job.course.rows, len(jobs))
        return logits, took / 1e9

    def _broke_off(self, jobs: Sequence[Job], stop: StopToken, error: Exception) -> None:
        if isinstance(error, (OutOfMemory, MemoryError)):
            self._make_room(jobs, error)
        elif not stop.stopped:  # if so, all of them have left
            for job in jobs:
                self._fail(job, error)

    # Tokens

    def _find_masks(self, jobs: Sequence[Job]) -> None:
        """Have masks found while the network runs, where any of the jobs has a format."""
        if any(job.matcher is not None for job in jobs):
            if self._masks is None:
                self._masks = self._open_masks()
            self._masks.fill_later([job.matcher for job in jobs])

    def _masks_found(self) -> Array | None:
        return None if self._masks is None else self._masks.wait()

    def _choose(self, jobs: Sequence[Job], logits: Array) -> None:
        """Give each job its next token, and let go of those that are complete."""
        self._add_all(jobs, logits)
        for job in jobs:
            if job.over:
                self._release(job)

    def _add_all(self, jobs: Sequence[Job], logits: Array) -> None:
        """Choose a token a row; one job's mistake is its own."""
        masked = [job.matcher is not None for job in jobs]
        try:
            masks = self._masks_found() if any(masked) else None
            choices = choose(logits, [job.chooser for job in jobs], masks, masked)
        except Exception as error:
            for job in jobs:
                self._tell_failure(job, error)
            return
        for job, choice in zip(jobs, choices, strict=True):
            try:
                self._add(job, choice)
            except Exception as error:
                self._tell_failure(job, error)

    def _add(self, job: Job, choice: Choice) -> None:
        if job.matcher is not None and (failure := job.matcher.failure) is not None:
            raise failure
        before = job.count
        piece = job.add(choice)
        self._counts.tokens_out += job.count - before
        if piece is not None:
            self._put(job, piece, None)

    # What readers get

    def _fail(self, job: Job, error: Exception) -> None:
        self._tell_failure(job, error)
        self._release(job)

    def _tell_failure(self, job: Job, error: Exception) -> None:
        """A job breaks off; it still has its slot."""
        job.over = True
        if not isinstance(error, ServerError):
            _log.error("model '%s': an answer failed", self._name, exc_info=error)
            error = InferenceFailed(f"generation failed: {type(error).__name__}")
        self._put(job, None, bare(error))

    def _put(self, job: Job, piece: Piece | None, error: Exception | None) -> None:
        self._sent.setdefault(job.loop, []).append(Sent(job, piece, error, job.count))

    def _send(self) -> None:
        for loop, sent in self._sent.items():
            try:
                loop.call_soon_threadsafe(self._hand_over, sent)
            except RuntimeError:  # it was closed, and whoever waited there is gone
                for job in [job for job in self._jobs if job.loop is loop]:
                    self._left(job)
        self._sent.clear()


_writers: WeakSet[Writer] = WeakSet()
os.register_at_fork(after_in_child=_writers.clear)  # their threads are not there


@atexit.register
def _end_all() -> None:
    """Leave no thread inside the runtime: the process would be aborted as it ends."""
    writers = list(_writers)
    for writer in writers:
        writer.close()
    for writer in writers:
        if writer.thread.is_alive():
            writer.thread.join(_LAST_RUN)
