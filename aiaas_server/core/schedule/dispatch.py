"""The queue of one model version and the batches that empty it.

A batch is what queued meanwhile: while all instances are busy, or in the same turn of the loop.
Everything here happens on the event loop; only `execute` may run on a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from time import monotonic_ns
from typing import Final

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.config import DynamicBatching, ModelConfig
from aiaas_server.core.errors import ModelUnavailable, QueueFull
from aiaas_server.core.events import CALLER, NOBODY, Identity
from aiaas_server.core.schedule.accounting import Accounts
from aiaas_server.core.schedule.admission import Admission
from aiaas_server.core.schedule.batcher import Batcher
from aiaas_server.core.schedule.batching import shape_key, varying_inputs
from aiaas_server.core.schedule.cost import Costs
from aiaas_server.core.schedule.execution import execute
from aiaas_server.core.schedule.ordering import Ordering
from aiaas_server.core.schedule.padding import Padding
from aiaas_server.core.schedule.pending import Pending
from aiaas_server.core.schedule.queues import Queue, QueueBudget
from aiaas_server.core.schedule.requests import Batch, Request, Waiter
from aiaas_server.core.schedule.shares import Shares
from aiaas_server.core.schedule.sizing import Sizing
from aiaas_server.core.schedule.timer import Timer
from aiaas_server.core.session import Session, StopToken
from aiaas_server.core.signature import Signature, total_bytes

_log = logging.getLogger("aiaas_server")

GATHERED: Final = 64
"""Rows that are run before more is read, while what they hold is near in the processor's caches."""

# Whether requests come one in a turn of the loop; then none waits for the turn to end. The turn
# in which a second one comes is the last of that kind: it waits, and so do those of the following
# turns, until a turn brings only one again.
SHARED: Final = 0
EXPECTED: Final = 1
SERVED: Final = 2

_LONGEST_RETRY = 30.0  # seconds; no guess reaches further


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms the requests of a version wait and are joined.

    Attributes:
        queue_size: Requests that may wait.
        budget: Room shared with the other models.
        padding: How requests of different lengths are joined.
        warm_sizes: Batch sizes to round up to, ascending; empty runs batches as they are.
        sizing: Which batches pay; None joins all that may be joined.
        shares: Whose turn it is, where there are tenants.
    """

    queue_size: int = 100
    budget: QueueBudget = field(default_factory=QueueBudget)
    padding: Padding | None = None
    warm_sizes: Sequence[int] = ()
    sizing: Sizing | None = None
    shares: Shares | None = None


class Dispatcher:
    """Admits requests to the queue and has batches of them run on free instances.

    Args:
        As `Scheduler`, which makes it.

    Attributes:
        queue: What waits.
        pending: What becomes of an accepted request.
        instances: Runs that may go on at once.
        idle: How many of them are free.
        loop: Known from the first request on.
        varying: Inputs by whose shapes requests are told apart.
        turn: `SHARED`, `EXPECTED` (the first of the next turn may run at once) or `SERVED` (in
            this turn one did).
    """

    def __init__(
        self,
        name: str,
        session: Session,
        signature: Signature,
        config: ModelConfig,
        accounts: Accounts,
        costs: Costs,
        terms: Terms,
    ) -> None:
        self.name = name
        self._session = session
        self._accounts = accounts
        self._costs = costs
        self.varying = varying_inputs(signature)
        self._padding = terms.padding
        self._sizing = terms.sizing
        self._work_clock = monotonic_ns if terms.sizing is None else terms.sizing.clock

        batching = config.dynamic_batching or DynamicBatching()
        self._levels = max(batching.priority_levels, 1)
        self._default_level = max(batching.default_priority_level, 1)
        self._policies = [batching.policy(level) for level in range(1, self._levels + 1)]
        self._timeouts = [policy.default_timeout_microseconds / 1e6 for policy in self._policies]

        self._queue_size = terms.queue_size
        self.queue = Queue(self._levels, terms.budget, terms.shares)
        self._order = Ordering() if batching.preserve_ordering else None
        self.pending = Pending(name, self.queue, self._policies, accounts, self._order)
        self._delay = Timer()
        self._batcher = Batcher(
            signature,
            config.dynamic_batching,
            self.queue,
            costs,
            terms.padding,
            terms.warm_sizes,
            self.pending.deadlines,
            terms.sizing,
        )
        self.instances = self.idle = config.instances
        self._admission = Admission(
            self.queue,
            costs,
            self.instances,
            self._batcher.max_rows if self._batcher.joins else 1,
            None if terms.sizing is None else terms.sizing.curve,
        )
        self._gathered = min(self._batcher.max_rows, GATHERED)
        self._most_in_order = terms.queue_size + self.instances * self._batcher.max_rows
        self._threads: ThreadPoolExecutor | None = None

        self.loop: asyncio.AbstractEventLoop | None = None
        self._flush_scheduled = False
        self.turn = SHARED
        self._finished: deque[Batch] = deque()  # by threads, not settled yet
        self._woken = False  # the loop will look at them
        self._runs_lone_as_is = self._order is None and self._batcher.takes_lone_as_is

    # Admission

    def admit(
        self,
        waiter: Waiter,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        priority: int,
        timeout: float,
        deadline: float | None,
    ) -> Request:
        """Put a checked request into the queue; as `Scheduler.enqueue`.

        Raises:
            QueueFull, DeadlineExceeded: It is not accepted.
            InvalidInput: It cannot be padded.
        """
        loop = self.loop
        if loop is None:
            loop = self.loop = asyncio.get_running_loop()
        size = total_bytes(inputs)
        level = (priority if 0 < priority <= self._levels else self._default_level) - 1
        policy = self._policies[level]
        caller = NOBODY if self.queue.tenants is None else CALLER.get()
        if not self._has_room(level, size, policy.max_queue_size, caller.identity):
            raise self._accounts.refused(self._queue_full())
        length = 0
        if self._padding is None:
            key = shape_key(inputs, self.varying)
        else:
            key, length = self._padding.place(inputs)
        request = Request(inputs, outputs, rows, size, key, waiter, monotonic_ns(), length)
        request.caller = caller
        if deadline is not None and not self.idle:
            self._refuse_late(key, rows, request.elements, level, deadline, caller.identity)
        limit = self._timeouts[level]
        if timeout > 0:
            limit = min(timeout, limit) if limit else timeout
        if deadline is not None or limit:
            self.pending.limit(request, deadline, limit, loop)
        waiting_rows = self.pending.accept(request, 2 * level)
        if self.idle:
            if not self._batcher.joins or waiting_rows >= self._gathered:
                self._dispatch()
            elif not self._flush_scheduled:
                self._flush_scheduled = True
                loop.call_soon(self._flush)
        return request

    def refuse_early(self, deadline: float) -> None:
        """As `Scheduler.refuse_early`."""
        if self.idle:
            return
        tenants, identity = self.queue.tenants, CALLER.get().identity
        if self.queue.count >= self._queue_size and (
            tenants is None or tenants.has_most(identity) is None
        ):
            raise self._accounts.refused(self._queue_full())
        # Its shape and level are in the body: a model's only shape, and the most urgent level.
        self._refuse_late(None, 1, 1, 0, deadline, identity)

    def _has_room(self, level: int, size: int, limit: int, identity: Identity) -> bool:
        """Whether one more may wait, after what idle instances can take is taken off, and what came
        last of the tenant that has most.
        """
        queue = self.queue
        while queue.count >= self._queue_size or not queue.has_room(level, size, limit):
            before = queue.count
            if self.idle and before:
                self._dispatch(at_once=True)
            if queue.count < before:
                continue
            if queue.is_level_full(level, limit) or not self._makes_room(identity):
                return False
        return self._order is None or len(self._order) < self._most_in_order

    def _makes_room(self, identity: Identity) -> bool:
        """Refuse a request that waits, of a tenant beyond its share; False where there is none."""
        tenants = self.queue.tenants
        most = None if tenants is None else tenants.has_most(identity)
        if most is None:
            return False
        self.pending.end(self.queue.youngest_of(most), self._queue_full())
        return True

    def _refuse_late(
        self,
        key: Hashable,
        rows: int,
        elements: int,
        level: int,
        deadline: float,
        identity: Identity,
    ) -> None:
        """Raise if a request is not expected to be answered in time.

        Only while all instances are busy: an idle model is always tried, and so goes on learning.
        """
        now = self._running_loop().time()
        left = deadline - now
        whose = None if self.queue.tenants is None else identity
        expected = self._admission.expects(key, rows, elements, level, now, whose)
        tenant = "" if whose is None else whose.tenant
        if left > 0 and self._admission.refuses(expected, left, now, tenant):
            raise self._accounts.refused(self._overloaded(expected.finish, left))

    # Forming and running batches

    def _flush(self) -> None:
        self._flush_scheduled = False
        self._delay.clear()
        if self.queue.count == 1 and self._runs_lone_as_is:
            self.turn = EXPECTED
        self._dispatch()

    def _dispatch(self, *, at_once: bool = False) -> None:
        """Start batches while there are requests and free instances.

        After a batch that ran inline the loop has its turn before the next.
        """
        loop = self._running_loop()
        due = self.pending.deadlines.due
        if due < inf and due <= loop.time():
            self.pending.expire()
        while self.idle and self.queue.count:
            taken = self._batcher.next_requests(loop, at_once=at_once)
            if not taken:
                self._delay.by(loop.time() + self._batcher.wait_ns / 1e9, self._flush, loop)
                return
            batch = self._batcher.batch_of(taken)
            if batch is None:
                continue
            self.idle -= 1
            if not self._costs.is_inline(batch.members[0].key, batch.size):
                self._start(batch)
                continue
            execute(batch, self._session, self.name)
            self.idle += 1
            self._settle_batch(batch)
            if self.queue.count and not self._flush_scheduled:
                self._flush_scheduled = True
                loop.call_soon(self._flush)
            return

    def _start(self, batch: Batch) -> None:
        batch.stop = StopToken()
        self.pending.running.add(batch)
        self._admission.started(batch, self._running_loop().time())
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.instances, f"aiaas-{self.name}")
        try:
            self._threads.submit(self._work, batch)
        except RuntimeError:  # the system gives no more threads; one that gets free may run it yet
            batch.stop.stop()
            batch.error = ModelUnavailable(
                f"model '{self.name}': the system has no thread to run it on", retry_after=1.0
            )
            self._running_loop().call_soon(self._finish, batch)

    def _work(self, batch: Batch) -> None:
        """On an instance's thread."""
        began = self._work_clock()
        execute(batch, self._session, self.name)
        batch.work_ns = self._work_clock() - began
        self._finished.append(batch)
        if self._woken:  # it has not looked yet
            return
        self._woken = True
        try:
            self._running_loop().call_soon_threadsafe(self._finish_all)
        except RuntimeError:
            _log.debug("model '%s': a run ended after its event loop", self.name)

    def _finish_all(self) -> None:
        """On the loop, woken up once for all batches that threads have run meanwhile."""
        self._woken = False  # before looking: what comes from now on wakes it up again
        while self._finished:
            self._finish(self._finished.popleft())

    def _finish(self, batch: Batch) -> None:
        if batch not in self.pending.running:
            return
        self.pending.running.remove(batch)
        self.idle += 1
        now = self._running_loop().time()
        self._admission.ended(batch, now)
        if self.queue.count:
            self._give_up_hopeless(now)
        tenants = self.queue.tenants
        if tenants is not None and tenants.is_shared:  # whose turn it is depends on what this cost
            self._settle_batch(batch)
            self._dispatch()
            return
        self._dispatch()
        self._settle_batch(batch)

    def _give_up_hopeless(self, now: float) -> None:
        """Answer those now who would only wait, or even run, for an answer that comes too late."""
        for request in self._admission.hopeless(self.pending.deadlines.due, now):
            if not request.settled:  # by the end of one that it followed in order
                left = request.deadline - now
                self.pending.end(request, self._overloaded(left, left))

    def _settle_batch(self, batch: Batch) -> None:
        """Count an executed batch and answer its members."""
        self._count_run(batch)
        for single in batch.singles:
            self._settle_batch(single)
        self.pending.settle_batch(batch)

    def _count_run(self, batch: Batch) -> None:
        key, size = batch.members[0].key, batch.size
        if batch.error is None:
            elements = batch.rows if self._padding is None else batch.elements
            self._costs.measured(key, batch.rows, elements, size, batch.infer_ns)
            if self._sizing is not None:
                self._sizing.measured(batch)
            self._accounts.executed(batch.rows, batch.input_ns, batch.infer_ns, batch.output_ns)
            return
        self._costs.failed(key, size, batch.infer_ns)
        if batch.not_batched and self._batcher.joins:
            self._batcher.joins = False
            self._admission.batch_rows = 1
            _log.warning("model '%s': requests are no longer joined: %s", self.name, batch.error)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        assert self.loop is not None, "set by the first request"
        return self.loop

    def _queue_full(self) -> QueueFull:
        batches = self.queue.count / (self._batcher.max_rows * self.instances)
        wait = batches * self._costs.mean_run_ns / 1e9
        waiting = self.queue.count if self._order is None else len(self._order)
        return QueueFull(
            f"Exceeds maximum queue size of model '{self.name}': {waiting} waiting",
            retry_after=max(1.0, wait),
        )

    def _overloaded(self, wait: float, left: float) -> QueueFull:
        return QueueFull(
            f"model '{self.name}' is overloaded: an answer is expected to take {wait:.2f} s "
            f"or more, and the request's deadline is in {left:.2f} s",
            retry_after=min(max(1.0, wait - left), _LONGEST_RETRY),
        )

    def close(self) -> None:
        """Release threads and timers."""
        self.pending.deadlines.clear()
        self._delay.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
