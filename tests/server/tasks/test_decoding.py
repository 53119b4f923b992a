"""Greedy and beam search against what trying every sequence finds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.tasks.decoding import write

END = 0


def step_of(table: np.ndarray) -> Any:
    """The next token's logits depend on the last token: `(tokens, tokens)`."""

    async def step(rows: np.ndarray) -> np.ndarray:
        assert rows.dtype == np.int64
        return table[rows[:, -1]]

    return step


def log_softmax(table: np.ndarray) -> np.ndarray:
    return table - np.log(np.exp(table).sum(axis=1, keepdims=True))


async def test_greedy_takes_the_best_token_each_time() -> None:
    table = np.log(np.array([[1, 1, 1], [0.2, 0.1, 0.7], [0.6, 0.3, 0.1]]))
    written = await write(step_of(table), begin=[1], end=END, limit=10)
    assert written.tokens == (2,)
    assert written.ended
    assert written.score == pytest.approx((np.log(0.7) + np.log(0.6)) / 2)


async def test_beams_find_what_greedy_misses() -> None:
    # After 1, token 2 looks best but leads nowhere good; token 3 leads to a sure end.
    table = np.log(
        np.array(
            [[1, 1, 1, 1], [0.02, 0.02, 0.5, 0.46], [0.3, 0.3, 0.2, 0.2], [0.97, 0.01, 0.01, 0.01]]
        )
    )
    greedy = await write(step_of(table), begin=[1], end=END, limit=2, length_penalty=0)
    beam = await write(step_of(table), begin=[1], end=END, limit=2, beams=3, length_penalty=0)
    assert greedy.tokens[0] == 2
    assert beam.tokens == (3,)


async def test_the_limit_ends_a_text_that_does_not() -> None:
    table = np.log(np.array([[1, 1], [0.1, 0.9]]))
    written = await write(step_of(table), begin=[1], end=END, limit=5)
    assert written.tokens == (1,) * 5
    assert not written.ended


async def test_forbidden_tokens_are_never_written() -> None:
    table = np.log(np.array([[1, 1, 1], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]]))
    written = await write(step_of(table), begin=[1], end=END, limit=5, forbidden=[1])
    assert 1 not in written.tokens
    assert written.ended


@given(st.integers(0, 2**32 - 1))
async def test_enough_beams_find_the_likeliest_of_all(seed: int) -> None:
    tokens, limit = 3, 3
    table = np.random.default_rng(seed).normal(0, 2, (tokens, tokens))
    chances = log_softmax(table)

    def total(sequence: tuple[int, ...]) -> float:
        return float(sum(chances[a, b] for a, b in itertools.pairwise((1, *sequence))))

    every = [
        (*body, END)
        for length in range(limit)
        for body in itertools.product(range(1, tokens), repeat=length)
    ]
    best = max(every, key=total)
    found = await write(
        step_of(table), begin=[1], end=END, limit=limit, beams=tokens**limit, length_penalty=0
    )
    assert found.ended
    assert total((*found.tokens, END)) == pytest.approx(total(best))
    assert found.score == pytest.approx(total(best) / (len(found.tokens) + 1))
