"""The upper tail of the binomial distribution, against the plain sum."""

from __future__ import annotations

from math import comb

import pytest

from aiaas_server.monitor.binomial import chance_of_at_least


@pytest.mark.parametrize("trials", [1, 10, 50, 200])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_it_is_the_sum_of_the_terms(trials, share):
    for hits in range(int(trials * share) + 1, trials + 1):
        exact = sum(
            comb(trials, k) * share**k * (1 - share) ** (trials - k)
            for k in range(hits, trials + 1)
        )
        assert chance_of_at_least(hits, trials, share) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("hits", "trials", "share", "chance"),
    [(0, 0, 0.5, 1.0), (0, 9, 0.0, 1.0), (1, 9, 0.0, 0.0), (9, 9, 1.0, 1.0), (5, 10, 0.5, 1.0)],
)
def test_the_ends(hits, trials, share, chance):
    assert chance_of_at_least(hits, trials, share) == chance


def test_many_trials_neither_overflow_nor_take_long():
    assert chance_of_at_least(11_000, 1_000_000, 0.01) < 1e-20
    assert chance_of_at_least(10_050, 1_000_000, 0.01) == pytest.approx(0.31, abs=0.01)
