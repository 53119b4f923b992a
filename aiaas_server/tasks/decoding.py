"""Writing a sequence token by token with an encoder-decoder model: greedily or by beams.

Pure but for `step`, which runs the decoder: rows of tokens so far to the logits of the next. The
whole prefix is given each time, so a decoder without a cache is all that is needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array

# `(rows, length)` int64 -> `(rows, vocabulary)` logits of the token after each row.
Step = Callable[[Array], Awaitable[Array]]


class Written(NamedTuple):
    """A finished sequence.

    Attributes:
        tokens: Without what it was begun with and without the end token.
        score: Mean log-probability a token, the end token counted.
        ended: By the end token; else the limit was reached.
    """

    tokens: tuple[int, ...]
    score: float
    ended: bool


class _Beam(NamedTuple):
    tokens: tuple[int, ...]
    total: float  # log-probability


async def write(
    step: Step,
    *,
    begin: Sequence[int],
    end: int,
    limit: int,
    beams: int = 1,
    length_penalty: float = 1.0,
    forbidden: Sequence[int] = (),
) -> Written:
    """The best sequence found.

    Args:
        begin: Tokens that every sequence starts with; at least one.
        end: Token that ends a sequence.
        limit: Tokens written at most.
        beams: Sequences followed at a time; 1 is greedy.
        length_penalty: A sequence's log-probability is divided by its length to this power.
        forbidden: Tokens that are never written.
    Source: Wu et al. 2016, *Google's Neural Machine Translation System*, section 7.
    """
    alive = [_Beam((), 0.0)]
    finished: list[tuple[float, Written]] = []
    for _ in range(limit):
        rows = np.array([[*begin, *beam.tokens] for beam in alive], np.int64)
        chances = _log_softmax(_without(await step(rows), forbidden))  # (rows, vocabulary)
        alive = _extended(alive, chances, 2 * beams)
        ended = (beam for beam in alive[:beams] if beam.tokens[-1] == end)
        finished += [_finished(beam, length_penalty, ended=True) for beam in ended]
        alive = [beam for beam in alive if beam.tokens[-1] != end][:beams]
        if _is_done(alive, finished, beams, length_penalty):
            break
    if not finished:
        finished = [_finished(beam, length_penalty, ended=False) for beam in alive]
    return max(finished, key=lambda item: item[0])[1]


def _extended(alive: list[_Beam], chances: Array, count: int) -> list[_Beam]:
    """The best `count` ways to go on, best first."""
    totals = np.array([[beam.total] for beam in alive]) + chances
    flat = totals.reshape(-1)
    best = np.argsort(-flat, kind="stable")[:count]
    rows, tokens = np.divmod(best, chances.shape[1])
    return [
        _Beam((*alive[row].tokens, int(token)), float(flat[index]))
        for index, row, token in zip(best, rows, tokens, strict=True)
        if np.isfinite(flat[index])
    ]


def _is_done(
    alive: list[_Beam], finished: list[tuple[float, Written]], beams: int, penalty: float
) -> bool:
    """No living beam, judged at its present length, beats the best that has finished."""
    if not alive:
        return True
    if len(finished) < beams:
        return False
    best = max(score for score, _ in finished)
    return all(beam.total / len(beam.tokens) ** penalty <= best for beam in alive)


def _finished(beam: _Beam, penalty: float, *, ended: bool) -> tuple[float, Written]:
    length = max(1, len(beam.tokens))
    tokens = beam.tokens[:-1] if ended else beam.tokens
    return beam.total / length**penalty, Written(tokens, beam.total / length, ended)


def _without(logits: Array, forbidden: Sequence[int]) -> Array:
    if not forbidden:
        return logits
    allowed = logits.copy()
    allowed[:, list(forbidden)] = -np.inf
    return allowed


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    chances: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return chances
