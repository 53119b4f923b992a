"""Log-probabilities and the likeliest tokens, against double precision and a full sort."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.core.generation import Chance, Told
from aiaas_server.generate.logprobs import (
    LEAST,
    Likelihood,
    likeliest,
    likelihood,
    log_total,
    probabilities,
    told,
)


@settings(max_examples=100)
@given(
    st.sampled_from([1, 5, 255, 256, 300, 3000, 20000]),
    st.integers(0, 25),
    st.integers(0, 2**32),
    st.sampled_from([1, 4, 1000]),
)
def test_the_likeliest_are_those_of_a_full_sort(size, count, seed, values):
    row = np.random.default_rng(seed).integers(0, values, size).astype(np.float32)
    assert likeliest(row, count) == np.argsort(-row, kind="stable")[:count].tolist()


@pytest.mark.parametrize("place", [0, 255, 256, 2815, 2816, 2999])
def test_the_likeliest_may_stand_anywhere(place):
    row = np.random.default_rng(0).random(3000, np.float32)
    row[place] = 2
    assert likeliest(row, 2)[0] == place


def test_the_total_of_large_and_small_logits():
    for row in ([1e4, 1e4], [-1e4, -1e4, -1e4], [0.0, -np.inf, 3.0]):
        wide = np.array(row, np.float64)
        expected = wide.max() + np.log(np.exp(wide - wide.max()).sum())
        assert log_total(np.array(row, np.float32)) == pytest.approx(expected, rel=1e-6)


def test_what_is_impossible_has_a_number_that_json_can_write():
    row = np.array([0.0, -np.inf, 1.0], np.float32)
    found = likelihood(row, 1, 3)
    assert found.logprob == LEAST
    assert [token for token, _ in found.top] == [2, 0, 1]
    json.dumps(found, allow_nan=False)
    json.dumps(likelihood(np.full(3, -np.inf, np.float32), 0, 2), allow_nan=False)


def test_texts_are_bytes_of_the_vocabulary():
    found = Likelihood(-0.5, ((3, -0.5), (1, -2.0)))
    assert told(3, found, lambda token: bytes([token])) == Told(
        Chance(3, b"\3", -0.5), (Chance(3, b"\3", -0.5), Chance(1, b"\1", -2.0))
    )


def test_probabilities_of_some_tokens():
    row = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32)) + 7
    assert probabilities(row, [1, 3]) == pytest.approx([0.25, 0.125], abs=1e-6)
