"""How long steps and pieces of prompts take, learned; so that no prompt holds up the others."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

SIZES: Final = (8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens in a piece of a prompt: few, so that times are learned and shapes come again."""
_WEIGHT: Final = 0.2  # of a new time against what is known
_JUMP: Final = 2.0  # a time counts as no more than this of what is known, so that a hiccup passes
_DEARER: Final = 3.0  # than a step, at most, is a piece where more prompts wait than answers
_DOUBT: Final = 0.998  # of what is known is believed of larger pieces with each that is run
_MARGIN: Final = 0.9  # of a step that a piece may cost: times vary


class Pace:
    """Times of runs by their size; seconds."""

    def __init__(self) -> None:
        self._steps: dict[int, float] = {}
        self._pieces: dict[int, float] = {}
        self._checks: dict[int, float] = {}

    def stepped(self, rows: int, seconds: float) -> None:
        """A step of one token in each of `rows` answers took so long."""
        _learn(self._steps, rows, seconds)

    def filled(self, tokens: int, seconds: float) -> None:
        """A piece of so many tokens took so long; learned where it is one of `SIZES`.

        What makes it slower, or faster, than was known makes all of them so: else a machine that
        was busy for a while would be taken for a slow one ever after, as to the sizes that it no
        longer runs. Larger ones are believed a little cheaper each time, until one is tried again.
        """
        if tokens not in SIZES:
            return
        if self._pieces and min(self._pieces) < tokens < max(self._pieces):
            self._pieces.setdefault(tokens, self._of_piece(tokens))
        before = self._pieces.get(tokens)
        _learn(self._pieces, tokens, seconds)
        change = self._pieces[tokens] / before if before else 1.0
        for size in self._pieces.keys() - {tokens}:
            self._pieces[size] *= change * (_DOUBT if size > tokens else 1.0)

    def checked(self, tokens: int, seconds: float) -> None:
        """A run of so many tokens of one answer, all but the first guessed, took so long."""
        _learn(self._checks, tokens, seconds)

    def cost(self, tokens: int) -> float:
        """Of a run of so many tokens of one answer, seconds as far as is known; 1 is a step."""
        alone = self._of_step(1)
        if not alone:
            return float(tokens)  # nothing is known: then guesses are as dear as steps
        if tokens == 1:
            return alone
        if tokens in self._checks:
            return self._checks[tokens]
        share = (tokens - 1) / (SIZES[0] - 1)
        return alone + share * max(self._of_piece(SIZES[0]) - alone, 0.0)

    def piece(self, rows: int, prompts: int = 1) -> int:
        """Tokens in the next piece of a prompt.

        It takes no longer than the next step of those that wait for it, as far as is known, and
        goes on in any case. Where more prompts wait than answers, it may be as much dearer.

        Args:
            rows: Answers that wait for their next step.
            prompts: That wait for the piece, or for one of their own.
        """
        if not rows:
            return SIZES[-1]
        bound = _MARGIN * self._of_step(rows) * min(max(prompts / rows, 1.0), _DEARER)
        return next((size for size in reversed(SIZES) if self._of_piece(size) <= bound), SIZES[0])

    def _of_step(self, rows: int) -> float:
        """Of the nearest number of rows that is known; 0.0 of none."""
        near = min(self._steps, key=lambda known: abs(known - rows), default=None)
        return 0.0 if near is None else self._steps[near]

    def _of_piece(self, size: int) -> float:
        """On a line between the sizes that are known; beyond them each token takes its share."""
        known = sorted(self._pieces)
        if not known:
            return size  # seconds: nothing is known, so that the smallest one is taken
        above = bisect_right(known, size)
        if above == 0:
            return self._pieces[known[0]]
        low = known[above - 1]
        if above == len(known):
            return self._pieces[low] * size / low
        high = known[above]
        share = (size - low) / (high - low)
        return self._pieces[low] + share * (self._pieces[high] - self._pieces[low])


def _learn(times: dict[int, float], size: int, seconds: float) -> None:
    known = times.get(size)
    if known is None:
        times[size] = seconds
    else:
        times[size] = known + _WEIGHT * (min(seconds, _JUMP * known) - known)
