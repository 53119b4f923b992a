"""What is done to single logits before a token is chosen; all of it touches few of them.

In this order: the repetition penalty (Keskar et al. 2019, *CTRL*) on tokens of prompt and answer,
presence and frequency penalties (as OpenAI's API has them) on tokens of the answer, the request's
biases, and tokens that the model must not write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aiaas_server.core.generation import Sampling

Row = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


class Seen:
    """Distinct tokens and how often each one came, in the order in which they came first."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._places: dict[int, int] = {}
        self._ids: Ids = np.zeros(max(16, len(tokens)), np.int64)
        self._counts: Row = np.zeros(self._ids.size, np.float32)
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        place = self._places.setdefault(token, len(self._places))
        if place == self._ids.size:
            # Twice as much; the new half is zeros, which `resize` alone would not promise.
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> Ids:
        return self._ids[: len(self._places)]

    @property
    def counts(self) -> Row:
        return self._counts[: len(self._places)]


class Adjustments:
    """The changes that one request wants of each row of logits."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        suppress: Sequence[int],
        suppress_first: Sequence[int],
    ) -> None:
        self._repetition = np.float32(sampling.repetition_penalty)
        self._presence = np.float32(sampling.presence_penalty)
        self._frequency = np.float32(sampling.frequency_penalty)
        repeats = sampling.repetition_penalty != 1.0
        counts = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._all = Seen(prompt) if repeats else None
        self._answer = Seen() if counts else None
        self._bias = _sparse(sampling.logit_bias)
        self._never = _ids(suppress)
        self._not_first = _ids(suppress_first)
        self._first = True

    @property
    def idle(self) -> bool:
        """Whether nothing is changed, neither now nor later."""
        return (
            self._all is None
            and self._answer is None
            and self._bias is None
            and self._never is None
            and (self._not_first is None or not self._first)
        )

    def accept(self, token: int) -> None:
        self._first = False
        if self._all is not None:
            self._all.add(token)
        if self._answer is not None:
            self._answer.add(token)

    def apply(self, row: Row) -> None:
        """Change `(V,)` logits in place."""
        if self._all is not None:
            ids = self._all.ids
            found = row[ids]
            row[ids] = np.where(found > 0, found / self._repetition, found * self._repetition)
        if self._answer is not None:
            row[self._answer.ids] -= self._presence + self._frequency * self._answer.counts
        if self._bias is not None:
            ids, values = self._bias
            row[ids] += values
        if self._never is not None:
            row[self._never] = -np.inf
        if self._first and self._not_first is not None:
            row[self._not_first] = -np.inf


def _sparse(bias: Mapping[int, float]) -> tuple[Ids, Row] | None:
    if not bias:
        return None
    return np.array(list(bias), np.int64), np.array(list(bias.values()), np.float32)


def _ids(tokens: Sequence[int]) -> Ids | None:
    return np.array(tokens, np.int64) if len(tokens) else None
