"""Penalties, biases and tokens that must not be written, against the plain formulas."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.core.generation import Sampling
from aiaas_server.generate.penalties import Adjustments, Seen

V = 50
tokens = st.lists(st.integers(0, V - 1), max_size=60)


@settings(max_examples=100)
@given(
    tokens,
    tokens,
    st.sampled_from([0.5, 1.0, 1.3]),
    st.sampled_from([0.0, 0.6, -0.5]),
    st.sampled_from([0.0, 0.25]),
    st.dictionaries(st.integers(0, V - 1), st.floats(-4, 4, width=32), max_size=4),
)
def test_logits_change_by_the_formulas(prompt, answer, repetition, presence, frequency, bias):
    sampling = Sampling(
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=bias,
    )
    changes = Adjustments(sampling, prompt, suppress=[7], suppress_first=[8, 9])
    for token in answer:
        changes.accept(token)
    row = np.linspace(-3, 3, V).astype(np.float32)
    expected = row.astype(np.float64)
    counts = Counter(answer)
    for token in range(V):
        if token in counts or token in prompt:
            expected[token] *= 1 / repetition if expected[token] > 0 else repetition
        if token in counts:
            expected[token] -= presence + frequency * counts[token]
        expected[token] += bias.get(token, 0)
    expected[7] = -np.inf
    if not answer:
        expected[[8, 9]] = -np.inf
    changes.apply(row)
    assert row == pytest.approx(expected, abs=1e-4)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20), max_size=80), st.lists(st.integers(0, 40), max_size=80))
def test_seen_counts(first, more):
    seen = Seen(first)
    for token in more:
        seen.add(token)
    assert dict(zip(seen.ids.tolist(), seen.counts.tolist(), strict=True)) == Counter(first + more)


def test_whoever_wants_nothing_is_idle():
    assert Adjustments(Sampling(temperature=0.3, top_p=0.9), [1], (), ()).idle
    assert not Adjustments(Sampling(presence_penalty=0.1), [1], (), ()).idle
    assert not Adjustments(Sampling(repetition_penalty=1.1), [1], (), ()).idle
    assert not Adjustments(Sampling(logit_bias={1: 1.0}), [1], (), ()).idle
    assert not Adjustments(Sampling(), [1], [4], ()).idle
    first = Adjustments(Sampling(), [1], (), [4])
    assert not first.idle
    first.accept(5)
    assert first.idle
