"""Guesses from what was said before, and how many of them pay."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.generate.speculate import Lookup, Trust, worth


def proposed_plainly(tokens, most):
    for length in (4, 3, 2):
        for begin in range(len(tokens) - 1, length - 1, -1):
            if len(tokens) > length and tokens[begin - length : begin] == tokens[-length:]:
                going_on = list(tokens)
                for place in range(most):
                    going_on.append(going_on[begin + place])
                return going_on[len(tokens) :]
    return []


@settings(max_examples=200)
@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 9), st.integers(0, 40))
def test_guesses_are_what_followed_the_last_time(tokens, most, cut):
    expected = proposed_plainly(tokens, most)
    assert Lookup(tokens).propose(most) == expected
    lookup = Lookup(tokens[:cut])
    for token in tokens[cut:]:
        lookup.propose(3)  # asking changes nothing
        lookup.append(token)
    assert lookup.propose(most) == expected
    assert len(lookup) == len(tokens)


def test_the_longest_run_decides():
    assert Lookup([1, 2, 3, 9, 2, 3, 8, 1, 2, 3]).propose(2) == [9, 2]


def test_a_loop_goes_round():
    assert Lookup([5, 6, 7, 5, 6, 7, 5, 6]).propose(7) == [7, 5, 6, 7, 5, 6, 7]


def test_nothing_is_guessed_of_what_is_new_or_short():
    assert Lookup([]).propose(4) == []
    assert Lookup([1]).propose(4) == []
    assert Lookup([1, 2]).propose(4) == []
    assert Lookup([1, 2, 3, 4]).propose(4) == []


def line(fixed, each):
    return lambda tokens: fixed + each * tokens


@pytest.mark.parametrize(
    ("rate", "cost", "expected"),
    [
        (0.0, line(14, 1), 0),
        (1.0, line(14, 1), 8),
        (0.9, line(0, 1), 0),  # as dear as a step each: nothing is won
        (0.05, line(14, 1), 0),
    ],
    ids=["never right", "always right", "no cheaper together", "seldom right"],
)
def test_as_many_are_guessed_as_pay(rate, cost, expected):
    assert worth(rate, cost, 8) == expected


def test_more_are_guessed_the_more_come_true():
    sizes = [worth(rate / 10, line(14, 1), 8) for rate in range(11)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3


def test_trust_falls_and_is_tried_again():
    trust = Trust(retry=5)
    cost = line(14, 1)
    assert trust.size(cost, 8) > 0
    for _ in range(30):
        trust.record(1, 0)
    assert [trust.size(cost, 8) for _ in range(11)] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    for _ in range(30):
        trust.record(4, 4)
    assert trust.size(cost, 8) > 4
    assert trust.size(cost, 0) == 0


def test_guesses_behind_a_wrong_one_tell_nothing():
    few, many = Trust(), Trust()
    few.record(2, 1)
    many.record(8, 1)
    assert few.rate == many.rate
