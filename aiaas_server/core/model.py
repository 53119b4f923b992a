"""One loaded model version: what it is, and how to run it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from typing import Final

from aiaas_client.protocol.tensors import Array

from .cache import ResponseCache, digest
from .card import Card
from .config import ModelConfig
from .scheduler import Outcome, Scheduler
from .session import Session
from .signature import Signature
from .statistics import Statistics
from .task import AnyTask

__all__ = ["LoadedModel", "ModelConfig", "Outcome"]

_DIGEST_INLINE: Final = 256 * 1024  # input bytes hashed on the event loop, a quarter millisecond


class LoadedModel:
    """A version that serves.

    Attributes:
        config: Complete: every input and output with its dims, `max_batch_size` a number.
        signature: Its shapes are the metadata's (with the batch dimension of a batching model).
        labels: By output name, the lines of its `label_filename`.
        providers: Execution providers in use.
        metadata: What the model file says about itself.
        card: What it is for; None where it serves tensors only.
        task: Payloads in, predictions out; None without a card.
        successor: What took its place in a reload: a request that comes late is handed on.
    """

    def __init__(
        self,
        name: str,
        version: int,
        config: ModelConfig,
        signature: Signature,
        statistics: Statistics,
        labels: Mapping[str, Sequence[str]],
        session: Session,
        scheduler: Scheduler,
        *,
        card: Card | None = None,
        task: AnyTask | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.config = config
        self.signature = signature
        self.statistics = statistics
        self.labels = labels
        self.session = session
        self.scheduler = scheduler
        self.providers = session.providers
        self.metadata = session.metadata
        self.card = card
        self.task = task
        self.successor: LoadedModel | None = None
        self._cache = cache
        self._identity = os.urandom(16)

    async def infer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        priority: int = 0,
        timeout: float = 0.0,
        deadline: float | None = None,
    ) -> Outcome:
        """Check, queue, run in a batch, and give this request's part of it.

        Args:
            inputs: By name; rows first where the model batches.
            outputs: Names in the order wanted; empty is all.
            priority: 1 is the highest; 0, or above the model's levels, is its default level.
            timeout: Seconds it may queue; 0 is no limit of its own.
            deadline: On the loop's clock; afterwards nobody waits for the answer.
        Raises:
            InvalidInput: The request does not fit the model.
            QueueFull, QueueTimeout, DeadlineExceeded, ModelUnavailable, InferenceFailed.
        Cancelling the awaiting task abandons the work: it leaves the queue, and a run that only
        it waits for is stopped.
        """
        if self.successor is not None:
            return await self.successor.infer(
                inputs, outputs, priority=priority, timeout=timeout, deadline=deadline
            )
        signature = self.signature
        rows = signature.check(inputs)
        names = signature.select(outputs)
        if self._cache is None:
            return await self.scheduler.submit(inputs, names, rows, priority, timeout, deadline)
        began = time.monotonic_ns()
        key = await self._digest(inputs, names)
        found = self._cache.get(key)
        looked = time.monotonic_ns() - began
        if found is not None:
            self.scheduler.answered_from_cache(rows, looked)
            return Outcome(found, 0, 0, 0)
        outcome = await self.scheduler.submit(inputs, names, rows, priority, timeout, deadline)
        began = time.monotonic_ns()
        self._cache.put(key, self, outcome.outputs)
        self.statistics.missed(looked + time.monotonic_ns() - began)
        return outcome

    async def _digest(self, inputs: Mapping[str, Array], names: Sequence[str]) -> bytes:
        if sum(array.nbytes for array in inputs.values()) <= _DIGEST_INLINE:
            return digest(self._identity, inputs, names)
        return await asyncio.to_thread(digest, self._identity, inputs, names)

    def forget_answers(self) -> None:
        """Drop what the response cache holds of this version, which is no longer called."""
        if self._cache is not None:
            self._cache.forget(self)

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> Outcome:
        """Check and run in the caller's thread: no event loop, no queue, no batching.

        Raises:
            InvalidInput: The request does not fit the model.
            ModelUnavailable: The version was unloaded.
            InferenceFailed: The runtime failed.
        """
        if self.successor is not None:
            return self.successor.infer_now(inputs, outputs)
        rows = self.signature.check(inputs)
        names = self.signature.select(outputs)
        return self.scheduler.run_now(inputs, names, rows)
