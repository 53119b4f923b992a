"""What a guard says to counts: never cries wolf, and never lets a bad version through."""

from __future__ import annotations

import numpy as np
import pytest

from aiaas_client.protocol.management import Guard
from aiaas_server.core.tally import Tally
from aiaas_server.monitor.guard import FEWEST_TIMES, judge


def grown(tally, rng, requests, *, failing=0.0, slower=1.0, refusing=0.0):
    """Count more requests, with times of a long tail."""
    failed = rng.random(requests) < failing
    refused = ~failed & (rng.random(requests) < refusing)
    times = rng.lognormal(-5, 0.5, requests) * slower
    for one, two, time in zip(failed, refused, times, strict=True):
        tally.requests += 1
        tally.failures += bool(one)
        tally.refused += bool(two)
        if not one and not two:
            tally.latency.add(time)
    return tally


def verdicts(guard, rng, seconds=300, rate=20, old_rate=60, **bad):
    """What is said each second of a step; a stable version with a few failures of its own."""
    new, old = Tally(), Tally()
    for second in range(1, seconds + 1):
        grown(new, rng, rng.poisson(rate), **bad)
        grown(old, rng, rng.poisson(old_rate), failing=0.002)
        verdict = judge(guard, new, old, float(second))
        yield verdict
        if verdict.kind != "waits":
            return


@pytest.mark.parametrize("seed", range(100))
def test_a_version_like_the_old_one_is_never_called_broken(seed):
    rng = np.random.default_rng(seed)
    guard = Guard(max_p99_ratio=1.5, window=60)
    said = [
        v.kind for v in verdicts(guard, rng, rate=float(rng.choice([2, 10, 30])), failing=0.002)
    ]
    assert "broken" not in said


@pytest.mark.parametrize("seed", range(100))
def test_a_version_like_the_old_one_passes_with_the_default_bounds(seed):
    rng = np.random.default_rng(1000 + seed)
    *before, last = verdicts(Guard(window=30), rng, failing=0.002)
    assert {v.kind for v in before} == {"waits"}
    assert last.kind == "passed"


@pytest.mark.parametrize("seed", range(100))
def test_one_that_fails_at_one_in_ten_is_broken(seed):
    rng = np.random.default_rng(seed)
    *before, last = verdicts(Guard(), rng, failing=0.1)
    assert last.kind == "broken"
    assert len(before) < 30  # 600 requests at the most
    assert "failed (" in last.reason
    assert "the guard allows at most 1 %" in last.reason


@pytest.mark.parametrize("seed", range(100))
def test_one_that_is_five_times_slower_is_broken(seed):
    rng = np.random.default_rng(seed)
    *before, last = verdicts(Guard(max_p99_ratio=1.5), rng, slower=5.0)
    assert last.kind == "broken"
    assert len(before) < 30
    assert "99th percentile" in last.reason
    assert "at most 1.5 times" in last.reason


def test_one_that_fails_always_is_broken_long_before_enough_requests_came():
    new = Tally(requests=3, failures=3)
    assert judge(Guard(), new, Tally(), 1.0).kind == "broken"


def test_where_none_may_fail_one_is_too_many():
    assert (
        judge(Guard(max_error_rate=0.0), Tally(requests=9, failures=1), Tally(), 1).kind == "broken"
    )


def test_one_unlucky_request_proves_nothing_and_yet_does_not_pass():
    new = Tally(requests=50, failures=1)
    verdict = judge(Guard(window=1), new, Tally(), 2.0)
    assert verdict.kind == "waits"
    assert verdict.reason == (
        "more requests will tell: 1 of 50 requests failed (2.00%); the guard allows at most 1 %"
    )
    new.requests = 100
    assert judge(Guard(window=1), new, Tally(), 2.0).kind == "passed"


@pytest.mark.parametrize("requests", [0, 49])
def test_without_traffic_it_waits_and_says_so(requests):
    verdict = judge(Guard(window=1), Tally(requests=requests), Tally(), 1e6)
    assert verdict == ("waits", f"{requests} of 50 requests that it takes")


def test_before_the_step_is_over_it_waits():
    verdict = judge(Guard(window=300), Tally(requests=9999), Tally(), 12.0)
    assert verdict == ("waits", "the step lasts 300 s, 12 s are over")


def test_latency_is_not_judged_against_few_answers_of_the_old_version():
    rng = np.random.default_rng(0)
    guard = Guard(window=1, max_p99_ratio=1.5)
    new = grown(Tally(), rng, 500, slower=50)
    old = grown(Tally(), rng, FEWEST_TIMES - 1)
    verdict = judge(guard, new, old, 10.0)
    assert verdict == (
        "waits",
        f"{FEWEST_TIMES - 1} of {FEWEST_TIMES} answers of the old version that it takes",
    )
    assert judge(guard, new, Tally(), 10.0).kind == "waits"
    assert judge(guard, new, grown(old, rng, 1), 10.0).kind == "broken"


def test_what_the_old_version_turns_away_as_well_is_not_the_new_ones_fault():
    for counts in ({"refused": 60}, {"invalid": 60}, {"refused": 30, "invalid": 30}):
        new = Tally(requests=200, **counts)
        old = Tally(requests=2000, refused=300, invalid=300)
        assert judge(Guard(window=1), new, old, 2.0).kind == "passed"
        verdict = judge(Guard(window=1), new, Tally(requests=2000), 2.0)
        assert verdict.kind == "broken"
        assert verdict.reason == (
            "60 of 200 requests failed or were turned away (30.00%), 0 of 2000 by the old version; "
            "the guard allows at most 1 % more"
        )


def test_to_blame_an_input_takes_a_witness():
    assert judge(Guard(window=1), Tally(requests=99, invalid=60), Tally(), 2.0).kind == "passed"
    assert judge(Guard(window=1), Tally(requests=99, refused=60), Tally(), 2.0).kind == "broken"


@pytest.mark.parametrize("seed", range(100))
def test_callers_who_send_nonsense_to_both_break_nothing(seed):
    rng = np.random.default_rng(seed)
    bad, new, old = rng.uniform(0, 0.5), Tally(), Tally()
    for second in range(60):
        for tally, rate in ((new, 5), (old, rng.choice([1, 30]))):
            requests = rng.poisson(rate)
            tally.requests += requests
            tally.invalid += rng.binomial(requests, bad)
        assert judge(Guard(), new, old, float(second)).kind == "waits"


@pytest.mark.parametrize(
    ("new", "kind", "words"),
    [
        (Tally(requests=99, labelled=100, correct=95), "passed", "99 requests"),
        (Tally(requests=99, labelled=40, correct=39), "waits", "40 of 50 labelled answers"),
        (Tally(requests=99, labelled=100, correct=88), "waits", "88 of 100 labelled answers"),
        (
            Tally(requests=99, labelled=100, correct=70),
            "broken",
            "(70.00%); the guard asks for at least 90 %",
        ),
    ],
)
def test_accuracy(new, kind, words):
    verdict = judge(Guard(window=1, min_accuracy=0.9), new, Tally(), 2.0)
    assert verdict.kind == kind
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("new", "kind", "words"),
    [
        (Tally(requests=99, mirrored=100, disagreed=4), "passed", "99 requests"),
        (Tally(requests=99, mirrored=20, disagreed=0), "waits", "20 of 50 mirrored requests"),
        (Tally(requests=99, mirrored=100, disagreed=7), "waits", "answered differently (7.00%)"),
        (Tally(requests=99, mirrored=49, disagreed=49), "waits", "49 of 50 mirrored requests"),
        (
            Tally(requests=9, mirrored=50, disagreed=45),
            "broken",
            "45 of 50 mirrored requests were answered differently (90.00%); "
            "the guard allows at most 5 %",
        ),
    ],
)
def test_disagreement(new, kind, words):
    verdict = judge(Guard(window=1, max_disagreement=0.05), new, Tally(), 2.0)
    assert verdict.kind == kind
    assert words in verdict.reason


def test_a_bound_is_told_as_it_was_given():
    new = Tally(requests=100, failures=90)
    assert judge(Guard(max_error_rate=0.125), new, Tally(), 1.0).reason.endswith("at most 12.5 %")


def test_with_no_bounds_time_and_requests_are_all_that_counts():
    guard = Guard(window=1, max_error_rate=None)
    assert judge(guard, Tally(requests=50, failures=50), Tally(), 2.0).kind == "passed"
