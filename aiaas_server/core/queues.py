"""Requests that wait: lanes by urgency, in each lane a bucket per shape, in each bucket a line."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from aiaas_client.protocol.tensors import Array

from .events import NOBODY

if TYPE_CHECKING:
    from .execution import Batch, Outcome


class Request:
    """One accepted request.

    Attributes:
        size: Input bytes.
        length: Along the padded axes; 0 where nothing is padded.
        accepted_ns: On the monotonic clock.
        deadline: On the loop's clock; answered with an error then, wherever it is.
        expires: On the loop's clock; answered or delayed then if it still waits.
        lane: Index of the lane it waits in, -1 when it does not wait.
        batch: The batch it runs in.
        settled: Counted in the statistics: answered, failed, or abandoned.
        answer: Ready, held back until earlier requests are answered (`preserve_ordering`).
        origin: Who asked, where somebody looks on.
    """

    __slots__ = (
        "accepted_ns",
        "answer",
        "batch",
        "deadline",
        "expires",
        "future",
        "inputs",
        "key",
        "lane",
        "length",
        "origin",
        "outputs",
        "rows",
        "settled",
        "size",
    )

    def __init__(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        size: int,
        key: Hashable,
        future: asyncio.Future[Outcome],
        accepted_ns: int,
        length: int = 0,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.size = size
        self.key = key
        self.future = future
        self.accepted_ns = accepted_ns
        self.deadline = inf
        self.expires = inf
        self.lane = -1
        self.length = length
        self.batch: Batch | None = None
        self.settled = False
        self.answer: Outcome | Exception | None = None
        self.origin = NOBODY

    @property
    def units(self) -> int:
        """What its time grows with: items, times their length where that is padded."""
        return self.rows * (self.length or 1)


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
        rows, units: Of all of them together.
    """

    __slots__ = ("requests", "rows", "units")

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.rows = 0
        self.units = 0


class Queue:
    """Lanes 2n and 2n + 1 hold priority level n + 1: those in time, then those delayed.

    Every change keeps `count` and the shared budget right.
    """

    def __init__(self, levels: int, budget: QueueBudget) -> None:
        self._budget = budget
        self._lanes: list[dict[Hashable, Bucket]] = [{} for _ in range(2 * levels)]
        self._level_counts = [0] * levels
        self._level_rows = [0] * levels
        self.count = 0

    def __iter__(self) -> Iterator[Request]:
        """All waiting requests; the queue must not change meanwhile."""
        for lane in self._lanes:
            for bucket in lane.values():
                yield from bucket.requests

    def has_room(self, level: int, size: int, limit: int) -> bool:
        """Whether level `level` (from 0) holds less than `limit` (0: any) and the budget allows."""
        budget = self._budget
        if limit and self._level_counts[level] >= limit:
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
        bucket.units += request.units
        request.lane = lane
        self.count += 1
        self._level_counts[lane >> 1] += 1
        self._level_rows[lane >> 1] += request.rows
        self._budget.count += 1
        self._budget.bytes += request.size
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
        bucket.units -= request.units
        if not bucket.requests:
            del buckets[request.key]
        self.count -= 1
        self._level_counts[request.lane >> 1] -= 1
        self._level_rows[request.lane >> 1] -= request.rows
        self._budget.count -= 1
        self._budget.bytes -= request.size
        request.lane = -1

    def ahead(self, level: int, key: Hashable) -> tuple[int, int, int]:
        """What waits before a new request of level `level` (from 0) and shape `key`.

        Returns:
            Items of this and more urgent levels; items and units that wait in its own bucket.
        """
        rows = sum(self._level_rows[: level + 1])
        bucket = self._lanes[2 * level].get(key)
        return (rows, 0, 0) if bucket is None else (rows, bucket.rows, bucket.units)

    def candidates(self) -> Iterator[Iterator[Request]]:
        """Lines of requests that may share a batch, in the order in which to serve them.

        The most urgent lane first and in it the bucket whose head is oldest; each line goes on
        with the same shape in less urgent lanes.
        """
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

    def _line(self, index: int, key: Hashable) -> Iterator[Request]:
        for lane in self._lanes[index:]:
            if key in lane:
                yield from lane[key].requests
