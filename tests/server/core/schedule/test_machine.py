"""Whatever is asked, in whatever order: every future ends by its deadline, and the sums are right.

A machine submits, cancels, lets time pass and lets runs end, over schedulers of all kinds. Time is
the test's own: the loop's clock moves when a rule says so, or when a run on the loop is slow.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    QueueFull,
    QueueTimeout,
)
from aiaas_server.core.schedule.cost import Placement
from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.schedule.dispatch import Terms
from aiaas_server.core.schedule.padding import Declaration, Padding
from aiaas_server.core.schedule.queues import QueueBudget
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.schedule.scheduler import Scheduler
from aiaas_server.core.schedule.sizing import Sizing
from aiaas_server.core.session import StopToken
from aiaas_server.core.signature import Signature
from aiaas_server.core.statistics import Statistics
from tests.server.core.conftest import FakeSession

FAILS, BREAKS, SLOW = -1.0, 13.0, 50.0
HEALTH_SECONDS = 20.0
PAD = Declaration.model_validate({"pad": {"x": {"axis": 1}}, "slice": {"y": 1}, "max_waste": 0.5})


class OwnTime(asyncio.SelectorEventLoop):
    """A loop whose clock stands still until it is moved."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class Gated(FakeSession):
    """Each batch on a thread runs until its gate opens; one on the loop runs at once."""

    def __init__(self, loop: OwnTime) -> None:
        super().__init__()
        self.loop = loop
        self.gates: dict[StopToken, threading.Event] = {}
        self.open = False

    def run(self, inputs: Any, outputs: Any, stop: StopToken | None = None) -> list[Any]:
        x = inputs["x"]
        if threading.current_thread() is threading.main_thread():
            if (x == SLOW).any():
                self.loop.now += 1.0
        elif stop is not None and stop not in self.gates:  # not one run again by itself
            gate = threading.Event()
            stop.on_stop(gate.set)
            self.gates[stop] = gate
            if self.open:
                gate.set()
            assert gate.wait(HEALTH_SECONDS)
        if stop is not None and stop.stopped:
            raise DeadlineExceeded("stopped")
        if (x == BREAKS).any():
            raise KeyError("an error of the session's own")
        if (x < 0).any():
            raise InferenceFailed("a negative element")
        return [x * 2 for _ in outputs]


@dataclass
class Asked:
    """One request and what is known of it."""

    x: Any
    task: asyncio.Task[Outcome]
    deadline: float
    timeout: float
    cancelled: bool = False


@settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
class Machine(RuleBasedStateMachine):
    """Rules act on one scheduler and then wait until nothing more happens by itself."""

    @initialize(
        in_order=st.booleans(),
        levels=st.sampled_from([1, 3]),
        action=st.sampled_from(["REJECT", "DELAY"]),
        rows=st.sampled_from([1, 4]),
        instances=st.integers(1, 3),
        inline=st.booleans(),
        padded=st.booleans(),
        warm=st.sampled_from([(), (2, 4)]),
        queue_size=st.sampled_from([2, 100]),
        capped=st.booleans(),
    )
    def make(
        self,
        in_order: bool,
        levels: int,
        action: str,
        rows: int,
        instances: int,
        inline: bool,
        padded: bool,
        warm: tuple[int, ...],
        queue_size: int,
        capped: bool,
    ) -> None:
        self.loop = OwnTime()
        self.problems: list[Any] = []
        self.loop.set_exception_handler(lambda _, context: self.problems.append(context))
        self.session = Gated(self.loop)
        self.statistics = Statistics()
        self.budget = QueueBudget()
        self.records: list[Any] = []
        self.asked: list[Asked] = []
        self.began = 0
        self.answered: list[int] = []
        self.in_order = in_order
        config = ModelConfig.parse(
            {
                "max_batch_size": rows,
                "instance_group": [{"count": instances}],
                "dynamic_batching": {
                    "preserve_ordering": in_order,
                    "priority_levels": levels,
                    "default_priority_level": levels,
                    "default_queue_policy": {"timeout_action": action},
                },
            }
        )
        signature = Signature("m", self.session.inputs, self.session.outputs, rows)
        self.scheduler = Scheduler(
            "m",
            1,
            self.session,
            signature,
            config,
            self.statistics,
            terms=Terms(
                queue_size=queue_size,
                budget=self.budget,
                padding=Padding(PAD, signature) if padded else None,
                warm_sizes=warm if rows == 4 else (),
                sizing=Sizing("elements" if padded else "bytes", BatchCurve(), self.statistics)
                if capped
                else None,
            ),
            placement=Placement(10**15, 2**62) if inline else Placement(0),
            observers=[self.records.append],
        )
        self.rows = rows

    @rule(
        value=st.sampled_from([1.0, 2.0, 3.0, FAILS, BREAKS, SLOW]),
        rows=st.integers(1, 3),
        width=st.integers(1, 3),
        priority=st.integers(0, 3),
        deadline=st.sampled_from([inf, -1.0, 0.5, 1.0, 3.0]),
        timeout=st.sampled_from([0.0, 0.0, 0.7, 2.0]),
        at_once=st.booleans(),
    )
    def submit(
        self,
        value: float,
        rows: int,
        width: int,
        priority: int,
        deadline: float,
        timeout: float,
        at_once: bool,
    ) -> None:
        x = np.full((min(rows, self.rows), width), value, np.float32)
        number = len(self.asked)
        until = self.loop.now + deadline

        async def ask() -> Outcome:
            self.began += 1
            limit = None if until == inf else until
            outcome = await self.scheduler.submit(
                {"x": x}, ("y",), x.shape[0], priority, timeout, limit
            )
            self.answered.append(number)
            return outcome

        task = self.loop.create_task(ask())
        self.asked.append(Asked(x, task, until, timeout))
        if at_once:  # else others come in the same turn of the loop
            self.rest()

    @rule(which=st.integers(0, 99))
    def cancel(self, which: int) -> None:
        waiting = [asked for asked in self.asked if not asked.task.done()]
        if waiting:
            asked = waiting[which % len(waiting)]
            asked.cancelled = True
            asked.task.cancel()
            self.rest()

    @rule(seconds=st.sampled_from([0.3, 0.6, 1.1]))
    def pass_time(self, seconds: float) -> None:
        self.rest()
        self.loop.now += seconds
        self.rest()

    @rule(which=st.integers(0, 99), while_late=st.sampled_from([0.0, 0.0, 1.5]))
    def finish(self, which: int, while_late: float) -> None:
        """Let a run end; perhaps so that the loop hears of it after deadlines have passed."""
        self.rest()
        running = sorted(self.running(), key=lambda batch: batch.members[0].accepted_ns)
        if running:
            batch = running[which % len(running)]
            self.wait(lambda: batch.stop in self.session.gates)
            self.loop.now += while_late
            self.session.gates[batch.stop].set()
            self.wait(lambda: batch not in self.running())
            self.rest()

    @invariant()
    def nothing_is_late_and_all_is_told(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.rest()
        assert self.problems == []
        for asked in self.asked:
            if asked.deadline <= self.loop.now:
                assert asked.task.done(), "a deadline has passed without an answer"
        if self.in_order:
            assert self.answered == sorted(self.answered)
        waiting = sum(not asked.task.done() for asked in self.asked)
        assert self.statistics.pending == waiting

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.end()
        finally:
            self.loop.close()

    def end(self) -> None:
        self.rest()
        self.session.open = True
        late = len(self.asked) % 2 == 1  # every second machine is stopped, the others run out
        if late:
            self.loop.call_soon(self.scheduler.abort, Draining("the test is over"))
            self.rest()
        for gate in list(self.session.gates.values()):
            gate.set()
        drained = self.loop.create_task(self.scheduler.drain())
        self.wait(drained.done)
        self.rest()
        for asked in self.asked:
            check(asked, self.loop.now, aborted=late)
        counts = self.statistics
        assert (counts.pending, self.scheduler.pending) == (0, 0)
        assert (self.budget.count, self.budget.bytes) == (0, 0)
        assert counts.success_count + counts.fail_count == self.began == len(self.records)
        assert sum(counts.failures.values()) == counts.fail_count
        assert sum(counts.latency_counts) == counts.success_count
        assert sum(record.failure is None for record in self.records) == counts.success_count
        assert counts.success_count >= len(self.answered)
        assert counts.inference_count == sum(
            record.units.rows for record in self.records if record.failure is None
        )
        self.wait(self.loop.create_task(self.scheduler.close()).done)
        assert self.problems == []

    # Waiting

    def running(self) -> list[Any]:
        return list(self.scheduler._dispatcher.pending.running)

    def turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    def wait(self, happened: Callable[[], bool]) -> None:
        until = time.monotonic() + HEALTH_SECONDS
        while not happened():
            assert time.monotonic() < until, "it does not happen"
            self.turn()
            time.sleep(0)

    def rest(self) -> None:
        """Let the loop do what there is to do, and runs that were stopped end."""
        for _ in range(8 + 2 * len(self.asked)):
            self.turn()
        self.wait(lambda: not any(batch.stop.stopped for batch in self.running()))
        for _ in range(8):
            self.turn()


def check(asked: Asked, now: float, *, aborted: bool) -> None:
    """Hold an answer against what was asked."""
    assert asked.task.done()
    if asked.task.cancelled():
        assert asked.cancelled
        return
    error = asked.task.exception()
    if error is None:
        np.testing.assert_array_equal(asked.task.result().outputs["y"], asked.x * 2)
        assert asked.x[0, 0] not in (FAILS, BREAKS)
    elif isinstance(error, InferenceFailed):
        assert asked.x[0, 0] in (FAILS, BREAKS), "nobody fails for a neighbour's sake"
    elif isinstance(error, DeadlineExceeded):
        assert asked.deadline <= now
    elif isinstance(error, QueueTimeout):
        assert asked.timeout
    elif isinstance(error, Draining):
        assert aborted
    else:
        assert isinstance(error, QueueFull)


TestMachine = Machine.TestCase
