"""The next token of each of several answers, from the logits of one step.

What many rows have in common is one numpy call for all; what a request alone wants touches its own
row. A row's arithmetic does not depend on the rows beside it, and each answer draws from its own
generator, once a token: so a seed gives the same text whatever batch it was in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Sampling
from aiaas_server.generate.drawing import Sums, cut_of, cuts, drop
from aiaas_server.generate.logprobs import Likelihood, likelihood
from aiaas_server.generate.penalties import Adjustments

Logits = npt.NDArray[np.float32]
Masks = npt.NDArray[np.int32]

COLDEST = 1e-5  # below it the likeliest token is taken: a division would leave nothing but it

# Name, least and largest value; far beyond what changes anything, but float32 holds the results.
_RANGES = (
    ("temperature", 0.0, 1e6),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, 100.0),
    ("presence_penalty", -100.0, 100.0),
    ("frequency_penalty", -100.0, 100.0),
)
_MOST_BIAS = 1e6


class Choice(NamedTuple):
    """What one row gave.

    Attributes:
        token: -1 where there is a `failure`.
        told: Where the chooser tells log-probabilities.
        failure: Why no token can be chosen: the logits are no numbers, or none is allowed.
    """

    token: int
    told: Likelihood | None = None
    failure: str | None = None


def check(sampling: Sampling, vocabulary: int) -> None:
    """See that each value is in its range.

    Raises:
        InvalidInput: One is not; it is named.
    """
    for name, least, most in _RANGES:
        value = getattr(sampling, name)
        if not least <= value <= most:  # NaN is not either
            raise InvalidInput(
                f"'{name}': expected a number from {least:g} to {most:g}, got {value}"
            )
    if sampling.top_k < 0:
        raise InvalidInput(f"'top_k': expected 0 (all) or more, got {sampling.top_k}")
    for token, bias in sampling.logit_bias.items():
        if not 0 <= token < vocabulary:
            raise InvalidInput(
                f"'logit_bias': expected tokens from 0 to {vocabulary - 1}, got {token}"
            )
        if not abs(bias) <= _MOST_BIAS:
            raise InvalidInput(
                f"'logit_bias': expected numbers from {-_MOST_BIAS:g} to {_MOST_BIAS:g}, "
                f"got {bias} for token {token}"
            )


class Chooser:
    """How one answer's tokens are chosen, and what it has drawn so far.

    Args:
        prompt: Its tokens, which the repetition penalty counts.
        vocabulary: Width of the logits; all tokens are below.
        suppress: Tokens that are never chosen.
        suppress_first: Tokens that are not chosen first.
        logprobs: How many of the likeliest tokens are told with each choice; None tells nothing.
    Raises:
        InvalidInput: A value of `sampling` is out of its range.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        vocabulary: int,
        *,
        suppress: Sequence[int] = (),
        suppress_first: Sequence[int] = (),
        logprobs: int | None = None,
    ) -> None:
        check(sampling, vocabulary)
        self.sampling = sampling
        self.logprobs = logprobs
        self.greedy = sampling.temperature < COLDEST
        self.cuts = not self.greedy and cuts(sampling)
        self.adjustments = Adjustments(sampling, prompt, suppress, suppress_first)
        # Python promises that equal seeds give equal numbers in later versions too.
        self._random = random.Random(None if sampling.seed is None else sampling.seed % 2**64)

    def accept(self, token: int) -> None:
        """The answer goes on with `token`: penalties count it."""
        self.adjustments.accept(token)

    def draw(self) -> float:
        """The next number of [0, 1)."""
        return self._random.random()


@np.errstate(over="ignore", invalid="ignore")  # such rows fail below, or -inf is what is meant
def choose(
    logits: Logits,
    choosers: Sequence[Chooser],
    masks: Masks | None = None,
    masked: Sequence[bool] = (),
) -> list[Choice]:
    """Choose one token a row.

    Args:
        logits: `(B, V)` float32, as the model gave them. Written over.
        choosers: One a row, each in one row only.
        masks: `(B, ceil(V / 32))`, a bit a token, the lowest first: whether a format allows it.
        masked: Which rows have a mask; empty is none.
    """
    if not logits.flags.writeable:
        logits = logits.copy()
    raw = {i: logits[i].copy() for i, c in enumerate(choosers) if c.logprobs is not None}
    for row, chooser in enumerate(choosers):
        if not chooser.adjustments.idle:
            chooser.adjustments.apply(logits[row])
    if masks is not None and any(masked):
        _mask(logits, masks, np.flatnonzero(masked))
    tokens = logits.argmax(axis=1)  # (B,)
    best = logits[np.arange(len(tokens)), tokens]  # (B,), NaN where a row has one
    sound = np.isfinite(best)
    drawn = [i for i, c in enumerate(choosers) if not c.greedy and sound[i]]
    if drawn:
        tokens[drawn] = _draw(logits, best, choosers, drawn)
    return [
        _choice(int(tokens[i]), chooser, raw.get(i)) if sound[i] else _failed(float(best[i]))
        for i, chooser in enumerate(choosers)
    ]


def _allowances() -> Logits:
    """For each byte of a mask what it adds to eight logits: 0, or -inf where a bit is not set."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.where(bits, np.float32(0), np.float32(-np.inf))


_ALLOWANCES = _allowances()  # (256, 8)


def _mask(logits: Logits, masks: Masks, rows: npt.NDArray[np.int64]) -> None:
    """Make -inf of what a format does not allow."""
    size = logits.shape[1]
    for row in rows:
        # As fast whatever the mask; a conditional copy is slow where bits change often.
        added = _ALLOWANCES.take(masks[row].astype("<i4", copy=False).view(np.uint8), axis=0)
        logits[row] += added.reshape(-1)[:size]


def _draw(
    logits: Logits, best: Logits, choosers: Sequence[Chooser], rows: Sequence[int]
) -> list[int]:
    """Draw a token for each of `rows`."""
    weights = logits if len(rows) == len(logits) else logits[rows]  # (R, V)
    heat = np.array([choosers[row].sampling.temperature for row in rows], np.float32)
    weights -= best[rows, None]
    weights /= heat[:, None]
    np.exp(weights, out=weights)
    sums = Sums(weights)
    for place, row in enumerate(rows):
        if choosers[row].cuts:
            total = float(sums.totals[place])
            drop(weights[place], cut_of(weights[place], total, choosers[row].sampling))
            sums.update(place)
    return sums.draw([choosers[row].draw() for row in rows])


def _choice(token: int, chooser: Chooser, raw: Logits | None) -> Choice:
    if raw is None or chooser.logprobs is None:
        return Choice(token)
    return Choice(token, likelihood(raw, token, chooser.logprobs))


def _failed(best: float) -> Choice:
    if best == -math.inf:
        return Choice(-1, failure="no token is allowed here")
    return Choice(-1, failure="the model's logits are not numbers")
