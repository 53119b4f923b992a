"""Whether a request that has to wait would be answered in time, by what is learned of the costs.

What waits is poured over the instances, each free when its batch is expected to end, and times are
taken with their spread. What cannot be in time is refused when it comes: it costs least then, and
its caller can still go elsewhere.

A queue as long as deadlines allow is right for a burst, and for callers who send more only when
they are answered. Where more comes than can be answered, it only makes everyone wait, and has
nothing in hand when a run takes longer than thought. So from the first refusal on nobody is to wait
longer than a part of the deadline, until for a whole deadline none had to be refused: that a queue
is judged by whether it stays, not by its length, is CoDel's idea (RFC 8289). Each tenant is judged
by its own refusals, as each flow in RFC 8290: one that asks for too much shortens its own wait, and
not that of who asks for less than its share.

No clock and no event loop here: seconds come in as arguments.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import inf
from typing import Final, NamedTuple

from aiaas_server.core.events import Identity
from aiaas_server.core.schedule.cost import Costs
from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.schedule.queues import Queue
from aiaas_server.core.schedule.requests import Batch, Request

TARGET: Final = 0.25
"""The part of its deadline that a request may queue for while others are refused."""
LOOKS_APART: Final = 0.01
"""Seconds between two looks at all that wait, which cost as much as a quick model's run."""
_REMEMBERED: Final = 1024  # tenants that were refused something


class Expected(NamedTuple):
    """Seconds, with the spread.

    Attributes:
        queued: That what waits ahead of the request takes, once an instance is free.
        finish: Until it is answered.
    """

    queued: float
    finish: float


class Admission:
    """Knows what runs, and decides on what comes.

    Args:
        queue: What waits.
        costs: What is known of the times; its `drift` is told by `ended`.
        instances: Runs that may go on at once.
        curve: Which batches pay; None bounds none by it.

    Attributes:
        batch_rows: Items that a batch may hold; 1 once requests are not joined.
    """

    def __init__(
        self,
        queue: Queue,
        costs: Costs,
        instances: int,
        batch_rows: int,
        curve: BatchCurve | None = None,
    ) -> None:
        self.batch_rows = batch_rows
        self._curve = curve
        self._queue = queue
        self._costs = costs
        self._instances = instances
        self._running: dict[Batch, tuple[float, float]] = {}
        self._shedding_until: dict[str, float] = {}  # by tenant
        self._look_again_at = -inf

    def started(self, batch: Batch, now: float) -> None:
        """Take note that a batch runs from now on."""
        cost = self._costs.of(batch.members[0].key)
        expected = 0.0 if cost is None else cost.at_most(batch.elements) / 1e9
        self._running[batch] = (now, expected)

    def ended(self, batch: Batch, now: float) -> None:
        """Take note that its run has ended; one that failed, or was stopped, tells nothing."""
        started, expected = self._running.pop(batch)
        if batch.error is None and expected > 0:
            self._costs.drift.measured((now - started) / expected)

    def expects(
        self,
        key: Hashable,
        rows: int,
        elements: int,
        level: int,
        now: float,
        identity: Identity | None = None,
    ) -> Expected:
        """What a request that comes now has to expect.

        Args:
            elements: What its time grows with.
            level: Its priority, from 0.
            identity: Whose it is, where tenants share.
        """
        before, own_rows, own_elements = self._queue.ahead(level, key, identity, rows)
        others, size = before - own_rows, self._batch_rows(rows, elements)
        slow = self._costs.drift.at_most
        expected = self._costs.expected
        ahead = expected(key, own_elements, own_rows / size, others) / 1e9 * slow
        work = expected(key, own_elements + elements, (own_rows + rows) / size, others) / 1e9 * slow
        left = self._left(now, slow)
        start, _ = poured(left, ahead)
        finish, sharing = poured(left, work)
        batch = work / max((before + rows) / size, 1.0)
        return Expected(start - min(left), finish + batch * (1 - 1 / sharing))

    def refuses(self, expected: Expected, left: float, now: float, tenant: str = "") -> bool:
        """Whether a request is not to be accepted.

        While others are refused it is judged by what waits ahead of it, not by its own size: short
        ones would always find a gap, and long ones none. Where nothing does, it only has to be in
        time, so that no instance is left without work.

        Args:
            left: Seconds until its deadline.
            tenant: Whose it is, where tenants share.
        """
        until = self._shedding_until.get(tenant, -inf)
        sheds = now < until and expected.queued > left * TARGET
        if expected.finish <= left and not sheds:
            return False
        shedding = self._shedding_until
        shedding.pop(tenant, None)  # who was refused last is the last to be forgotten
        shedding[tenant] = max(until, now + left)
        if len(shedding) > _REMEMBERED:
            del shedding[next(iter(shedding))]
        return True

    def hopeless(self, due: float, now: float) -> list[Request]:
        """Those who wait and would be answered too late even if all runs take what they usually do.

        Each leaves room for those behind it, so that as many as can be are answered.

        Args:
            due: No deadline is earlier.
        """
        costs = self._costs
        batches = 1 + self._queue.rows / self.batch_rows
        if now < self._look_again_at or due - now > batches * costs.most_seconds:
            return []
        self._look_again_at = now + LOOKS_APART
        slow = costs.drift.mean
        left, ahead = self._left(now, slow), 0.0
        found: list[Request] = []
        for request in self._queue.in_turn():
            cost = costs.of(request.key)
            if cost is None or not cost.is_settled:
                continue
            start, _ = poured(left, ahead)
            alone = cost.at_most(request.elements) / 1e9 * slow
            if now + start + alone <= request.deadline:
                batch = self._batch_rows(request.rows, request.elements)
                ahead += cost.share(request.elements, request.rows / batch) / 1e9 * slow
            elif request.deadline > now and not request.waiter.done():
                found.append(request)
        return found

    def _batch_rows(self, rows: int, elements: int) -> int:
        """Items in a batch of such as have so many elements in so many items."""
        cap = 0 if self._curve is None else self._curve.cap
        if not cap or not elements:
            return self.batch_rows
        return max(min(cap * rows // elements, self.batch_rows), 1)

    def _left(self, now: float, slow: float) -> list[float]:
        """Seconds until each instance is free, if its run takes `slow` times the usual."""
        left = [0.0] * (self._instances - len(self._running))
        for started, usual in self._running.values():
            # A run that takes longer than thought may well take as much again as it is over; of
            # one of which nothing is known, nothing is thought.
            left.append(abs(usual * slow - (now - started)) if usual else 0.0)
        return left


def poured(left: Sequence[float], work: float) -> tuple[float, int]:
    """When `work` is done by instances that are free in `left` seconds each, and by how many.

    The work is as fluid as it can be: batches are not, so that the last of them ends later, by a
    part of its own time that the caller adds.
    """
    total, sharing = work, 0
    for one in sorted(left):
        if sharing and total <= one * sharing:
            break
        total += one
        sharing += 1
    return total / sharing, sharing
