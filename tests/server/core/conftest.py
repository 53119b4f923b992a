"""A session without a runtime, whose runs a test holds and lets go one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import DeadlineExceeded, InferenceFailed
from aiaas_server.core.schedule.cost import Placement
from aiaas_server.core.schedule.dispatch import Terms
from aiaas_server.core.schedule.queues import QueueBudget
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.schedule.scheduler import Scheduler
from aiaas_server.core.session import GraphFacts, StopToken
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.core.statistics import Statistics


class FakeSession:
    """`y = 2 * x`; a negative element fails the run, as an input can that fits the signature.

    With `held`, every run waits until the test releases it or its token stops it.
    """

    inputs = (TensorSpec("x", "FP32", (-1, -1), symbols=("batch", "")),)
    outputs = (TensorSpec("y", "FP32", (-1, -1), symbols=("batch", "")),)
    providers = ("CPUExecutionProvider",)
    graph = GraphFacts()
    metadata: Mapping[str, str] = {}

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[float]] = []
        self.stopped: list[list[float]] = []
        self.closed = False
        self._permits = threading.Semaphore(0 if held else 1_000_000)
        self._started = threading.Semaphore(0)

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        first = [float(row[0]) if row.size else 0.0 for row in inputs["x"]]
        self.batches.append(first)
        if stop is not None:
            stop.on_stop(self._permits.release)
        self._started.release()
        self._permits.acquire()
        if stop is not None and stop.stopped:
            self.stopped.append(first)
            raise DeadlineExceeded("stopped")
        if (inputs["x"] < 0).any():
            raise InferenceFailed("a negative element")
        return [inputs["x"] * 2 for _ in outputs]

    def release(self, runs: int = 1) -> None:
        """Let the next `runs` runs go on."""
        self._permits.release(runs)

    async def started(self, runs: int = 1) -> None:
        """Wait until `runs` more runs have begun."""
        for _ in range(runs):
            await asyncio.to_thread(self._started.acquire)

    def close(self) -> None:
        self.closed = True


class Bench:
    """A scheduler over a FakeSession, with the words that its tests use."""

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        held: bool = True,
        inline: bool = False,
        session: FakeSession | None = None,
        **options: Any,
    ) -> None:
        self.session = session or FakeSession(held=held)
        self.statistics = Statistics()
        self.budget = options.pop("budget", QueueBudget())
        raw: dict[str, Any] = {"max_batch_size": 4, "dynamic_batching": {}}
        parsed = ModelConfig.parse({**raw, **(config or {})})
        size = parsed.max_batch_size or 0
        signature = Signature("m", self.session.inputs, self.session.outputs, size)
        known = Placement(10**12, 2**62) if inline else Placement(0)
        placement = options.pop("placement", known)
        named = {field.name for field in fields(Terms)}
        terms = {name: options.pop(name) for name in named.intersection(options)}
        self.scheduler = Scheduler(
            "m", 1, self.session, signature, parsed, self.statistics,
            terms=Terms(budget=self.budget, **terms), placement=placement, **options,
        )  # fmt: skip
        self.done: list[float] = []

    def ask(
        self, value: float, rows: int = 1, width: int = 1, **options: Any
    ) -> asyncio.Task[Outcome]:
        """Send a request whose elements are `value`; note the value when it is answered."""
        x = np.full((rows, width), value, np.float32)

        async def run() -> Outcome:
            outcome = await self.scheduler.submit({"x": x}, ("y",), rows, **options)
            self.done.append(value)
            return outcome

        return asyncio.create_task(run())

    async def occupy(self) -> asyncio.Task[Outcome]:
        """Have the one instance busy with a request of value 100 until the test releases it."""
        task = self.ask(100)
        await self.session.started()
        return task


@pytest.fixture
async def bench() -> AsyncIterator[Callable[..., Bench]]:
    """Makes benches; releases and closes all of them at the end."""
    made: list[Bench] = []

    def make(*args: Any, **options: Any) -> Bench:
        made.append(Bench(*args, **options))
        return made[-1]

    yield make
    for one in made:
        one.session.release(10_000)
        one.scheduler.abort(DeadlineExceeded("the test is over"))
        await one.scheduler.close()


@pytest.fixture
def fake_session() -> type[FakeSession]:
    """The class, for tests that make their own."""
    return FakeSession
