"""Whose turn it is: start-time fair queueing between tenants, by the time that runs really took.

A tenant's virtual time is what it was served, in seconds of runs, divided by its weight. Whoever
waits and has the least goes first. One that comes after a pause begins where those are that are
served now: it cannot save up, and it owes nothing. Source: Goyal, Vin and Cheng 1996, *Start-time
Fair Queueing*. One `Shares` is for all models of a process, since they share its processors.

No clock and no event loop here; records are told in any thread, the rest is the event loop's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from aiaas_server.core.events import Identity, InferenceRecord
from aiaas_server.core.schedule.requests import Request

_REMEMBERED: Final = 4096  # tenants whose times are kept
_LATELY: Final = 256  # records
_LEARNED: Final = 0.1  # the part that the newest record has in what a row is thought to take


class Shares:
    """What tenants were served.

    Called with every record: `core.events.Observer`.
    """

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._now = 0.0  # the virtual time of who was served last
        self._row_seconds = 1e-4
        self._last = ""  # who was served last
        self._since = _LATELY  # records since that was another one

    def __call__(self, record: InferenceRecord) -> None:
        """Charge a request's part of the run that it was part of."""
        _, _, units, _, _, _, _, _, caller, _, own_ns, _ = record  # of many a second
        if not own_ns or (caller.shadow and not caller.errand):
            return
        rows, identity, seconds = units.rows, caller.identity, own_ns / 1e9
        tenant = identity.tenant
        if tenant == self._last:
            self._since += 1
        else:
            self._since = 0 if self._last else _LATELY
            self._last = tenant
        before = self._served.get(tenant, self._now)
        if before > self._now:
            self._now = before
        self._served[tenant] = before + seconds / identity.weight
        self._row_seconds += (seconds / (rows or 1) - self._row_seconds) * _LEARNED

    @property
    def are_shared(self) -> bool:
        """Whether several tenants were served of late."""
        return self._since < _LATELY

    def begins(self, tenant: str) -> None:
        """A tenant that waited for nothing does from now on."""
        served = self._served.pop(tenant, 0.0)  # the last who began is the last to be forgotten
        self._served[tenant] = max(served, self._now)
        if len(self._served) > _REMEMBERED:
            del self._served[next(iter(self._served))]

    def in_turn(self, lines: Mapping[str, Iterable[Request]]) -> Iterator[Request]:
        """Requests in the order in which to serve them.

        Args:
            lines: Of each tenant, what is its own order.
        """
        heap: list[tuple[float, int, str, Request, Iterator[Request]]] = []
        for tenant, line in lines.items():
            rest = iter(line)
            for first in rest:
                time = self._served.get(tenant, self._now)
                heap.append((time, first.accepted_ns, tenant, first, rest))
                break
        heapq.heapify(heap)
        while heap:
            time, _, tenant, request, rest = heap[0]
            yield request
            following = next(rest, None)
            if following is None:
                heapq.heappop(heap)
                continue
            weight = request.caller.identity.weight
            later = time + max(request.rows, 1) * self._row_seconds / weight
            heapq.heapreplace(heap, (later, following.accepted_ns, tenant, following, rest))


class Waiting:
    """What waits in one queue, by tenant.

    Attributes:
        rows: Items, by tenant; none of them is 0.
        counts: Requests, by tenant.
        shares: Whose turn it is.
    """

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.rows: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self._weights: dict[str, float] = {}

    def push(self, request: Request) -> None:
        """Take note of one more."""
        tenant, _, _, _, weight = request.caller.identity
        if tenant not in self.counts:
            self.counts[tenant] = self.rows[tenant] = 0
            self._weights[tenant] = weight
            self.shares.begins(tenant)
        self.counts[tenant] += 1
        self.rows[tenant] += request.rows

    def remove(self, request: Request) -> None:
        """Take note that it waits no more."""
        tenant = request.caller.identity.tenant
        self.counts[tenant] -= 1
        self.rows[tenant] -= request.rows
        if not self.counts[tenant]:
            del self.counts[tenant], self.rows[tenant], self._weights[tenant]

    @property
    def is_shared(self) -> bool:
        """Whether several tenants wait."""
        return len(self.counts) > 1

    def in_turn(self, waiting: Iterable[Request]) -> Iterator[Request]:
        """Requests in the order in which to serve them: of each tenant the most urgent first."""
        lines: dict[str, list[Request]] = {tenant: [] for tenant in self.counts}
        for request in waiting:
            lines[request.caller.identity.tenant].append(request)
        for line in lines.values():
            line.sort(key=_turn)
        return self.shares.in_turn(lines)

    def part_ahead(self, identity: Identity, rows: int) -> float:
        """The part of all that waits that is before a new request of so many items.

        Of another tenant no more is before it than as much as it has itself, by their weights.
        """
        total = sum(self.rows.values())
        if not total:
            return 0.0
        own = self.rows.get(identity.tenant, 0)
        each = (own + rows) / identity.weight
        others = sum(
            min(waiting, each * self._weights[tenant])
            for tenant, waiting in self.rows.items()
            if tenant != identity.tenant
        )
        return (own + others) / total

    def has_most(self, identity: Identity) -> str | None:
        """The tenant that is to make room for one more of `identity`'s; None where nobody is.

        It is the one that has the most waiting by its weight, if it would still have more.
        """
        most = max(self.counts, key=lambda one: self.counts[one] / self._weights[one], default=None)
        if most is None or most == identity.tenant:
            return None
        own = (self.counts.get(identity.tenant, 0) + 1) / identity.weight
        return most if (self.counts[most] - 1) / self._weights[most] >= own else None


def _turn(request: Request) -> tuple[int, int]:
    return request.lane, request.accepted_ns
