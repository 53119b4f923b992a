"""Bins of times: exact to their width, the same however they are added up."""

from __future__ import annotations

import numpy as np
import pytest

from aiaas_server.core.histogram import BINS, LARGEST, SMALLEST, Histogram

WIDTH = 2 ** (1 / 16)


def of(times) -> Histogram:
    made = Histogram()
    for time in times:
        made.add(float(time))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_quantiles_are_right_to_a_bins_width(seed):
    rng = np.random.default_rng(seed)
    times = rng.lognormal(-5, rng.uniform(0.1, 2), int(rng.integers(1, 3000)))
    made = of(times)
    for q in (0.0, 0.01, 0.5, 0.9, 0.99, 1.0):
        true = np.quantile(times, q, method="inverted_cdf")
        assert true / WIDTH <= made.quantile(q) <= true * WIDTH


@pytest.mark.parametrize("seed", range(20))
def test_parts_add_up_to_the_whole_and_survive_json(seed):
    rng = np.random.default_rng(seed)
    times = rng.lognormal(-6, 2, 500)
    parts = [Histogram.from_json(of(part).to_json()) for part in np.array_split(times, 7)]
    whole = Histogram()
    for part in parts:
        whole.merge(part)
    assert whole.bins == of(times).bins
    assert whole.count == 500


@pytest.mark.parametrize("seed", range(20))
def test_no_time_is_called_longer_that_may_be_shorter(seed):
    rng = np.random.default_rng(seed)
    times, limit = rng.lognormal(-4, 1, 300), rng.lognormal(-4, 0.5)
    found = of(times).above(limit)
    assert found <= (times > limit).sum()
    assert found >= (times > limit * WIDTH).sum()


def test_what_is_out_of_range_counts_at_its_ends():
    made = of([0.0, -1.0, SMALLEST / 2, LARGEST, LARGEST * 9, float("inf")])
    assert made.count == 6
    assert made.bins[0] == 3
    assert made.bins[BINS - 1] == 3
    assert made.quantile(0.5) <= SMALLEST * WIDTH
    assert made.quantile(1.0) >= LARGEST


def test_of_no_times_there_is_no_quantile_and_none_above():
    assert Histogram().quantile(0.99) == 0.0
    assert Histogram().above(0.0) == 0


@pytest.mark.parametrize("place", ["-1", str(BINS), "x"])
def test_a_bin_that_there_is_not_is_refused(place):
    with pytest.raises(ValueError, match="expected bins|invalid literal"):
        Histogram.from_json({place: 1})
