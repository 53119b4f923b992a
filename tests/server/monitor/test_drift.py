"""Drift over real data: what has not moved is left alone, what has is found, twenty seeds each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_iris

from aiaas_client.protocol.monitoring import FeatureDrift, Verdict
from aiaas_client.protocol.tensors import Array
from aiaas_server.monitor.drift import (
    chi_square,
    compare,
    gamma_above,
    holm,
    kolmogorov_smirnov,
    stability,
)
from aiaas_server.monitor.features import Block
from aiaas_server.monitor.profile import make_profile

SEEDS = range(20)
CANCER: Any = load_breast_cancer()
IRIS: Any = load_iris()


def blocks_of(data: Array, target: Array) -> list[Block]:
    """A table and the label that was predicted for each row."""
    names = tuple(f"x[{index}]" for index in range(data.shape[1]))
    label = target.astype(np.float64)[:, None]
    return [Block(names, "input", "number", data), Block(("y",), "prediction", "number", label)]


def verdict_of(
    data: Array, target: Array, seed: int, shift: float, columns: Sequence[int] = ()
) -> tuple[Verdict, list[str], list[FeatureDrift]]:
    """One random half is the reference; the other one is seen, moved by `shift` deviations."""
    order = np.random.default_rng(seed).permutation(len(data))
    half = len(order) // 2
    moved = data.astype(np.float64).copy()
    which = list(columns) or list(range(data.shape[1]))
    moved[:, which] += shift * data.std(axis=0)[which]
    profile = make_profile(blocks_of(data[order[:half]], target[order[:half]]), "training")
    counts = profile.empty()
    profile.count(blocks_of(moved[order[half:]], target[order[half:]]), counts)
    return compare(profile, counts, len(order) - half)


def test_real_inputs_that_have_not_moved_raise_nothing() -> None:
    """Breast cancer: 31 features, 285 rows seen against 284: 0 of 20 false alarms."""
    verdicts = [verdict_of(CANCER.data, CANCER.target, seed, 0.0)[0] for seed in SEEDS]
    assert verdicts == ["ok"] * len(SEEDS)


@pytest.mark.parametrize("columns", [(), (0,)], ids=["all columns", "one column of thirty"])
def test_real_inputs_moved_by_half_a_deviation_are_found(columns: Sequence[int]) -> None:
    """The same 285 rows: 20 of 20, even where only one feature has moved."""
    for seed in SEEDS:
        verdict, reasons, features = verdict_of(CANCER.data, CANCER.target, seed, 0.5, columns)
        assert verdict == "drifted"
        assert reasons
        assert reasons[0].startswith("input ")
        assert features[0].verdict == "drifted"
        if columns:
            assert features[0].name == "x[0]"


def test_a_model_that_says_something_else_is_found() -> None:
    """Inputs as before, but three of four answers are the one class."""
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(CANCER.data))
        target = CANCER.target.copy()
        half = len(order) // 2
        profile = make_profile(blocks_of(CANCER.data[order[:half]], target[order[:half]]), "golden")
        seen = order[half:]
        target[seen[: len(seen) * 3 // 4]] = 0
        counts = profile.empty()
        profile.count(blocks_of(CANCER.data[seen], target[seen]), counts)
        verdict, reasons, _ = compare(profile, counts, len(seen))
        assert verdict == "drifted"
        assert reasons[0].startswith("prediction 'y'")


def test_too_few_rows_are_not_judged() -> None:
    """Iris: 75 rows seen, however far they have moved."""
    verdict, reasons, features = verdict_of(IRIS.data, IRIS.target, 0, 3.0)
    assert (verdict, reasons) == ("few", [])
    assert {one.verdict for one in features} == {"few"}


def test_values_that_go_missing_are_drift() -> None:
    data = CANCER.data.copy()
    profile = make_profile(blocks_of(data[:284], CANCER.target[:284]), "golden")
    data[284:, 3] = np.nan
    counts = profile.empty()
    profile.count(blocks_of(data[284:], CANCER.target[284:]), counts)
    _, _, features = compare(profile, counts, 285)
    worst = features[0]
    assert (worst.name, worst.verdict, worst.missing, worst.missing_before) == (
        "x[3]",
        "drifted",
        1.0,
        0.0,
    )


@pytest.mark.parametrize("rows", [50, 200, 5000])
def test_the_index_of_what_has_not_moved_is_near_zero_at_any_size(rows: int) -> None:
    """Uncorrected it is 0.3 at 50 rows of twenty bins."""
    rng = np.random.default_rng(1)
    shares = np.full(20, 0.05)
    found = [
        stability(rng.multinomial(100_000, shares), rng.multinomial(rows, shares))
        for _ in range(100)
    ]
    assert np.mean(found) < 0.08


def test_the_statistics_agree_with_those_of_scipy() -> None:
    for shape, value in ((0.5, 0.1), (5.0, 3.0), (5.0, 20.0), (10.0, 30.0), (9.5, 9.5)):
        assert gamma_above(shape, value) == pytest.approx(stats.gamma.sf(value, shape), abs=1e-12)
    before, now = np.array([30.0, 40.0, 30.0]), np.array([45.0, 60.0, 15.0])
    expected = stats.chi2_contingency([before, now], correction=False)[1]
    assert chi_square(before, now) == pytest.approx(expected, rel=1e-9)
    left, right = np.repeat([0, 1, 2], before.astype(int)), np.repeat([0, 1, 2], now.astype(int))
    distance, p_value = kolmogorov_smirnov(before, now)
    found: Any = stats.ks_2samp(left, right)
    assert distance == pytest.approx(found.statistic)
    assert 0.0 < p_value < 1.0
    assert gamma_above(1.0, 0.0) == 1.0


def test_p_values_are_corrected_for_their_number() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_equal_counts_are_no_drift_and_nothing_is_none() -> None:
    counts = np.array([10.0, 0.0, 5.0])
    assert chi_square(counts, counts) == 1.0
    assert chi_square(np.array([5.0, 0.0]), np.array([9.0, 0.0])) == 1.0
    assert kolmogorov_smirnov(counts, counts) == (0.0, 1.0)
