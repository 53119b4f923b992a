"""Who is accepted, over a server whose clock and whose runs are made up.

The queue, the batches, the costs and the decisions are the real ones; a run ends when the scripted
clock says so, after a time drawn at random around the line that the server does not know.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import count
from math import inf
from statistics import mean, median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.describe.config import DynamicBatching
from aiaas_server.core.errors import ServerError
from aiaas_server.core.schedule.admission import Admission, Expected, poured
from aiaas_server.core.schedule.batcher import Batcher
from aiaas_server.core.schedule.cost import Costs, Placement
from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.schedule.drift import Drift
from aiaas_server.core.schedule.padding import Declaration, Padding
from aiaas_server.core.schedule.queues import Queue, QueueBudget
from aiaas_server.core.schedule.requests import Batch, Outcome, Request
from aiaas_server.core.schedule.timer import Timer
from aiaas_server.core.signature import Signature, TensorSpec

X = TensorSpec("x", "FP32", (-1, -1), symbols=("batch", ""))
Y = TensorSpec("y", "FP32", (-1, -1), symbols=("batch", ""))
PAD = Declaration.model_validate({"pad": {"x": {"axis": 1}}, "slice": {"y": 1}, "max_waste": 0.25})
ROW = 0.020
RUN = 0.020
"""Seconds of an item, and of every run besides."""


class Waiting:
    """Waits for an answer, as a future does; `then` is called with it."""

    def __init__(self, then: Callable[[], None] | None) -> None:
        self.then = then

    def done(self) -> bool:
        return False

    def set_result(self, result: Outcome, /) -> object:
        raise AssertionError("these runs have no outcomes")

    def set_exception(self, exception: ServerError, /) -> object:
        raise AssertionError("these runs have no outcomes")


@dataclass
class Served:
    """What came of the requests.

    Attributes:
        waits: Seconds, of those that were answered in time.
        dropped: Accepted, and given up, or past their deadlines, before they ran.
        lengths: Of those that were accepted.
    """

    asked: int = 0
    refused: int = 0
    dropped: int = 0
    late: int = 0
    waits: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    @property
    def late_share(self) -> float:
        """Of all that were accepted, those that ran, or waited, for nothing."""
        return (self.late + self.dropped) / max(self.asked - self.refused, 1)

    @property
    def usual_wait(self) -> float:
        return median(self.waits)


class Server:
    """Requests for made-up runs; what the dispatcher does, on a clock that events move."""

    def __init__(
        self,
        *,
        instances: int = 2,
        rows: int = 16,
        noise: float = 0.2,
        mixed: bool = False,
        slowness: Callable[[float], float] = lambda now: 1.0,
    ) -> None:
        self.now = 0.0
        self.chance = random.Random(5)
        self.served = Served()
        self.idle = instances
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._noise, self._mixed, self._slowness = noise, mixed, slowness
        signature = Signature("m", (X,), (Y,), rows)
        self.queue = Queue(1, QueueBudget(10**6, 10**12))
        self.costs = Costs(Placement(0))
        padding = Padding(PAD, signature) if mixed else None
        deadlines = Timer()
        deadlines.due = -inf  # every batch is held against the deadlines of its members
        self.batcher = Batcher(
            signature, DynamicBatching(), self.queue, self.costs, padding, (), deadlines
        )
        self.admission = Admission(self.queue, self.costs, instances, rows)

    def at(self, when: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), call))

    def run(self, until: float) -> Served:
        while self._events and self._events[0][0] <= until:
            self.now, _, call = heapq.heappop(self._events)
            call()
        return self.served

    def time(self) -> float:
        """The clock of the loop that the batcher asks."""
        return self.now

    def flood(self, rate: float, seconds: float, deadline: float) -> None:
        """Have requests come at random moments from now on."""
        moment = self.now
        while (moment := moment + self.chance.expovariate(rate)) < seconds:
            self.at(moment, partial(self.ask, deadline))

    def clients(self, count: int, seconds: float, deadline: float) -> None:
        """Have `count` callers ask again as soon as they are answered."""

        def again() -> None:
            if self.now < seconds:
                self.ask(deadline, again)

        for _ in range(count):
            self.at(self.now, again)

    def ask(self, deadline: float, then: Callable[[], None] | None = None) -> None:
        served = self.served
        served.asked += 1
        length = self.chance.randint(5, 120) if self._mixed else 0
        now_ns = int(self.now * 1e9)
        request = Request({}, ("y",), 1, 4, None, Waiting(then), now_ns, length)
        request.deadline = self.now + deadline
        if not self.idle:
            expected = self.admission.expects(None, 1, request.elements, 0, self.now)
            if self.admission.refuses(expected, deadline, self.now):
                served.refused += 1
                if then is not None:
                    self.at(self.now + 1.0, then)
                return
        served.lengths.append(length)
        self.queue.push(request, 0)
        self.dispatch()

    def dispatch(self) -> None:
        loop: Any = self
        while self.idle and self.queue.count:
            batch = self.batcher.batch_of(self.batcher.next_requests(loop, at_once=True))
            assert batch is not None
            self.idle -= 1
            self.admission.started(batch, self.now)
            took = self.duration(batch)
            self.at(self.now + took, partial(self.finish, batch, took))

    def duration(self, batch: Batch) -> float:
        items = batch.elements / (60 if self._mixed else 1)
        usual = (items * ROW + RUN) * self._slowness(self.now)
        return usual * self.chance.lognormvariate(0, self._noise)

    def finish(self, batch: Batch, took: float) -> None:
        self.idle += 1
        self.admission.ended(batch, self.now)
        gone = [request for request in self.queue if request.deadline <= self.now]
        for request in [*gone, *self.admission.hopeless(-inf, self.now)]:
            self.queue.remove(request)
            self.served.dropped += 1
        self.dispatch()
        self.costs.measured(None, batch.rows, batch.elements, 1, int(took * 1e9))
        for request in batch.members:
            if self.now <= request.deadline:
                self.served.waits.append(self.now - request.accepted_ns / 1e9)
            else:
                self.served.late += 1
            assert isinstance(request.waiter, Waiting)
            if request.waiter.then is not None:
                self.at(self.now, request.waiter.then)


@cache
def capacity(instances: int = 2, rows: int = 16, mixed: bool = False, noise: float = 0.2) -> float:
    """Answers a second of clients that always ask for as much as batches can hold."""
    server = Server(instances=instances, rows=rows, mixed=mixed, noise=noise)
    server.clients(64, 20, inf)
    return len(server.run(20).waits) / 20


# Overload

KINDS = [
    {},
    {"instances": 1},
    {"instances": 3, "rows": 4},
    {"rows": 1},
    {"noise": 0.35},
    {"mixed": True},
    {"mixed": True, "rows": 64},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_five_times_the_capacity_costs_none_of_it_and_makes_none_late(kind: Any) -> None:
    server = Server(**kind)
    server.flood(5 * capacity(**kind), 10, 2.0)
    served = server.run(20)
    assert len(served.waits) >= 0.92 * 10 * capacity(**kind)
    assert served.late_share <= 0.02
    assert served.usual_wait <= 1.0  # half of the deadline


@pytest.mark.parametrize("times", [0.5, 0.8])
def test_what_can_be_served_is_not_refused(times: float) -> None:
    server = Server()
    server.flood(times * capacity(), 20, 2.0)
    served = server.run(30)
    assert served.refused == 0
    assert len(served.waits) == served.asked


@pytest.mark.parametrize("deadline", [2.0, 30.0])
def test_callers_that_wait_for_their_answers_are_not_refused(deadline: float) -> None:
    server = Server()
    server.clients(60, 20, deadline)
    served = server.run(30)
    assert (served.refused, served.late, served.dropped) == (0, 0, 0)
    assert len(served.waits) >= 0.95 * 20 * capacity()


@pytest.mark.parametrize(("slower", "late"), [(3.0, 0.04), (10.0, 0.1), (0.5, 0.0)])
def test_a_machine_that_changes_its_speed_is_followed(slower: float, late: float) -> None:
    server = Server(slowness=lambda now: slower if 5 <= now < 10 else 1.0)
    server.flood(5 * capacity(), 15, 2.0)
    served = server.run(20)
    assert len(served.waits) >= 0.9 * (10 + 5 / slower) * capacity()
    assert served.late_share <= late


def test_stalls_make_few_late() -> None:
    chance = random.Random(1)
    server = Server(slowness=lambda now: 10.0 if chance.random() < 0.02 else 1.0)
    server.flood(5 * capacity(), 15, 2.0)
    served = server.run(20)
    assert len(served.waits) >= 0.85 * 15 * capacity() / 1.18
    assert served.late_share <= 0.05


def test_long_requests_find_room_as_short_ones_do() -> None:
    server = Server(mixed=True, rows=64)
    server.flood(5 * capacity(mixed=True), 20, 2.0)
    lengths = server.run(30).lengths
    assert mean(lengths) >= 0.9 * (5 + 120) / 2


def test_callers_of_little_patience_leave_room_for_others() -> None:
    server = Server()
    server.flood(2 * capacity(), 20, 2.0)
    server.flood(2 * capacity(), 20, 0.3)
    served = server.run(30)
    assert len(served.waits) >= 0.95 * 20 * capacity()
    assert served.late_share <= 0.01


def test_after_a_flood_a_burst_is_taken_whole() -> None:
    server = Server()
    server.flood(5 * capacity(), 5, 2.0)
    server.run(10)
    refused = server.served.refused
    for _ in range(60):  # two thirds of a second's work
        server.at(10.0, partial(server.ask, 2.0))
    assert server.run(20).refused == refused


def test_a_model_slower_than_the_deadline_allows_is_tried_whenever_it_is_idle() -> None:
    server = Server(instances=1, slowness=lambda now: 100.0 if now < 20 else 1.0)
    server.flood(5, 40, 0.5)
    served = server.run(50)
    assert len(served.waits) >= 60  # of the hundred of the second half, once it was quick again


# The decisions alone


@pytest.mark.parametrize(
    ("left", "work", "when", "sharing"),
    [
        ([0], 3, 3, 1),
        ([2], 3, 5, 1),
        ([0, 0], 3, 1.5, 2),
        ([1, 2], 3, 3, 2),
        ([2, 1], 1, 2, 1),
        ([1, 60], 3, 4, 1),
        ([1, 1, 9], 4, 3, 2),
        ([5, 7], 0, 5, 1),
    ],
)
def test_work_is_poured_over_the_instances_as_they_get_free(
    left: list[float], work: float, when: float, sharing: int
) -> None:
    assert poured(left, work) == (when, sharing)


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=6), st.floats(0, 100), st.floats(0.001, 100)
)
def test_more_work_never_ends_earlier_and_no_instance_is_filled_before_it_is_free(
    left: list[float], work: float, more: float
) -> None:
    when, _ = poured(left, work)
    assert poured(left, work + more)[0] >= when >= min(left)
    assert sum(max(when - one, 0) for one in left) == pytest.approx(work, abs=1e-6)


def test_a_run_that_hangs_takes_its_instance_and_no_other_out_of_the_count() -> None:
    server = Server(instances=2)
    server.clients(64, 5, inf)
    server.run(5)
    server.at(5.0, partial(server.ask, 2.0))
    batch = next(iter(server.admission._running))
    server.admission._running[batch] = (-60.0, 0.1)  # since a minute
    expected = server.admission.expects(None, 1, 1, 0, server.now)
    assert expected.finish < 3


def test_a_batch_that_pays_no_more_is_not_counted_upon() -> None:
    costs = Costs(Placement(0))
    for rows in (1, 2, 4, 3) * 5:  # n items take n + 9 seconds
        costs.measured(None, rows, rows, 1, (rows + 9) * 10**9)
    curve = BatchCurve(16)
    expected = []
    for known in (None, curve):
        queue = Queue(1, QueueBudget())
        for _ in range(15):
            queue.push(Request({}, ("y",), 1, 4, None, Waiting(None), 0), 0)
        admission = Admission(queue, costs, 1, 16, known)
        expected.append(admission.expects(None, 1, 1, 0, 0.0).finish / costs.drift.at_most)
        curve.measured(4, 10**9)  # four are enough
    assert expected == pytest.approx([16 + 9, 16 + 4 * 9], rel=0.05)


def test_what_is_off_is_learned_within_a_few_runs_and_one_stall_is_soon_forgotten() -> None:
    drift = Drift()
    for _ in range(8):
        drift.measured(3.0)
    assert drift.mean == pytest.approx(3.0, rel=0.1)
    for _ in range(30):
        drift.measured(1.0)
    assert drift.at_most == pytest.approx(1.0, abs=0.02)
    drift.measured(1000.0)
    assert drift.at_most < 4
    for _ in range(10):
        drift.measured(1.0)
    assert drift.at_most < 1.5


def test_a_run_of_which_nothing_is_known_keeps_nobody_out():
    queue, costs = Queue(1, QueueBudget()), Costs(Placement())
    admission = Admission(queue, costs, 1, 8)
    first = Request({}, (), 1, 4, None, Waiting(None), 0)
    admission.started(Batch([first], ()), now=0.0)
    expected = admission.expects(None, 1, 1, 0, now=5.0)
    assert not admission.refuses(expected, left=0.01, now=5.0)


def test_who_asks_for_too_much_shortens_the_wait_of_nobody_else():
    admission = Admission(Queue(1, QueueBudget()), Costs(Placement()), 1, 8)
    behind = Expected(queued=1.0, finish=1.1)
    assert admission.refuses(Expected(queued=3.0, finish=3.1), left=2.0, now=0.0, tenant="noisy")
    assert admission.refuses(behind, left=2.0, now=1.0, tenant="noisy"), "not yet"
    assert not admission.refuses(behind, left=2.0, now=1.0, tenant="quiet")
    for number in range(5000):  # nobody who was refused of late is forgotten for few others
        admission.refuses(Expected(3.0, 3.1), left=2.0, now=1.0, tenant=f"t{number}")
        assert admission.refuses(behind, left=2.0, now=1.0, tenant="noisy")
    assert not admission.refuses(behind, left=2.0, now=3.5, tenant="noisy"), "it is over"
