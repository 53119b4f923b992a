"""The line a * units + b, and what the scheduler does with it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from aiaas_server.core.errors import QueueFull
from aiaas_server.core.schedule.batching import shape_key
from aiaas_server.core.schedule.cost import BatchCost, Costs, Placement

MS = 1_000_000


def learned(*runs):
    cost = BatchCost()
    for units, ns in runs:
        cost.measured(units, ns)
    return cost


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], (0, 0)),
        ([(4, 400)], (100, 0)),
        ([(1, 110), (5, 150), (10, 200)], (10, 100)),
        ([(1, 500), (10, 400)], (0, 450)),
        ([(1, 0), (10, 900)], (450 / 5.5, 0)),
    ],
    ids=["nothing", "one size", "a line", "falling", "negative at zero"],
)
def test_the_line_is_least_squares_and_never_negative(runs, expected):
    slope, fixed = learned(*runs).line()
    assert slope == pytest.approx(expected[0], rel=0.05)
    assert fixed == pytest.approx(expected[1], rel=0.05)


def test_one_size_gives_a_careful_guess_both_ways():
    cost = learned((4, 400))
    assert cost.at_most(8) == pytest.approx(800)
    assert cost.at_most(1) == pytest.approx(400)


def test_old_runs_are_forgotten_and_one_stall_changes_little():
    cost = learned(*[(4, 400)] * 50)
    cost.measured(4, 1_000_000)
    assert cost.at_most(4) < 500
    for _ in range(100):
        cost.measured(4, 800)
    assert cost.at_most(4) == pytest.approx(800, rel=0.05)


def test_a_line_through_a_few_runs_is_not_trusted_beyond_their_sizes():
    few = learned((10, 900), (11, 900))  # as if the size made no difference
    assert few.at_most(100) == pytest.approx(100 * 900 / 10.5, rel=0.02)
    assert few.at_most(5) == pytest.approx(900, rel=0.02)
    assert few.share(100, 1.0) == few.at_most(100)
    many = learned(*[(10, 900), (11, 900)] * 10)
    assert many.is_settled
    assert many.at_most(100) == pytest.approx(900, rel=0.02)
    assert many.share(5, 2.0) == pytest.approx(1800, rel=0.02)


def test_what_waits_is_expected_to_take_as_long_as_its_like_did():
    costs = Costs(Placement(0))
    assert costs.expected("a", 4, 1.0, 3) == 0
    for _ in range(20):
        costs.measured("a", 4, 4, 1, 400)
    assert costs.expected("a", 8, 2.0, 0) == pytest.approx(800)
    assert costs.expected("a", 8, 2.0, 3) == pytest.approx(1100)
    assert costs.expected("new", 8, 2.0, 3) == pytest.approx(300)


def test_a_slow_bucket_leaves_the_loop_alone():
    costs = Costs(Placement(1000, ceiling=100))
    for _ in range(3):
        costs.measured("quick", 1, 1, 50, 10)
        costs.measured("slow", 1, 1, 50, 5000)
    assert costs.is_inline("quick", 50)
    assert not costs.is_inline("slow", 50)


def test_shapes_are_bounded():
    costs = Costs(Placement())
    for key in range(5000):
        costs.measured(key, 1, 1, 1, 1)
    assert costs.of(0) is None
    assert costs.of(4999) is not None
    assert len(costs._shapes) <= 1024


def teach(bench, *, width=1, slope=10 * MS, fixed=10 * MS):
    """Have the scheduler know that a batch of n items takes slope * n + fixed."""
    key = shape_key({"x": np.zeros((1, width), "float32")}, ("x",))
    for rows in (1, 2, 4, 3, 2, 1) * 3:
        bench.scheduler._costs.measured(key, rows, rows, 4, slope * rows + fixed)


async def test_a_batch_is_capped_so_that_its_tightest_deadline_holds(bench):
    one = bench({"max_batch_size": 8})
    teach(one, slope=10_000 * MS, fixed=10_000 * MS)  # n items take 10 (n + 1) seconds
    first = await one.occupy()
    now = one.scheduler._dispatcher.loop.time()
    tasks = [one.ask(1, deadline=now + 65)]
    tasks += [one.ask(n, deadline=now + 1e6) for n in (2, 3, 4)]
    await asyncio.sleep(0)
    one.session.release(10)
    await first
    for task in tasks:
        await task
    # Four take 50 s, and 77 with the spread; three 40 s, and 62, which is in time for the first.
    assert [len(batch) for batch in one.session.batches] == [1, 3, 1]


async def test_a_batch_of_unknown_cost_is_small_where_there_are_deadlines(bench):
    for deadline, sizes in ((1e6, [1, 4, 4]), (None, [1, 8])):
        one = bench({"max_batch_size": 8})
        first = await one.occupy()
        until = deadline and one.scheduler._dispatcher.loop.time() + deadline
        tasks = [one.ask(n, width=2, deadline=until) for n in range(8)]
        await asyncio.sleep(0)
        one.session.release(2)
        await first
        one.session.release(10)
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in one.session.batches] == sizes


async def test_what_cannot_be_in_time_is_refused_at_once(bench):
    one = bench()
    teach(one)
    first = await one.occupy()
    now = one.scheduler._dispatcher.loop.time()
    waiting = [one.ask(n, deadline=now + 30) for n in range(8)]
    with pytest.raises(QueueFull, match="overloaded: an answer is expected to take 0.1") as caught:
        await one.ask(9, deadline=now + 0.05)
    assert caught.value.retry_after >= 1
    assert one.statistics.failures["REJECTED"] == 1
    one.session.release(10)
    for task in [first, *waiting]:
        await task


async def test_an_idle_model_is_tried_however_slow_it_was(bench):
    one = bench(held=False)
    teach(one, slope=1000 * MS)
    outcome = await one.ask(1, deadline=asyncio.get_running_loop().time() + 0.5)
    assert outcome.batch_rows == 1
