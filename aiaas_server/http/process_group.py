"""The server as a whole, seen from one of its processes."""

from __future__ import annotations

from typing import Protocol

from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.operations import Operation, Operations
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.totals import ProcessFacts, Totals


class ProcessGroup(Protocol):
    """All processes that serve one port."""

    @property
    def ready(self) -> bool:
        """Whether the other processes serve too."""
        ...

    async def apply(self, operation: Operation) -> None:
        """Have all processes carry `operation` out; returns when all have.

        Raises:
            ServerError: It cannot be done; those that had done it have undone it.
        """
        ...

    async def follow(self, name: str) -> None:
        """Have the other processes do what the registry says of a model now.

        Returns when they have, or, where one takes long, after a while: it goes on by itself.
        """
        ...

    async def follow_keys(self) -> None:
        """Have the other processes read anew who may ask; returns as `follow` does."""
        ...

    async def totals(self) -> Totals:
        """The counts of all processes together."""
        ...


class SingleProcess:
    """The group of a server that is one process."""

    def __init__(self, operations: Operations, pool: ModelPool, requests: RequestMetrics) -> None:
        self._operations = operations
        self._pool = pool
        self._requests = requests

    @property
    def ready(self) -> bool:
        """There are no others."""
        return True

    async def apply(self, operation: Operation) -> None:
        """Carry it out here."""
        await self._operations.apply(operation)

    async def follow(self, name: str) -> None:
        """There are no others."""

    async def follow_keys(self) -> None:
        """There are no others."""

    async def totals(self) -> Totals:
        """The counts of this process."""
        return own_totals(self._pool, self._requests)


def own_totals(pool: ModelPool, requests: RequestMetrics, worker: str = "") -> Totals:
    """The counts of this process, as they stand."""
    statistics = {(model.full, model.version): model.statistics for model in pool.models()}
    refusals = {code.value: count for code, count in requests.refusals.items()}
    return Totals(statistics, refusals, (ProcessFacts.now(worker),), requests.families())
