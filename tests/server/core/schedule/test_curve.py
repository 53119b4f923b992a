"""The curve of run times by size: its knee, and how it follows what the machine does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.schedule.curve import HANDOVER_NS, WITHIN, BatchCurve

MS = 1_000_000
TIMES = st.dictionaries(st.integers(0, 10), st.integers(1, 10**10), min_size=1)


def learned(times: dict[int, float], most: int = 0) -> BatchCurve:
    """A curve of `times`, milliseconds of a run by its size."""
    curve = BatchCurve(most)
    for size, milliseconds in times.items():
        curve.measured(size, round(milliseconds * MS))
    return curve


def serve(curve: BatchCurve, ns: Callable[[int], float], runs: int, waiting: int = 10**6) -> None:
    """Run batches as large as the curve says."""
    for _ in range(runs):
        size = curve.limit(waiting)
        curve.measured(size, round(ns(size)))


@pytest.mark.parametrize(
    ("times", "cap", "fastest"),
    [
        ({1: 9.2, 2: 17.6, 4: 35, 8: 75, 16: 148}, 2, 4),
        ({1: 10, 2: 20, 4: 40}, 1, 4),
        ({1: 10, 2: 15, 4: 25, 8: 45, 16: 85}, 16, 16),
        ({1: 10, 64: 11}, 64, 64),
        ({1: 0.005, 1024: 5.12}, 1024, 1024),
        ({1: 10}, 1, 1),
    ],
    ids=["a dip", "flat", "falling", "a jump", "what every run costs", "one size"],
)
def test_the_cap_is_the_smallest_size_that_is_near_the_best(times, cap, fastest):
    curve = learned(times, 1024)
    assert (curve.cap, curve.fastest) == (cap, fastest)


def test_nothing_is_known_before_the_first_run():
    curve = BatchCurve(8)
    assert (curve.cap, curve.limit(100), curve.expected(3), curve.drained(3)) == (0, 0, 0, 0)
    assert curve.points() == {}


@given(TIMES, st.floats(0, 1))
def test_the_knee_is_near_the_least_and_no_smaller_size_is(times, within):
    curve = BatchCurve()
    for power, ns in times.items():
        curve.measured(1 << power, ns)
    costs = {size: (ns + HANDOVER_NS) / size for size, ns in curve.points().items()}
    enough = min(costs.values()) * (1 + within)
    knee = curve.knee(within)
    assert costs[knee] <= enough * (1 + 1e-6)
    assert all(cost >= enough * (1 - 1e-6) for size, cost in costs.items() if size < knee)
    assert curve.knee(0) == curve.fastest >= curve.cap == curve.knee(WITHIN)


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 10**9), st.integers(0, 2000))),
)
def test_no_size_is_ever_larger_than_there_can_be(most, runs):
    curve = BatchCurve(most)
    for size, ns, waiting in runs:
        curve.measured(min(size, most), ns)
        assert 1 <= curve.cap <= curve.fastest <= most
        assert 1 <= curve.limit(waiting, pressed=bool(ns % 2)) <= most
        assert curve.trial <= most
        assert all(1 <= size <= most and ns >= 0 for size, ns in curve.points().items())


def test_sizes_between_count_as_the_nearest():
    curve = learned({1: 10, 3: 15})
    assert list(curve.points()) == [1, 4]
    assert curve.points()[4] == 20 * MS


def test_a_first_run_that_allocates_is_forgotten():
    curve = learned({1: 10, 2: 15})
    curve.measured(4, 400 * MS)
    curve.measured(4, 22 * MS)
    assert curve.cap == 4


def test_a_size_that_was_never_run_is_tried_as_soon_as_enough_wait():
    curve = learned({1: 10}, 8)
    assert curve.limit(1) == 1
    assert curve.limit(2) == 2
    assert curve.limit(2) == 1  # it is being tried


@pytest.mark.parametrize("best", [1, 4, 32])
def test_from_nothing_the_curve_is_learned_by_serving(best):
    curve = BatchCurve(32)
    curve.measured(1, 10 * MS)
    serve(curve, lambda size: 10 * MS * size / min(size, best) ** 0.5, 60)
    assert curve.cap == best


def test_a_busy_machine_moves_all_sizes_and_says_nothing_of_one():
    curve = learned({1: 10, 2: 16, 4: 28, 8: 60})
    before = curve.points()
    for _ in range(200):
        curve.measured(4, 56 * MS)
    assert curve.cap == 4
    for size, ns in curve.points().items():
        assert ns == pytest.approx(2 * before[size], rel=0.1)


def test_the_cap_grows_and_shrinks_with_what_pays():
    curve = learned({1: 10, 2: 16, 4: 28, 8: 80})
    assert curve.cap == 4
    serve(curve, lambda size: (40 + size) * MS, 3000)
    assert curve.cap >= 128
    serve(curve, lambda size: size**1.2 * MS, 5000)
    assert curve.cap <= 2


def test_trials_take_a_small_part_of_the_time():
    curve = learned({1: 10, 2: 16, 4: 28, 8: 80, 16: 200})
    spent: dict[int, float] = {}

    def ns(size: int) -> float:
        took = {1: 10, 2: 16, 4: 28, 8: 80, 16: 200}[size] * MS
        spent[size] = spent.get(size, 0) + took
        return took

    serve(curve, ns, 5000)
    assert curve.cap == 4
    assert spent[4] > 0.9 * sum(spent.values())
    assert set(spent) >= {2, 8, 16}


def test_one_stall_changes_nothing():
    curve = learned({1: 10, 2: 16, 4: 28, 8: 60})
    for size in (1, 2, 4, 8):
        for _ in range(20):
            curve.measured(size, {1: 10, 2: 16, 4: 28, 8: 60}[size] * MS)
    curve.measured(4, 10_000 * MS)
    curve.measured(8, 10_000 * MS)
    assert curve.cap == 4


def test_under_pressure_the_fastest_size_is_taken():
    curve = learned({1: 10, 2: 17, 4: 32, 8: 63}, 8)
    assert (curve.cap, curve.fastest) == (4, 8)
    assert curve.limit(100, pressed=True) == 8
    assert curve.drained(8) == pytest.approx(64 * MS, rel=0.01)
