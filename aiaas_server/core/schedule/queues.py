"""Requests that wait: lanes by urgency, in each lane a bucket per shape, in each bucket a line.

Where several tenants wait, who is next is told by their shares first, and by lanes and age within
each of them: nobody overtakes another tenant by calling itself urgent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from aiaas_server.core.events import Identity
from aiaas_server.core.schedule.requests import Request
from aiaas_server.core.schedule.shares import Shares, Waiting


@dataclass(slots=True)
class QueueBudget:
    """Room for waiting requests, shared by all models of a server; one alone always fits."""

    max_count: int = 1000
    max_bytes: int = 256 * 1024 * 1024
    count: int = 0
    bytes: int = 0


class Bucket:
    """Requests of one shape key, oldest first.

    Attributes:
        rows, elements: Of all of them together.
    """

    __slots__ = ("elements", "requests", "rows")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0
        self.elements = 0


class Queue:
    """Lanes 2n and 2n + 1 hold priority level n + 1: those in time, then those delayed.

    Every change keeps `count` and the shared budget right. Who is served before whom is told by
    `candidates` alone.

    Args:
        shares: Whose turn it is, where there are tenants.

    Attributes:
        count: How many wait.
        tenants: Who waits; None where there are no tenants.
    """

    def __init__(self, levels: int, budget: QueueBudget, shares: Shares | None = None) -> None:
        self._budget = budget
        self.tenants = None if shares is None else Waiting(shares)
        self._lanes: list[dict[Hashable, Bucket]] = [{} for _ in range(2 * levels)]
        self._level_counts = [0] * levels
        self._level_rows = [0] * levels
        self.count = 0

    def __iter__(self) -> Iterator[Request]:
        """All waiting requests; the queue must not change meanwhile."""
        for lane in self._lanes:
            for bucket in lane.values():
                yield from bucket.requests

    def is_level_full(self, level: int, limit: int) -> bool:
        """Whether level `level` (from 0) holds `limit` (0: any)."""
        return 0 < limit <= self._level_counts[level]

    def has_room(self, level: int, size: int, limit: int) -> bool:
        """Whether level `level` (from 0) holds less than `limit` (0: any) and the budget allows."""
        budget = self._budget
        if self.is_level_full(level, limit):
            return False
        return budget.count == 0 or (
            budget.count < budget.max_count and budget.bytes + size <= budget.max_bytes
        )

    def push(self, request: Request, lane: int) -> Bucket:
        """Put `request` at the end of its bucket in `lane`; gives the bucket."""
        buckets = self._lanes[lane]
        bucket = buckets.get(request.key)
        if bucket is None:
            bucket = buckets[request.key] = Bucket()
        bucket.requests.append(request)
        bucket.rows += request.rows
        bucket.elements += request.elements
        request.lane = lane
        self.count += 1
        self._level_counts[lane >> 1] += 1
        self._level_rows[lane >> 1] += request.rows
        self._budget.count += 1
        self._budget.bytes += request.size
        if self.tenants is not None:
            self.tenants.push(request)
        return bucket

    def remove(self, request: Request) -> None:
        """Take a waiting request out, wherever it stands."""
        buckets = self._lanes[request.lane]
        bucket = buckets[request.key]
        if bucket.requests[0] is request:
            bucket.requests.popleft()
        else:
            bucket.requests.remove(request)
        bucket.rows -= request.rows
        bucket.elements -= request.elements
        if not bucket.requests:
            del buckets[request.key]
        self.count -= 1
        self._level_counts[request.lane >> 1] -= 1
        self._level_rows[request.lane >> 1] -= request.rows
        self._budget.count -= 1
        self._budget.bytes -= request.size
        if self.tenants is not None:
            self.tenants.remove(request)
        request.lane = -1

    @property
    def rows(self) -> int:
        """Items of all that wait."""
        return sum(self._level_rows)

    def ahead(
        self, level: int, key: Hashable, identity: Identity | None = None, rows: int = 1
    ) -> tuple[int, int, int]:
        """What waits before a new request of level `level` (from 0) and shape `key`.

        Args:
            identity: Whose it is, where others of it are not to be counted in full.
            rows: Its items.
        Returns:
            Items of this and more urgent levels; items and elements that wait in its own bucket.
        """
        before = sum(self._level_rows[: level + 1])
        bucket = self._lanes[2 * level].get(key)
        found = (before, 0, 0) if bucket is None else (before, bucket.rows, bucket.elements)
        if identity is None or self.tenants is None:
            return found
        part = self.tenants.part_ahead(identity, rows)
        return int(found[0] * part), int(found[1] * part), int(found[2] * part)

    def in_turn(self) -> Iterator[Request]:
        """All that wait, about as they are run: by whose turn it is, by urgency, by age."""
        if self.tenants is not None:
            return self.tenants.in_turn(self)
        return iter(sorted(self, key=lambda request: (request.lane, request.accepted_ns)))

    def youngest_of(self, tenant: str) -> Request:
        """The request of a tenant that came last."""
        mine = (request for request in self if request.caller.identity.tenant == tenant)
        return max(mine, key=lambda request: request.accepted_ns)

    def candidates(self) -> Iterator[Iterator[Request]]:
        """Lines of requests that may share a batch, in the order in which to serve them.

        The most urgent lane first and in it the bucket whose head is oldest; each line goes on
        with the same shape in less urgent lanes.
        """
        if self.tenants is not None and self.tenants.is_shared:
            yield from self._in_fair_lines(self.tenants)
            return
        for index, lane in enumerate(self._lanes):
            if len(lane) == 1:
                yield self._line(index, next(iter(lane)))
            elif lane:
                # Most often only the first is asked for: finding it is cheaper than sorting.
                age = {key: bucket.requests[0].accepted_ns for key, bucket in lane.items()}
                oldest = min(age, key=age.__getitem__)
                yield self._line(index, oldest)
                for key in sorted(age, key=age.__getitem__):
                    if key != oldest:
                        yield self._line(index, key)

    def _in_fair_lines(self, tenants: Waiting) -> Iterator[Iterator[Request]]:
        ordered = tenants.in_turn(self)
        if len({key for lane in self._lanes for key in lane}) == 1:
            yield ordered
            return
        lines: dict[Hashable, list[Request]] = {}
        for request in ordered:
            lines.setdefault(request.key, []).append(request)
        yield from map(iter, lines.values())

    def _line(self, index: int, key: Hashable) -> Iterator[Request]:
        for lane in self._lanes[index:]:
            if key in lane:
                yield from lane[key].requests
