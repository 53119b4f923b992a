"""The next token: greedy and drawn, in ranges, the same whatever batch is around."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import GREEDY, Sampling
from aiaas_server.generate.sampling import Chooser, choose

V = 300  # more than one block of 256, and no multiple of it

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 7, 5000]),
    top_p=st.sampled_from([0.0, 0.5, 0.97, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.4]),
    logit_bias=st.dictionaries(st.integers(0, V - 1), st.floats(-5, 5), max_size=3),
    seed=st.integers(-(2**70), 2**70),
)


def logits(rows, seed=0, scale=3.0, size=V):
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, size)) * scale).astype(np.float32)


def bits(allowed, size=V):
    mask = np.zeros((1, -(-size // 32)), np.int32)
    for token in allowed:
        mask.view(np.uint32)[0, token // 32] |= np.uint32(1 << (token % 32))
    return mask


def distribution(row, sampling):
    """The plain way: sort everything, in double precision. Penalties and biases are not its."""
    scaled = row.astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled.max())
    order = np.argsort(-weights, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    shares = weights[order] / weights[order].sum()
    before = np.cumsum(shares) - shares
    kept = order[(before < sampling.top_p) | (np.arange(len(order)) == 0)]
    kept = kept[weights[kept] >= sampling.min_p]
    found = np.zeros(len(row))
    found[kept] = weights[kept] / weights[kept].sum()
    return found


def test_greedy_takes_the_largest_and_of_equals_the_first():
    row = np.array([[1, 3, 3, 2], [0, -1, 5, 5]], np.float32)
    chosen = choose(row, [Chooser(GREEDY, [0], 4) for _ in range(2)])
    assert [c.token for c in chosen] == [1, 2]
    assert [c.told for c in chosen] == [None, None]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=1),
        Sampling(temperature=0.5, top_k=5, seed=2),
        Sampling(top_p=0.8, seed=3),
        Sampling(temperature=2.0, min_p=0.2, seed=4),
        Sampling(temperature=1.5, top_k=12, top_p=0.9, min_p=0.05, seed=5),
    ],
    ids=["temperature", "top-k", "top-p", "min-p", "all together"],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling):
    row = logits(1, seed=9, scale=1.5, size=40)
    expected = distribution(row[0], sampling)
    chooser = Chooser(sampling, [0], 40)
    rounds = 4000
    drawn = Counter(choose(row.copy(), [chooser])[0].token for _ in range(rounds))
    assert set(drawn) <= set(np.flatnonzero(expected))
    for token, probability in enumerate(expected):
        spread = math.sqrt(rounds * probability * (1 - probability))
        assert abs(drawn[token] - rounds * probability) <= 5 * spread + 1


@settings(max_examples=60)
@given(st.lists(samplings, min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 2**32))
def test_equal_seeds_give_equal_tokens_whatever_batch_is_around(asked, place, seed):
    place %= len(asked)

    def chooser(sampling):
        return Chooser(sampling, [1, 2, 3], V)

    alone, among = chooser(asked[place]), [chooser(sampling) for sampling in asked]
    for step in range(4):
        rows = logits(len(asked), seed=seed + step)
        [single] = choose(rows[place : place + 1].copy(), [alone])
        together = choose(rows.copy(), among)
        assert together[place] == single
        alone.accept(single.token)
        for one, choice in zip(among, together, strict=True):
            one.accept(choice.token)


def test_other_seeds_give_other_tokens_and_no_seed_draws_anew():
    def text(seed):
        chooser = Chooser(Sampling(temperature=2.0, seed=seed), [0], V)
        return [choose(logits(1, step), [chooser])[0].token for step in range(20)]

    assert text(1) == text(1)
    assert len({tuple(text(seed)) for seed in (1, 2, -1, 2**64 + 3, None, None)}) == 6


@settings(max_examples=60)
@given(samplings, st.sets(st.integers(0, V - 1), min_size=1), st.integers(0, 2**32))
def test_only_what_a_mask_allows_is_chosen(sampling, allowed, seed):
    masks = np.concatenate([np.zeros((1, 10), np.int32), bits(allowed)])
    rows = logits(2, seed)
    choosers = [Chooser(GREEDY, [0], V), Chooser(sampling, [0], V)]
    free, bound = choose(rows.copy(), choosers, masks, [False, True])
    assert bound.token in allowed
    assert free.token == rows[0].argmax()


def test_a_mask_decides_among_all_tokens_of_a_width_that_is_no_multiple_of_32():
    for token in (0, 31, 32, V - 1):
        [choice] = choose(logits(1), [Chooser(GREEDY, [0], V)], bits([token]), [True])
        assert choice.token == token


def test_a_row_without_a_choice_fails_alone():
    rows = logits(6)
    rows[1] = np.nan
    rows[2, 7] = np.nan
    rows[3] = -np.inf
    sound = rows[4].argmax()
    rows[5, 9] = np.inf
    masks = np.zeros((6, 10), np.int32)
    masks[5] = bits([3])
    choosers = [Chooser(Sampling(seed=1), [0], V) for _ in range(6)]
    choosers[4] = Chooser(GREEDY, [0], V)
    found = choose(rows, choosers, masks, [True, False, False, False, False, True])
    assert [c.token for c in found] == [-1, -1, -1, -1, sound, -1]
    assert [c.failure for c in found] == [
        "no token is allowed here",
        "the model's logits are not numbers",
        "the model's logits are not numbers",
        "no token is allowed here",
        None,
        "the model's logits are not numbers",
    ]


def test_logits_that_must_not_be_written_are_left_alone():
    rows = logits(2)
    rows.flags.writeable = False
    before = rows.copy()
    choose(rows, [Chooser(Sampling(seed=1, logit_bias={3: 9.0}), [0], V) for _ in range(2)])
    assert (rows == before).all()


def test_extreme_values_choose_something():
    for sampling in (
        Sampling(temperature=1e-5, seed=1),
        Sampling(temperature=1e6, seed=1),
        Sampling(temperature=1e-300),
        Sampling(top_p=0.0, seed=1),
        Sampling(top_p=1e-300, min_p=1.0, top_k=1, seed=1),
        Sampling(repetition_penalty=100, frequency_penalty=-100, presence_penalty=100, seed=1),
        Sampling(logit_bias={2: 1e6, 3: -1e6}, seed=1),
    ):
        chooser = Chooser(sampling, range(V), V)
        for scale in (0.0, 1e-30, 3.0, 1e30, 5e37):
            [choice] = choose(logits(1, scale=scale), [chooser])
            assert choice.failure is None
            assert 0 <= choice.token < V
            chooser.accept(choice.token)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": math.nan}, "'temperature': expected a number from 0 to 1e+06, got nan"),
        ({"temperature": -1.0}, "'temperature': expected a number from 0 to 1e+06, got -1.0"),
        ({"temperature": math.inf}, "'temperature': expected a number from 0 to 1e+06, got inf"),
        ({"top_p": 1.5}, "'top_p': expected a number from 0 to 1, got 1.5"),
        ({"min_p": -0.1}, "'min_p': expected a number from 0 to 1, got -0.1"),
        ({"top_k": -1}, "'top_k': expected 0 (all) or more, got -1"),
        ({"repetition_penalty": 0.0}, "'repetition_penalty': expected a number from 0.01 to 100"),
        ({"presence_penalty": math.nan}, "'presence_penalty': expected a number from -100 to 100"),
        ({"frequency_penalty": 101.0}, "'frequency_penalty': expected a number from -100 to 100"),
        ({"logit_bias": {300: 1.0}}, "'logit_bias': expected tokens from 0 to 299, got 300"),
        ({"logit_bias": {-1: 1.0}}, "'logit_bias': expected tokens from 0 to 299, got -1"),
        ({"logit_bias": {7: math.inf}}, "'logit_bias': expected numbers from -1e+06 to 1e+06"),
        ({"logit_bias": {7: math.nan}}, "got nan for token 7"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_what_is_out_of_range_is_refused_by_name(changes, message):
    with pytest.raises(InvalidInput) as caught:
        Chooser(Sampling(**changes), [0], V)
    assert message in caught.value.message


def test_log_probabilities_are_the_models_own():
    """Whatever penalties, masks and temperature make of them."""
    rows = logits(2, size=40)
    exact = rows.astype(np.float64) - np.log(np.exp(rows.astype(np.float64)).sum(1, keepdims=True))
    wild = Sampling(temperature=0.2, logit_bias={4: 50.0}, repetition_penalty=2.0, seed=1)
    choosers = [Chooser(wild, [4], 40, logprobs=3), Chooser(GREEDY, [4], 40)]
    found, quiet = choose(rows.copy(), choosers)
    assert found.token == 4
    assert found.told.logprob == pytest.approx(exact[0, 4], abs=1e-5)
    order = np.argsort(-exact[0])[:3]
    assert [token for token, _ in found.told.top] == order.tolist()
    assert [p for _, p in found.told.top] == pytest.approx(exact[0][order], abs=1e-5)
    assert quiet.told is None


def test_nothing_to_choose_for():
    assert choose(np.zeros((0, V), np.float32), []) == []
