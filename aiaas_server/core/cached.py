"""Inference of one version whose answers are kept: an equal request is not run again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.cache import ResponseCache, digest
from aiaas_server.core.events import CALLER
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.schedule.scheduler import Scheduler
from aiaas_server.core.signature import total_bytes
from aiaas_server.core.statistics import Statistics

_DIGEST_INLINE: Final = 256 * 1024  # input bytes hashed on the event loop, a quarter millisecond


class Key(NamedTuple):
    """Of a request, and the nanoseconds that making it took."""

    digest: bytes
    took_ns: int


class Serves(Protocol):
    """The version whose answers are kept.

    Attributes:
        in_use: Calls that will run it again.
    """

    in_use: int

    @property
    def successor(self) -> Serves | None:
        """What took its place."""
        ...

    async def infer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        priority: int = 0,
        timeout: float = 0.0,
        deadline: float | None = None,
    ) -> Outcome:
        """As `LoadedModel.infer`."""
        ...


class CachedAnswers:
    """Answers from the cache what it knows, and has the rest run.

    Args:
        cache: Shared by all models.
        scheduler: Of the version.
    """

    def __init__(self, cache: ResponseCache, scheduler: Scheduler, statistics: Statistics) -> None:
        self._cache: ResponseCache | None = cache
        self._scheduler = scheduler
        self._statistics = statistics
        self._identity = os.urandom(16)

    async def key(
        self, inputs: Mapping[str, Array], names: Sequence[str], deadline: float | None
    ) -> Key:
        """What equal requests have in common; made in a thread where the inputs are large.

        Raises:
            DeadlineExceeded: It took too long.
        """
        began = time.monotonic_ns()
        # Who asks finds out by the time it takes what its own tenant has asked, and nobody else's.
        whose = self._identity + CALLER.get().identity.tenant.encode()
        if total_bytes(inputs) <= _DIGEST_INLINE:
            made = digest(whose, inputs, names)
            return Key(made, time.monotonic_ns() - began)
        try:
            async with asyncio.timeout_at(deadline):
                made = await asyncio.to_thread(digest, whose, inputs, names)
        except TimeoutError:
            raise self._scheduler.too_late() from None
        return Key(made, time.monotonic_ns() - began)

    async def answer(
        self,
        model: Serves,
        inputs: Mapping[str, Array],
        names: tuple[str, ...],
        rows: int,
        priority: int,
        timeout: float,
        deadline: float | None,
    ) -> Outcome:
        """As `Scheduler.submit`, of `model`, or of what took its place meanwhile."""
        model.in_use += 1  # nothing is pending meanwhile, and yet it makes no room for another
        try:
            key = await self.key(inputs, names, deadline)
        finally:
            model.in_use -= 1
        if model.successor is not None:  # a reload while a thread made the key
            return await model.successor.infer(
                inputs, names, priority=priority, timeout=timeout, deadline=deadline
            )
        return await self.infer(key, inputs, names, rows, priority, timeout, deadline)

    async def infer(
        self,
        key: Key,
        inputs: Mapping[str, Array],
        names: tuple[str, ...],
        rows: int,
        priority: int,
        timeout: float,
        deadline: float | None,
    ) -> Outcome:
        """As `Scheduler.submit`, for a request of that key."""
        began = time.monotonic_ns() - key.took_ns
        found = None if self._cache is None else self._cache.get(key.digest)
        looked = time.monotonic_ns() - began
        if found is not None:
            sizes = total_bytes(inputs), total_bytes(found)
            self._scheduler.count_hit(rows, sizes, looked, deadline)
            return Outcome(found, 0, 0, 0, 0, 0)
        outcome = await self._scheduler.submit(inputs, names, rows, priority, timeout, deadline)
        began = time.monotonic_ns()
        if self._cache is not None:
            self._cache.put(key.digest, self, outcome.outputs)
        self._statistics.missed(looked + time.monotonic_ns() - began)
        return outcome

    def forget(self) -> None:
        """Drop what is kept of this version, which is no longer called."""
        if self._cache is not None:
            self._cache.forget(self)
            self._cache = None
