"""A limit over time: exact whatever the order and the moments of calls."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.tenancy.gcra import SECOND, Gcra

RATES = st.one_of(
    st.floats(0.001, 1e6), st.sampled_from([1.0, 3.0, 7.0, 50.0, 1e9, 0.3]), st.integers(1, 1000)
)
BURSTS = st.integers(1, 200)
GAPS = st.lists(st.integers(0, 2 * SECOND) | st.integers(0, 1000), min_size=1, max_size=200)


@given(RATES, BURSTS, GAPS)
def test_over_no_stretch_of_time_more_than_burst_and_rate_are_taken(
    rate: float, burst: int, gaps: list[int]
) -> None:
    limit, now, taken = Gcra(rate, burst, 0), 0, []
    for gap in gaps:
        now += gap
        while not limit.wait(now) and len(taken) < 400:
            limit.take(now)
            taken.append(now)
    for first, since in enumerate(taken[:40]):
        for last in range(first, len(taken)):
            allowed = burst + Fraction(rate) * (taken[last] - since) / SECOND
            assert last - first + 1 <= allowed


@given(RATES, BURSTS, GAPS)
def test_who_waits_as_long_as_told_may_take_one(rate: float, burst: int, gaps: list[int]) -> None:
    limit, now = Gcra(rate, burst, 0), 0
    for gap in gaps:
        now += gap
        wait = limit.wait(now)
        assert (limit.left(now) == 0) == (wait > 0)
        now += wait
        assert limit.wait(now) == 0
        before = limit.left(now)
        assert limit.take(now) == limit.left(now) == before - 1


def test_all_of_a_burst_may_come_at_once_and_is_there_again_after_its_time() -> None:
    limit = Gcra(50, 100, 0)
    for moment in (0, 2 * SECOND):
        for _ in range(100):
            assert not limit.wait(moment)
            limit.take(moment)
        assert limit.wait(moment) == SECOND // 50


def test_an_empty_one_fills_with_time() -> None:
    limit = Gcra(10, 5, 0, full=False)
    assert limit.left(0) == 0
    assert limit.left(SECOND // 10) == 1
    assert limit.left(10 * SECOND) == 5


def test_a_clock_that_is_set_back_gives_nothing() -> None:
    limit = Gcra(1, 2, 10 * SECOND)
    limit.take(10 * SECOND)
    limit.take(10 * SECOND)
    assert limit.wait(0) == 11 * SECOND
    assert limit.left(0) == 0


def test_a_debt_is_waited_for() -> None:
    limit = Gcra(100, 100, 0)
    limit.owe(1000, 0)
    assert limit.left(0) == 0
    assert limit.wait(0) == 9 * SECOND + SECOND // 100


@pytest.mark.parametrize(("rate", "burst"), [(100, 100), (5, 10), (20, 1), (0.5, 10)])
def test_another_limit_keeps_what_is_left_as_far_as_it_goes(rate: float, burst: int) -> None:
    limit = Gcra(10, 20, 0)
    for _ in range(13):
        limit.take(0)
    limit.change(rate, burst, 0)
    assert limit.left(0) == min(7, burst)


@given(RATES, BURSTS, RATES, BURSTS, st.integers(0, 300))
def test_no_change_of_a_limit_gives_anything(
    rate: float, burst: int, other: float, most: int, owed: int
) -> None:
    limit = Gcra(rate, burst, 0)
    limit.owe(owed, 0)
    left = limit.left(0)
    limit.change(other, most, 0)
    assert limit.left(0) <= left
    limit.change(rate, burst, 0)
    assert limit.left(0) <= left


@pytest.mark.parametrize("rate", [7e8, 3e8, 1e9, 6e9])
def test_rounding_goes_against_the_caller(rate: float) -> None:
    limit, taken = Gcra(rate, 1, 0), 0
    for now in range(3000):
        while not limit.wait(now):
            limit.take(now)
            taken += 1
        assert taken <= 1 + Fraction(rate) * now / SECOND
