"""Tenants that share a queue: each gets its part of the time, whatever the others send."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.errors import QueueFull
from aiaas_server.core.events import CALLER, Caller, Identity, InferenceRecord, Units
from aiaas_server.core.schedule.admission import Admission
from aiaas_server.core.schedule.cost import Costs, Placement
from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.schedule.queues import Queue, QueueBudget
from aiaas_server.core.schedule.requests import Request
from aiaas_server.core.schedule.shares import Shares
from aiaas_server.core.schedule.sizing import Sizing
from aiaas_server.core.statistics import Statistics
from tests.server.core.conftest import Bench


def caller(tenant: str, weight: float = 1.0) -> Caller:
    return Caller(identity=Identity(tenant, weight=weight))


class Line:
    """A queue of one shape, and a clock of ticks."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.shares = Shares()
        self.queue = Queue(2, QueueBudget(10**6, 10**12), self.shares)
        self.tick = 0

    def push(self, who: Caller, rows: int = 1, level: int = 0, key: str = "") -> Request:
        self.tick += 1
        future: asyncio.Future[Any] = self.loop.create_future()
        request = Request({}, (), rows, rows, key, future, self.tick)
        request.caller = who
        self.queue.push(request, 2 * level)
        return request

    def next(self) -> Request:
        return next(next(self.queue.candidates()))

    def run(self, request: Request, seconds: float) -> None:
        """Take it out, and have it run for so long."""
        self.queue.remove(request)
        units = Units(request.rows)
        self.shares(
            InferenceRecord(
                "m",
                1,
                units,
                request.rows,
                0,
                seconds,
                seconds,
                None,
                request.caller,
                own_ns=round(seconds * 1e9),
            )
        )

    def close(self) -> None:
        self.loop.close()


@pytest.fixture
def line() -> Any:
    made = Line()
    yield made
    made.close()


def test_one_tenant_alone_is_served_as_it_came(line: Line) -> None:
    sent = [line.push(caller("a"), level=level) for level in (1, 0, 1, 0)]
    order = [request for found in line.queue.candidates() for request in found]
    assert order[:2] == [sent[1], sent[3]]
    assert not line.queue.tenants.is_shared  # type: ignore[union-attr]


def test_who_comes_with_little_does_not_wait_for_who_has_sent_much(line: Line) -> None:
    noisy, quiet = caller("noisy"), caller("quiet")
    for _ in range(50):
        line.push(noisy)
    line.run(line.next(), 1.0)
    mine = line.push(quiet)
    assert line.next() is mine
    line.run(mine, 0.5)
    again = line.push(quiet)
    assert line.next() is again


def test_time_that_was_measured_counts_and_not_the_number_of_requests(line: Line) -> None:
    slow, quick = caller("slow"), caller("quick")
    served: Counter[str] = Counter()
    for _ in range(60):
        line.push(slow)
        line.push(quick)
    for _ in range(60):
        request = line.next()
        tenant = request.caller.identity.tenant
        served[tenant] += 1
        line.run(request, 0.010 if tenant == "slow" else 0.002)
    assert 4 <= served["quick"] / served["slow"] <= 6


@pytest.mark.parametrize("errand", [True, False])
def test_what_an_explanation_runs_counts_and_a_copy_that_nobody_asked_for_does_not(
    line: Line, errand: bool
) -> None:
    asks, other = caller("asks")._replace(shadow=True, errand=errand), caller("other")
    for _ in range(20):
        line.push(asks)
        line.push(other)
    served = Counter[str]()
    for _ in range(20):
        request = line.next()
        served[request.caller.identity.tenant] += 1
        line.run(request, 1.0)
    assert (served["asks"] == 10) is errand


def test_nobody_overtakes_another_tenant_by_calling_itself_urgent(line: Line) -> None:
    patient, urgent = caller("patient"), caller("urgent")
    waits = line.push(patient, level=1)
    for _ in range(5):
        line.push(urgent, level=0)
    order = list(next(line.queue.candidates()))
    assert order.index(waits) <= 1


def test_a_pause_saves_nothing_up(line: Line) -> None:
    busy, late = caller("busy"), caller("late")
    for _ in range(100):
        line.run(line.push(busy), 1.0)
    served: Counter[str] = Counter()
    for _ in range(20):
        line.push(busy)
        line.push(late)
    for _ in range(20):
        request = line.next()
        served[request.caller.identity.tenant] += 1
        line.run(request, 1.0)
    assert served == {"busy": 10, "late": 10}


def test_shapes_are_served_by_whose_turn_it_is(line: Line) -> None:
    noisy, quiet = caller("noisy"), caller("quiet")
    for _ in range(3):
        line.push(noisy, key="a")
    line.run(line.next(), 1.0)
    mine = line.push(quiet, key="b")
    lines = [list(found) for found in line.queue.candidates()]
    assert lines[0] == [mine]
    assert [request.key for request in lines[1]] == ["a", "a"]


def test_it_is_known_whether_several_were_served_of_late(line: Line) -> None:
    for _ in range(300):
        line.run(line.push(caller("a")), 0.1)
    assert not line.shares.are_shared
    line.run(line.push(caller("b")), 0.1)
    assert line.shares.are_shared
    for _ in range(300):
        line.run(line.push(caller("b")), 0.1)
    assert not line.shares.are_shared


RUNS = st.floats(0.001, 0.05)


@given(
    weights=st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=5),
    costs=st.lists(RUNS, min_size=30, max_size=120),
)
def test_backlogged_tenants_are_never_further_apart_than_their_longest_runs(
    weights: list[float], costs: list[float]
) -> None:
    """The bound of start-time fair queueing, over any course of costs."""
    line = Line()
    try:
        who = [caller(str(index), weight) for index, weight in enumerate(weights)]
        got = [0.0] * len(who)
        for one in who:
            for _ in costs:
                line.push(one)
        longest = max(costs)
        for cost in costs:
            request = line.next()
            line.run(request, cost)
            index = int(request.caller.identity.tenant)
            got[index] += cost / weights[index]
            for a, first in enumerate(got):
                for b, second in enumerate(got):
                    bound = longest / weights[a] + longest / weights[b]
                    assert abs(first - second) <= bound + 1e-9
    finally:
        line.close()


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 5), st.integers(0, 1)), max_size=30
    )
)
def test_all_that_wait_are_served_once_and_what_is_kept_ends_with_them(
    steps: list[tuple[str, int, int]],
) -> None:
    line = Line()
    try:
        sent = [line.push(caller(tenant), rows, level) for tenant, rows, level in steps]
        order = [request for found in line.queue.candidates() for request in found]
        if len({tenant for tenant, _, _ in steps}) > 1:
            assert sorted(map(id, order)) == sorted(map(id, sent))
        assert sorted(map(id, line.queue.in_turn())) == sorted(map(id, sent))
        for request in sent:
            line.queue.remove(request)
        waiting = line.queue.tenants
        assert waiting is not None
        assert (waiting.counts, waiting.rows, waiting._weights) == ({}, {}, {})
    finally:
        line.close()


def test_what_is_ahead_of_a_tenant_is_no_more_of_others_than_its_part(line: Line) -> None:
    for _ in range(1000):
        line.push(caller("noisy"))
    quiet = Identity("quiet")
    assert line.queue.ahead(0, "")[0] == 1000
    assert line.queue.ahead(0, "", quiet, 2) == (2, 2, 2)
    assert line.queue.ahead(0, "", Identity("quiet", weight=4.0), 4)[0] == 1
    assert line.queue.ahead(0, "", Identity("noisy"))[0] == 1000
    costs = Costs(Placement())
    for _ in range(50):
        costs.measured("", 1, 1, 1, 10_000_000)
    admission = Admission(line.queue, costs, 1, 1)
    assert admission.expects("", 1, 1, 0, 0.0).finish > 5
    assert admission.expects("", 1, 1, 0, 0.0, quiet).finish < 1


def ask(bench: Bench, value: float, tenant: str, **options: Any) -> asyncio.Task[Any]:
    token = CALLER.set(caller(tenant))
    try:
        return bench.ask(value, **options)  # the task has a copy of the context
    finally:
        CALLER.reset(token)


async def test_a_full_queue_makes_room_for_who_has_little_in_it(
    bench: Callable[..., Bench],
) -> None:
    shares = Shares()
    one = bench({"max_batch_size": 1}, shares=shares, observers=[shares], queue_size=4)
    first = ask(one, 0, "noisy")
    await one.session.started()
    noisy = [ask(one, value, "noisy") for value in (1, 2, 3, 4)]
    await asyncio.sleep(0)
    quiet = [ask(one, value, "quiet") for value in (11, 12)]
    with pytest.raises(QueueFull):
        await noisy[3]
    with pytest.raises(QueueFull):
        await noisy[2]
    third = ask(one, 13, "quiet")
    with pytest.raises(QueueFull):  # it has as much as the other one now
        await third
    with pytest.raises(QueueFull):
        await ask(one, 5, "noisy")
    one.session.release(10)
    await asyncio.gather(first, *noisy[:2], *quiet)
    assert one.done[:2] == [0, 11]


async def test_without_tenants_nothing_is_told_apart(bench: Callable[..., Bench]) -> None:
    one = bench({"max_batch_size": 1}, queue_size=2)
    first = ask(one, 0, "noisy")
    await one.session.started()
    noisy = [ask(one, value, "noisy") for value in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await ask(one, 11, "quiet")
    one.session.release(10)
    await asyncio.gather(first, *noisy)
    assert one.done == [0, 1, 2]


async def test_where_a_level_is_full_nobody_is_sent_away_for_nothing(
    bench: Callable[..., Bench],
) -> None:
    policy = {"max_queue_size": 1}
    config = {
        "max_batch_size": 1,
        "dynamic_batching": {
            "priority_levels": 2,
            "default_priority_level": 2,
            "priority_queue_policy": {"1": policy},
        },
    }
    one = bench(config, shares=Shares(), queue_size=10)
    first = ask(one, 0, "noisy")
    await one.session.started()
    noisy = [ask(one, value, "noisy") for value in (1, 2, 3)]
    noisy.append(ask(one, 4, "noisy", priority=1))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await ask(one, 11, "quiet", priority=1)
    one.session.release(10)
    await asyncio.gather(first, *noisy)


class Known(BatchCurve):
    """Learns no more: within a fifth of the least time an item 2 are enough, and 4 are the best."""

    def __init__(self) -> None:
        super().__init__(16)
        for size, ms in {1: 10, 2: 17, 4: 30, 8: 90, 16: 260}.items():
            for _ in range(3):
                super().measured(size, ms * 1_000_000)
        self.trial = 0

    def measured(self, size: int, ns: int) -> None:
        pass


@pytest.mark.parametrize(("tenants", "size"), [("aa", 4), ("ab", 2)])
async def test_batches_are_shorter_while_tenants_share(
    bench: Callable[..., Bench], tenants: str, size: int
) -> None:
    shares, sizing = Shares(), Sizing("rows", Known(), Statistics())
    one = bench({"max_batch_size": 16}, shares=shares, sizing=sizing, observers=[shares])
    first, second = ask(one, 0, tenants[0]), ask(one, 0, tenants[1])
    await one.session.started()
    one.session.release(2)
    await asyncio.gather(first, second)
    first = ask(one, 0, tenants[0])
    await one.session.started()
    waiting = [ask(one, 1, tenant) for tenant in tenants * 4]
    await asyncio.sleep(0)
    one.session.release(1)
    await first
    while len(one.session.batches[-1]) == 1:
        await one.session.started()
    assert len(one.session.batches[-1]) == size
    one.session.release(10_000)
    await asyncio.gather(*waiting)
