"""Which of the waiting requests run next, together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from typing import Final

from aiaas_server.core.describe.config import DynamicBatching
from aiaas_server.core.schedule.batching import take
from aiaas_server.core.schedule.cost import Costs
from aiaas_server.core.schedule.padding import Padding
from aiaas_server.core.schedule.queues import Queue
from aiaas_server.core.schedule.requests import Batch, Request
from aiaas_server.core.schedule.rounding import fitted, spare_rows
from aiaas_server.core.schedule.sizing import Sizing
from aiaas_server.core.schedule.timer import Timer
from aiaas_server.core.signature import Signature

_UNBOUNDED: Final = 1 << 62
_SHARED: Final = 0.2
"""Part of the least time an item that is given up where tenants share, so that whoever has its turn
next does not wait long for what runs."""
_UNTRIED: Final = 4
"""Requests in a batch of which nobody knows how long it takes, where they have deadlines."""


class Batcher:
    """Takes batches out of a queue.

    Args:
        signature: Its `max_batch_size` bounds a batch.
        batching: None joins nothing.
        padding: How requests of different lengths are joined.
        warm_sizes: Batch sizes to round up to, ascending; empty runs batches as they are.
        deadlines: Its `due` is no later than the deadline of any request.
        sizing: Which batches pay; None, or sizes that are preferred, bound none by it.

    Attributes:
        joins: Whether requests are joined.
        max_rows: Items a batch may hold.
        delay_ns: How long a batch that is not complete may wait.
        wait_ns: After `next_requests` gave none: for how long it pays to wait.
        takes_lone_as_is: A request that waits alone is a batch just as it is.
    """

    def __init__(
        self,
        signature: Signature,
        batching: DynamicBatching | None,
        queue: Queue,
        costs: Costs,
        padding: Padding | None,
        warm_sizes: Sequence[int],
        deadlines: Timer,
        sizing: Sizing | None = None,
    ) -> None:
        self.joins = batching is not None and signature.max_batch_size > 1
        batching = batching or DynamicBatching()
        self.max_rows = max(signature.max_batch_size, 1)
        self.delay_ns = batching.max_queue_delay_microseconds * 1000
        self.wait_ns = 0
        self.takes_lone_as_is = not (self.delay_ns or warm_sizes or padding)
        self._output_names = signature.output_names
        self._preferred = frozenset(batching.preferred_batch_size)
        self._queue = queue
        self._costs = costs
        self._padding = padding
        self._warm_sizes = tuple(warm_sizes)
        self._deadlines = deadlines
        self._sizing = None if self._preferred else sizing

    def next_requests(self, loop: asyncio.AbstractEventLoop, *, at_once: bool) -> list[Request]:
        """The requests to run now; none when it pays to wait, which is not asked with `at_once`."""
        if self._queue.count == 1 and not self.delay_ns:
            return list(self._queue)
        self.wait_ns = 0
        for line in self._queue.candidates():
            head = next(line)
            requests, complete = self._take(head, line, loop)
            if self.delay_ns and not at_once and not complete:
                left = head.accepted_ns + self.delay_ns - time.monotonic_ns()
                if left > 0:
                    self.wait_ns = min(self.wait_ns or left, left)
                    continue
            return requests
        return []

    def batch_of(self, taken: Sequence[Request]) -> Batch | None:
        """Take waiting requests out of the queue; None when nobody waits for any of them."""
        for request in taken:
            self._queue.remove(request)
        members = [request for request in taken if not request.waiter.done()]
        if not members:
            return None
        padding = self._padding
        if padding is not None and len({member.length for member in members}) == 1:
            padding = None
        batch = Batch(members, _union(members, self._output_names), padding)
        if self._warm_sizes:
            batch.spare = spare_rows(batch.rows, self._warm_sizes)
        for request in members:
            request.batch = batch
        return batch

    def _take(
        self, head: Request, line: Iterator[Request], loop: asyncio.AbstractEventLoop
    ) -> tuple[list[Request], bool]:
        if not self.joins:
            return [head], True
        row = 0 if self._sizing is None else self._sizing.of_row(head)
        limit = self._limit(head, row, loop)
        most, reached = self.max_rows, False
        if head.length and self._padding is not None:
            requests = self._of_similar_length(self._padding, head, line, limit)
            reached = _elements(requests) * 4 > limit * 3
        else:
            most = min(most, fitted(max(limit // (row or 1), 1), self._warm_sizes))
            requests = [head, *islice(line, most - 1)]
        count, complete = take([request.rows for request in requests], most, self._preferred)
        complete = complete or reached
        taken = requests[:count]
        if count > 1 and self._deadlines.due < inf:
            capped = self._in_time(taken, loop.time())
            if len(capped) < count:
                return capped, True
        return taken, complete

    def _of_similar_length(
        self, padding: Padding, head: Request, line: Iterator[Request], most: int
    ) -> list[Request]:
        window = [head, *islice(line, padding.window(self.max_rows) - 1)]
        chosen = padding.select(
            [request.length for request in window],
            [request.rows for request in window],
            self.max_rows,
            self._costs.worth(head.key),
            most,
        )
        return [window[index] for index in chosen]

    def _limit(self, head: Request, row: int, loop: asyncio.AbstractEventLoop) -> int:
        """How large the batch of `head` should be at most, where a row of it has the size `row`.

        How long all that wait take at the cap tells whether one of them would be late by it.
        """
        if self._sizing is None or not row:
            return _UNBOUNDED
        curve, tenants = self._sizing.curve, self._queue.tenants
        if tenants is not None and tenants.shares.are_shared:
            return curve.knee(_SHARED)
        if curve.cap >= self.max_rows * row and not curve.trial:
            return curve.cap
        _, rows, elements = self._queue.ahead(head.lane >> 1, head.key)
        waiting = elements if head.length else rows * row
        due = self._deadlines.due
        pressed = due < inf and loop.time() + curve.drained(waiting) / 1e9 > due
        return curve.limit(waiting, pressed=pressed)

    def _in_time(self, requests: list[Request], now: float) -> list[Request]:
        """The longest beginning of `requests` that is expected to end before its own deadlines."""
        cost = self._costs.of(requests[0].key)
        if cost is None:
            told = self._sizing is not None and self._sizing.curve.cap
            return requests if told else requests[:_UNTRIED]
        seconds = self._costs.drift.at_most / 1e9
        length = max([request.length for request in requests]) or 1
        whole = cost.at_most(sum([request.rows for request in requests]) * length)
        if now + whole * seconds <= self._deadlines.due:  # nobody at all has an earlier deadline
            return requests
        fits = 1
        rows, longest, tightest = 0, 1, inf
        for count, request in enumerate(requests, 1):
            rows += request.rows
            longest = max(longest, request.length)
            tightest = min(tightest, request.deadline)
            if now + cost.at_most(rows * longest) * seconds <= tightest:
                fits = count
        return requests[:fits]


def _elements(requests: Sequence[Request]) -> int:
    """Of the batch that `requests` make, padding included."""
    rows = sum([request.rows for request in requests])
    return rows * max([request.length for request in requests])


def _union(members: Sequence[Request], names: Sequence[str]) -> tuple[str, ...]:
    """The outputs that any of `members` asks for, in the order of `names` where they differ."""
    first = members[0].outputs
    for member in members:
        if member.outputs != first:
            break
    else:
        return first
    wanted = {name for member in members for name in member.outputs}
    return tuple([name for name in names if name in wanted])
