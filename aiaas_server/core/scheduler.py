"""The queue of one model version and the runs that empty it.

Everything here happens on the event loop, single-threaded; only `execute` may run on a thread.
A batch is what queued meanwhile: while all instances are busy, or in the same turn of the loop.
One timer is armed for the earliest deadline of all pending requests, not one for each.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from math import inf
from typing import Final

import numpy as np

from aiaas_client.protocol.tensors import Array

from .batching import shape_key, take
from .config import DynamicBatching, ModelConfig, QueuePolicy
from .cost import Costs
from .errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    QueueFull,
    QueueTimeout,
    ServerError,
)
from .events import ORIGIN, InferenceRecord, Observer
from .execution import Batch, Outcome, execute, failure_of, union
from .padding import Padding
from .placement import Placement
from .queues import Queue, QueueBudget, Request
from .rounding import spare_rows
from .session import Session, StopToken
from .signature import Signature
from .statistics import FailureReason, Statistics

__all__ = ["Outcome", "QueueBudget", "Scheduler"]

_log = logging.getLogger("aiaas.server")
_OBJECT: Final = np.dtype(object)


# Whether requests come one in a turn of the loop; then none waits for the turn to end. The turn
# in which a second one comes is the last of that kind: it waits, and so do those of the following
# turns, until a turn brings only one again.
_NO, _EXPECTED, _SERVED = range(3)


class Scheduler:
    """Admits requests, forms batches, runs them on free instances, and answers.

    Args:
        session: Called from the loop or from up to `config.instances` threads at once.
        config: Complete; its `dynamic_batching` says whether requests are joined.
        queue_size: Requests that may wait.
        budget: Room shared with the other models.
        placement: What is known of how quick the model is; decides between loop and thread.
        padding: How requests of different lengths are joined.
        warm_sizes: Batch sizes to round up to, ascending; empty runs batches as they are.
        observers: Called once a request.
    """

    def __init__(
        self,
        name: str,
        version: int,
        session: Session,
        signature: Signature,
        config: ModelConfig,
        statistics: Statistics,
        *,
        queue_size: int = 100,
        budget: QueueBudget | None = None,
        placement: Placement | None = None,
        padding: Padding | None = None,
        warm_sizes: Sequence[int] = (),
        observers: Sequence[Observer] = (),
    ) -> None:
        self.name = name
        self.version = version
        self._session = session
        self._signature = signature
        self._statistics = statistics
        self._observers = tuple(observers)
        self._costs = Costs(placement or Placement())
        self._padding = padding
        self._warm_sizes = tuple(warm_sizes)

        batching = config.dynamic_batching
        self._merges = batching is not None and signature.max_batch_size > 1
        batching = batching or DynamicBatching()
        self._max_rows = max(signature.max_batch_size, 1)
        self._preferred = frozenset(batching.preferred_batch_size)
        self._delay_ns = batching.max_queue_delay_microseconds * 1000
        self._levels = max(batching.priority_levels, 1)
        self._default_level = max(batching.default_priority_level, 1)
        self._policies = [batching.policy(level) for level in range(1, self._levels + 1)]
        self._in_order: deque[Request] | None = deque() if batching.preserve_ordering else None

        self._queue_size = queue_size
        self._queue = Queue(self._levels, budget or QueueBudget())
        self._key = shape_key(signature)
        self._instances = self._idle = config.instances
        self._running: set[Batch] = set()
        self._threads: ThreadPoolExecutor | None = None
        self._mean_batch_ns = 0.0

        self._loop: asyncio.AbstractEventLoop | None = None
        self._flush_scheduled = False
        self._lone = _NO
        # Nothing is kept in order, filled up or padded: a request is run as it is.
        self._runs_alone_alike = self._in_order is None and not self._warm_sizes and padding is None
        self._due = inf
        self._timer: asyncio.TimerHandle | None = None
        self._delay_timer: asyncio.TimerHandle | None = None
        self._refusal: ServerError | None = None
        self._emptied: asyncio.Event | None = None
        self._now_lock = threading.Lock()

    # Admission

    async def submit(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        priority: int = 0,
        timeout: float = 0.0,
        deadline: float | None = None,
    ) -> Outcome:
        """Queue a checked request of `rows` items and wait for its answer.

        Args:
            priority: 1 is the highest; 0 or an unknown level is the default.
            timeout: Seconds it may wait; the queue policy's own limit holds as well.
            deadline: On the loop's clock.
        Raises:
            QueueFull, QueueTimeout, DeadlineExceeded, ModelUnavailable, InvalidInput,
            InferenceFailed.
        """
        if self._lone is _EXPECTED:
            outcome = self._run_lone(inputs, outputs, rows, deadline)
            if outcome is not None:
                return outcome
        self._lone = _NO
        request = self._admit(inputs, outputs, rows, priority, timeout, deadline)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._abandon(request)
            raise

    def _run_lone(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        deadline: float | None,
    ) -> Outcome | None:
        """Run the first request of a turn of the loop here and now: no queue, no future, no batch.

        None when it cannot be, because others wait or run, or the model is not known to be quick.
        """
        loop = self._running_loop()
        key = self._key(inputs)
        size = _size(inputs)
        if (
            self._idle < self._instances
            or self._queue.count
            or self._refusal is not None
            or not self._costs.is_inline(key, size)
            or (deadline is not None and deadline <= loop.time())
        ):
            return None
        self._lone = _SERVED
        loop.call_soon(self._end_turn)
        clock = time.monotonic_ns
        began = clock()
        try:
            arrays = self._session.run(inputs, outputs)
        except Exception as caught:
            error = self._lone_failed(caught, rows, clock() - began)
            raise error from (None if error is caught else caught)
        took = clock() - began
        self._costs.measured(key, rows, rows, size, took)
        self._mean_batch_ns += (took - self._mean_batch_ns) / 8
        self._statistics.executed(rows, 0, took, 0)
        self._statistics.succeeded(rows, took, 0, 0, took, 0)
        if self._observers:
            self._observe_lone(rows, took, None)
        return Outcome(dict(zip(outputs, arrays)), 0, took, rows)  # noqa: B905  # as many

    def _lone_failed(self, caught: Exception, rows: int, took: int) -> ServerError:
        error = failure_of(caught, self.name)
        reason = _reason(error)
        self._statistics.failed(reason, took)
        if self._observers:
            self._observe_lone(rows, took, reason)
        return error

    def _observe_lone(self, rows: int, took: int, failure: FailureReason | None) -> None:
        ran = took / 1e9
        self._observe(
            InferenceRecord(
                self.name, self.version, rows, rows, 0.0, ran, ran, failure, ORIGIN.get()
            )
        )

    def _end_turn(self) -> None:
        if self._lone is _SERVED:
            self._lone = _EXPECTED

    def _admit(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        priority: int,
        timeout: float,
        deadline: float | None,
    ) -> Request:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if self._refusal is not None:
            raise self._refused(self._refusal)
        size = _size(inputs)
        level = (priority if 0 < priority <= self._levels else self._default_level) - 1
        policy = self._policies[level]
        queue = self._queue
        if (
            queue.count >= self._queue_size
            or not queue.has_room(level, size, policy.max_queue_size)
        ) and not self._makes_room(level, size, policy):
            raise self._refused(self._queue_full())
        length = 0
        if self._padding is None:
            key = self._key(inputs)
        else:
            key, length = self._padding.place(inputs)
        request = Request(
            inputs, outputs, rows, size, key, loop.create_future(), time.monotonic_ns(), length
        )
        if deadline is not None and not self._idle:
            self._refuse_hopeless(request, level, deadline - loop.time())
        if self._observers:
            request.origin = ORIGIN.get()
        limit = _smaller(timeout, policy.default_timeout_microseconds / 1e6)
        if deadline is not None or limit:
            self._watch(request, loop.time(), deadline, limit)
        bucket = queue.push(request, 2 * level)
        self._statistics.pending += 1
        if self._in_order is not None:
            self._in_order.append(request)
        if self._idle:
            if not self._merges or bucket.rows >= self._max_rows:
                self._dispatch()
            elif not self._flush_scheduled:
                self._flush_scheduled = True
                loop.call_soon(self._flush)
        return request

    def refuse_when_full(self) -> None:
        """Tell before a large body is read that there is no room to wait in.

        Raises:
            QueueFull: All instances are busy and the queue holds all it may.
        """
        if self._queue.count >= self._queue_size and not self._idle:
            raise self._refused(self._queue_full())

    def _makes_room(self, level: int, size: int, policy: QueuePolicy) -> bool:
        """Whether one more may wait after what idle instances can take is taken off."""
        queue = self._queue
        limit = policy.max_queue_size
        while queue.count >= self._queue_size or not queue.has_room(level, size, limit):
            before = queue.count
            if self._idle and before:
                self._dispatch(at_once=True)
            if queue.count == before:
                return False
        return True

    def _watch(self, request: Request, now: float, deadline: float | None, limit: float) -> None:
        if deadline is not None:
            if deadline <= now:
                raise self._refused(self._too_late())
            request.deadline = deadline
        if limit:
            request.expires = now + limit
        earliest = min(request.deadline, request.expires)
        if earliest < self._due:
            self._wake_at(earliest)

    def _refuse_hopeless(self, request: Request, level: int, left: float) -> None:
        """Raise if even the most hopeful guess has the answer `left` seconds from now too late.

        Only while all instances are busy: an idle model is always tried, and so goes on learning.
        """
        cost = self._costs.of(request.key)
        if cost is None or left <= 0:
            return
        rows, own_rows, units = self._queue.ahead(level, request.key)
        slope, fixed = cost.line()
        units += request.units
        own_rows += request.rows
        own_ns = slope * units + fixed * (own_rows / self._max_rows)
        others_ns = (rows + request.rows - own_rows) * self._costs.quickest_row_ns
        wait = (own_ns + others_ns) / self._instances / 1e9
        if wait > left:
            raise self._refused(
                QueueFull(
                    f"model '{self.name}' is expected to need {wait:.2f} s for what waits, "
                    f"and the request's deadline is in {left:.2f} s",
                    retry_after=max(1.0, wait - left),
                )
            )

    def _refused(self, error: ServerError) -> ServerError:
        self._statistics.failed("REJECTED", 0)
        if self._observers:
            refused = InferenceRecord(
                self.name, self.version, 0, 0, 0, 0, 0, "REJECTED", ORIGIN.get()
            )
            self._observe(refused)
        return error

    # Forming and running batches

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._queue.count == 1 and self._runs_alone_alike:
            self._lone = _EXPECTED
        self._dispatch()

    def _dispatch(self, *, at_once: bool = False) -> None:
        """Start batches while there are requests and free instances.

        After a batch that ran inline the loop has its turn before the next.
        """
        if self._due < inf and self._due <= self._time():
            self._expire()
        while self._idle and self._queue.count:
            taken = self._next_requests(at_once=at_once)
            if not taken:
                return
            batch = self._form(taken)
            if batch is None:
                continue
            self._idle -= 1
            if not self._costs.is_inline(batch.members[0].key, batch.size):
                self._start(batch)
                continue
            execute(batch, self._session, self.name)
            self._idle += 1
            self._settle(batch)
            if self._queue.count and not self._flush_scheduled:
                self._flush_scheduled = True
                self._running_loop().call_soon(self._flush)
            return

    def _next_requests(self, *, at_once: bool) -> list[Request]:
        """The requests to run now; none when it pays to wait."""
        if self._queue.count == 1 and not self._delay_ns:
            return list(self._queue)
        wait_ns = 0
        for line in self._queue.candidates():
            head = next(line)
            requests, complete = self._take(head, line)
            if self._delay_ns and not at_once and not complete:
                left = head.accepted_ns + self._delay_ns - time.monotonic_ns()
                if left > 0:
                    wait_ns = min(wait_ns or left, left)
                    continue
            return requests
        if wait_ns:
            self._wake_after(wait_ns / 1e9)
        return []

    def _take(self, head: Request, line: Iterator[Request]) -> tuple[list[Request], bool]:
        if not self._merges:
            return [head], True
        if head.length and self._padding is not None:
            requests = self._of_similar_length(self._padding, head, line)
        else:
            requests = [head, *islice(line, self._max_rows - 1)]
        count, complete = take(
            [request.rows for request in requests], self._max_rows, self._preferred
        )
        taken = requests[:count]
        if count > 1 and self._due < inf:
            capped = self._in_time(taken)
            if len(capped) < count:
                return capped, True
        return taken, complete

    def _of_similar_length(
        self, padding: Padding, head: Request, line: Iterator[Request]
    ) -> list[Request]:
        window = [head, *islice(line, padding.window(self._max_rows) - 1)]
        chosen = padding.select(
            [request.length for request in window],
            [request.rows for request in window],
            self._max_rows,
            self._costs.worth(head.key),
        )
        return [window[index] for index in chosen]

    def _in_time(self, requests: list[Request]) -> list[Request]:
        """The longest beginning of `requests` that is expected to end before its own deadlines."""
        cost = self._costs.of(requests[0].key)
        if cost is None:
            return requests
        now = self._time()
        length = max([request.length for request in requests]) or 1
        whole = cost.at_most(sum([request.rows for request in requests]) * length)
        if now + whole / 1e9 <= self._due:  # no request at all has an earlier deadline
            return requests
        fits = 1
        rows, longest, tightest = 0, 1, inf
        for count, request in enumerate(requests, 1):
            rows += request.rows
            longest = max(longest, request.length)
            tightest = min(tightest, request.deadline)
            if now + cost.at_most(rows * longest) / 1e9 <= tightest:
                fits = count
        return requests[:fits]

    def _form(self, taken: list[Request]) -> Batch | None:
        for request in taken:
            self._queue.remove(request)
        members = [request for request in taken if not request.future.done()]
        if not members:
            return None
        padding = self._padding
        if padding is not None and len({member.length for member in members}) == 1:
            padding = None
        batch = Batch(members, union(members, self._signature), padding)
        if self._warm_sizes:
            batch.spare = spare_rows(batch.rows, self._warm_sizes)
        for request in members:
            request.batch = batch
        return batch

    def _start(self, batch: Batch) -> None:
        batch.stop = StopToken()
        self._running.add(batch)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._instances, f"aiaas-{self.name}")
        self._threads.submit(self._work, batch)

    def _work(self, batch: Batch) -> None:
        """On an instance's thread."""
        execute(batch, self._session, self.name)
        try:
            self._running_loop().call_soon_threadsafe(self._finish, batch)
        except RuntimeError:
            _log.debug("model '%s': a run ended after its event loop", self.name)

    def _finish(self, batch: Batch) -> None:
        self._running.discard(batch)
        self._idle += 1
        self._dispatch()
        self._settle(batch)

    # Answering

    def _settle(self, batch: Batch) -> None:
        """Count an executed batch and answer its members."""
        if batch.not_batched and self._merges:
            self._merges = False
            _log.warning("model '%s': requests are no longer joined: %s", self.name, batch.error)
        if batch.error is not None:
            self._settle_failed(batch, batch.error)
            return
        key = batch.members[0].key
        units = batch.rows if self._padding is None else batch.units
        self._costs.measured(key, batch.rows, units, batch.size, batch.infer_ns)
        self._mean_batch_ns += (batch.compute_ns - self._mean_batch_ns) / 8
        self._statistics.executed(batch.rows, batch.input_ns, batch.infer_ns, batch.output_ns)
        for index, request in enumerate(batch.members):
            if not request.settled and not request.future.cancelled():
                self._succeed(request, batch, index)
            request.batch = None  # no cycle: the tensors are freed with the last reference
        self._note_emptied()

    def _settle_failed(self, batch: Batch, error: ServerError) -> None:
        for single in batch.singles:
            self._settle(single)
        for request in batch.members:
            if not request.settled and not request.future.cancelled():
                self._fail(request, error, _reason(error))
            request.batch = None
        self._note_emptied()

    def _succeed(self, request: Request, batch: Batch, index: int) -> None:
        request.settled = True
        queue_ns = batch.started_ns - request.accepted_ns
        total_ns = time.monotonic_ns() - request.accepted_ns
        statistics = self._statistics
        statistics.pending -= 1
        statistics.succeeded(
            request.rows, total_ns, queue_ns, batch.input_ns, batch.infer_ns, batch.output_ns
        )
        if self._observers:
            self._record(request, batch, total_ns, None)
        outcome = Outcome(batch.outputs_of(index), queue_ns, batch.compute_ns, batch.rows)
        if self._in_order is None:
            request.future.set_result(outcome)
        else:
            self._hold(request, outcome)

    def _fail(self, request: Request, error: ServerError, reason: FailureReason) -> None:
        self._count_failure(request, reason)
        if self._in_order is None:
            request.future.set_exception(error)
        else:
            self._hold(request, error)

    def _count_failure(self, request: Request, reason: FailureReason) -> None:
        request.settled = True
        total_ns = time.monotonic_ns() - request.accepted_ns
        self._statistics.pending -= 1
        self._statistics.failed(reason, total_ns)
        if self._observers:
            self._record(request, request.batch, total_ns, reason)

    def _hold(self, request: Request, answer: Outcome | Exception) -> None:
        """Keep the answer until all that were accepted before have theirs."""
        request.answer = answer
        self._release()

    def _release(self) -> None:
        order = self._in_order
        while order and (order[0].settled or order[0].future.done()):
            request = order.popleft()
            if request.future.done():
                continue
            if isinstance(request.answer, Outcome):
                request.future.set_result(request.answer)
            elif request.answer is not None:
                request.future.set_exception(request.answer)

    def _abandon(self, request: Request) -> None:
        """The caller has gone: free its place, or stop a run that only it waited for."""
        if not request.settled:
            self._count_failure(request, "CANCELED")
            self._leave(request)
        if self._in_order is not None:
            self._release()
        self._note_emptied()

    def _leave(self, request: Request) -> None:
        if request.lane >= 0:
            self._queue.remove(request)
        elif request.batch is not None:
            request.batch.live -= 1
            if request.batch.live == 0 and request.batch.stop is not None:
                request.batch.stop.stop()

    # Time

    def _time(self) -> float:
        return self._running_loop().time()

    def _wake_at(self, when: float) -> None:
        """Have `_expire` called at `when`, which is earlier than what was known."""
        if self._timer is not None:
            self._timer.cancel()
        self._due = when
        self._timer = self._running_loop().call_at(when, self._expire)

    def _wake_after(self, seconds: float) -> None:
        if self._delay_timer is not None:
            self._delay_timer.cancel()
        self._delay_timer = self._running_loop().call_later(seconds, self._flush)

    def _expire(self) -> None:
        """Answer every request whose time is up, and arm the timer for the next."""
        now = max(self._time(), self._due if self._due < inf else 0.0)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = inf
        running = (request for batch in self._running for request in batch.members)
        earliest = inf
        for request in chain(list(self._queue), running):
            if request.settled or request.future.done():
                continue
            if request.deadline <= now:
                self._fail_now(request, self._too_late())
            elif request.lane >= 0 and request.expires <= now:
                self._time_out(request)
                earliest = min(earliest, request.deadline)
            else:
                waits = request.expires if request.lane >= 0 else inf
                earliest = min(earliest, request.deadline, waits)
        for request in self._in_order or ():
            if request.answer is not None and request.deadline <= now:
                request.future.set_exception(self._too_late())
            elif request.answer is not None:
                earliest = min(earliest, request.deadline)
        if earliest < inf:
            self._wake_at(earliest)
        self._note_emptied()

    def _time_out(self, request: Request) -> None:
        """The queue policy's limit has passed: refuse, or let all others go first."""
        lane = request.lane
        if self._policies[lane >> 1].timeout_action == "DELAY":
            request.expires = inf
            self._queue.remove(request)
            self._queue.push(request, lane | 1)
            return
        self._fail_now(
            request, QueueTimeout(f"Request timeout expired in the queue of model '{self.name}'")
        )

    def _fail_now(self, request: Request, error: ServerError) -> None:
        self._count_failure(request, "REJECTED")
        self._leave(request)
        request.future.set_exception(error)
        if self._in_order is not None:
            self._release()

    # Around the queue

    def answered_from_cache(self, rows: int, total_ns: int) -> None:
        """Count a request that needed no run.

        Raises:
            ModelUnavailable, Draining: No requests are taken any more; then it is refused.
        """
        if self._refusal is not None:
            raise self._refused(self._refusal)
        self._statistics.hit(total_ns)
        if self._observers:
            self._observe(
                InferenceRecord(
                    self.name, self.version, rows, 0, 0.0, 0.0, total_ns / 1e9, None, ORIGIN.get()
                )
            )

    # In the caller's thread

    def run_now(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], rows: int) -> Outcome:
        """Run a checked request in this thread, alone; see `LoadedModel.infer_now`."""
        if self._refusal is not None:
            raise self._refusal
        accepted = time.monotonic_ns()
        try:
            arrays = self._session.run(inputs, outputs)
        except ServerError as error:
            with self._now_lock:
                self._statistics.failed(_reason(error), time.monotonic_ns() - accepted)
            raise
        took = time.monotonic_ns() - accepted
        with self._now_lock:
            self._statistics.executed(rows, 0, took, 0)
            self._statistics.succeeded(rows, took, 0, 0, took, 0)
        return Outcome(dict(zip(outputs, arrays, strict=True)), 0, took, rows)

    # The end

    @property
    def pending(self) -> int:
        """Requests accepted and not answered, and batches still running for nobody."""
        return self._queue.count + sum(len(batch.members) for batch in self._running)

    def refuse(self, refusal: ServerError | None = None) -> None:
        """Take no new requests from now on.

        Args:
            refusal: What they are told; by default that the version is being unloaded.
        """
        if self._refusal is None:
            self._refusal = refusal or ModelUnavailable(
                f"version {self.version} of model '{self.name}' is not at ready state: unloading",
                retry_after=1.0,
            )

    async def drain(self, refusal: ServerError | None = None) -> None:
        """Refuse new requests; return when all accepted ones are answered and no run goes on."""
        self.refuse(refusal)
        self._emptied = self._emptied or asyncio.Event()
        self._note_emptied()
        await self._emptied.wait()

    def abort(self, error: ServerError) -> None:
        """Refuse new requests and fail the pending ones with `error`; runs are stopped."""
        self._refusal = error
        for request in [*self._queue, *(r for b in self._running for r in b.members)]:
            if not request.settled and not request.future.done():
                self._fail_now(request, error)
        self._note_emptied()

    async def close(self) -> None:
        """Release threads, timers and the session; after `drain`, or after `abort`."""
        await self.drain()
        for timer in (self._timer, self._delay_timer):
            if timer is not None:
                timer.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        self._session.close()

    def _note_emptied(self) -> None:
        if self._emptied is not None and not self._queue.count and not self._running:
            self._emptied.set()

    # Words and records

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        assert self._loop is not None, "set by the first request"
        return self._loop

    def _queue_full(self) -> QueueFull:
        batches = self._queue.count / (self._max_rows * self._instances)
        wait = batches * self._mean_batch_ns / 1e9
        return QueueFull(
            f"Exceeds maximum queue size of model '{self.name}': {self._queue.count} waiting",
            retry_after=max(1.0, wait),
        )

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the deadline passed before model '{self.name}' answered")

    def _record(
        self, request: Request, batch: Batch | None, total_ns: int, failure: FailureReason | None
    ) -> None:
        ran = batch is not None and batch.started_ns > 0
        queue_ns = batch.started_ns - request.accepted_ns if batch is not None and ran else total_ns
        self._observe(
            InferenceRecord(
                self.name,
                self.version,
                request.rows,
                batch.rows if batch is not None and ran else 0,
                queue_ns / 1e9,
                batch.compute_ns / 1e9 if batch is not None and ran else 0.0,
                total_ns / 1e9,
                failure,
                request.origin,
            )
        )

    def _observe(self, record: InferenceRecord) -> None:
        for observer in self._observers:
            try:
                observer(record)
            except Exception:  # whoever looks on must not cost the caller the answer
                _log.exception("an observer of model '%s' failed", self.name)


def _smaller(first: float, second: float) -> float:
    """The smaller of two limits where 0 is none."""
    if first > 0 and second > 0:
        return min(first, second)
    return max(first, second)


def _size(inputs: Mapping[str, Array]) -> int:
    size = 0
    for array in inputs.values():
        size += array.nbytes if array.dtype is not _OBJECT else _bytes_size(array)
    return size


def _bytes_size(array: Array) -> int:
    return array.nbytes + sum(map(len, array.reshape(-1).tolist()))


def _reason(error: ServerError) -> FailureReason:
    if isinstance(error, DeadlineExceeded):
        return "CANCELED"
    return "OTHER" if isinstance(error, InvalidInput) else "BACKEND"
