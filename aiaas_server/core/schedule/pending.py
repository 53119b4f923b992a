"""Accepted requests, from acceptance to the one answer that each of them gets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import chain
from math import inf

from aiaas_server.core.describe.config import QueuePolicy
from aiaas_server.core.errors import QueueTimeout, ServerError
from aiaas_server.core.schedule.accounting import Accounts, past_deadline
from aiaas_server.core.schedule.ordering import Ordering
from aiaas_server.core.schedule.queues import Queue
from aiaas_server.core.schedule.requests import Batch, Outcome, Request
from aiaas_server.core.schedule.timer import Timer


class Pending:
    """The requests of one version that wait in its queue, run, or are held back for order's sake.

    Whatever happens to one of them, it is counted and answered in `_settle`, once.

    Args:
        policies: Of each priority level.
        order: Where answers leave in the order of acceptance; None where each leaves when ready.

    Attributes:
        running: Batches on threads.
        deadlines: Due no later than the deadline and the queue timeout of any of them.
    """

    def __init__(
        self,
        name: str,
        queue: Queue,
        policies: Sequence[QueuePolicy],
        accounts: Accounts,
        order: Ordering | None,
    ) -> None:
        self._name = name
        self._queue = queue
        self._policies = policies
        self._accounts = accounts
        self._order = order
        self.running: set[Batch] = set()
        self.deadlines = Timer()
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        return self._queue.count + sum(len(batch.members) for batch in self.running)

    def accept(self, request: Request, lane: int) -> int:
        """Put `request` into the queue; gives the items that wait there with its shape."""
        waiting_rows = self._queue.push(request, lane).rows
        self._accounts.accepted(request)
        if self._order is not None:
            self._order.join(request)
        return waiting_rows

    def unanswered(self) -> list[Request]:
        """Those that somebody waits for."""
        running = (request for batch in self.running for request in batch.members)
        accepted = chain(self._queue, running) if self._order is None else self._order
        return [r for r in accepted if not r.settled and not r.waiter.done()]

    # Answering

    def settle_batch(self, batch: Batch) -> None:
        """Answer the members of a batch that was run."""
        now, now_ns = asyncio.get_running_loop().time(), time.monotonic_ns()
        for index, request in enumerate(batch.members):
            if not request.settled and request.answer is None and not request.waiter.done():
                answer: Outcome | ServerError
                if batch.error is not None:
                    answer = batch.error
                elif request.deadline <= now:
                    answer = past_deadline(self._name)
                else:
                    answer = batch.outcome_of(index)
                if self._order is None:
                    self._settle(request, answer, now_ns)
                else:
                    request.answer = answer
            request.batch = None  # no cycle: the tensors are freed with the last reference
        self._release()
        self.note_emptied()

    def end(self, request: Request, error: ServerError | None) -> None:
        """Settle a request now, wherever it is; a run that only it waited for is stopped.

        The end of one before it in order may have answered it meanwhile: then all is done.
        """
        if request.settled:
            return
        self._settle(request, error, time.monotonic_ns())
        if request.lane >= 0:
            self._queue.remove(request)
        elif request.batch is not None:
            request.batch.live -= 1
            if request.batch.live == 0 and request.batch.stop is not None:
                request.batch.stop.stop()
        self._release()
        self.note_emptied()

    def abandon(self, request: Request) -> None:
        """Nobody waits for `request` any more."""
        if request.settled:
            self._release()
        else:
            self.end(request, None)

    def _release(self) -> None:
        """Answer those whose answers are known and that nothing is ahead of any more."""
        if self._order is None:
            return
        now = asyncio.get_running_loop().time()
        for request in self._order.released():
            answer = request.answer if request.deadline > now else past_deadline(self._name)
            self._settle(request, answer, time.monotonic_ns())

    def _settle(self, request: Request, answer: Outcome | ServerError | None, now_ns: int) -> None:
        """Count a request and tell it `answer`; None when its caller has gone."""
        request.settled = True
        total_ns = now_ns - request.accepted_ns
        if isinstance(answer, Outcome):
            self._accounts.answered(request, answer, total_ns)
            request.waiter.set_result(answer)
            return
        self._accounts.failed(request, answer, total_ns)
        if answer is not None:
            request.waiter.set_exception(answer)

    # Time

    def limit(
        self,
        request: Request,
        deadline: float | None,
        timeout: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Bound a request about to be accepted by `deadline`, and its waiting by `timeout`.

        Raises:
            DeadlineExceeded: It has passed; the request is counted as refused.
        """
        now = loop.time()
        if deadline is not None:
            if deadline <= now:
                raise self._accounts.refused(past_deadline(self._name))
            request.deadline = deadline
        if timeout:
            request.expires = now + timeout
        self.deadlines.by(min(request.deadline, request.expires), self.expire, loop)

    def expire(self) -> None:
        """Answer every request whose time is up, and arm the timer for the next."""
        loop = asyncio.get_running_loop()
        due = self.deadlines.due
        now = max(loop.time(), due if due < inf else 0.0)
        self.deadlines.clear()
        earliest = inf
        for request in self.unanswered():
            if request.deadline <= now:
                self.end(request, past_deadline(self._name))
            elif request.lane >= 0 and request.expires <= now:
                self._time_out(request)
            if not request.settled:
                waits = request.expires if request.lane >= 0 else inf
                earliest = min(earliest, request.deadline, waits)
        self.deadlines.by(earliest, self.expire, loop)

    def _time_out(self, request: Request) -> None:
        """The queue policy's limit has passed: refuse, or let all others go first."""
        lane = request.lane
        if self._policies[lane >> 1].timeout_action == "DELAY":
            request.expires = inf
            self._queue.remove(request)
            self._queue.push(request, lane | 1)
            return
        self.end(
            request, QueueTimeout(f"Request timeout expired in the queue of model '{self._name}'")
        )

    # The end

    async def emptied(self) -> None:
        """Wait until none is left and nothing runs; no more may be accepted."""
        self._emptied = self._emptied or asyncio.Event()
        self.note_emptied()
        await self._emptied.wait()

    def note_emptied(self) -> None:
        """Tell who waits for it that none is left, if so."""
        if self._emptied is not None and not self._queue.count and not self.running:
            self._emptied.set()
