"""Connectionist temporal classification: a score for every sign at every step, read as text.

Source: Graves et al. 2006, *Connectionist Temporal Classification*. Greedy: the best sign of each
step, runs of one sign merged, blanks dropped.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array


class Decoded(NamedTuple):
    """Sign numbers, the steps each was first seen at, and the mean score of those steps.

    Attributes:
        score: 0 to 1 for probabilities; 0 when nothing was read.
    """

    signs: tuple[int, ...]
    steps: tuple[int, ...]
    score: float


def greedy(probabilities: Array, *, blank: int = 0) -> Decoded:
    """Read one sequence.

    Args:
        probabilities: `(steps, signs)`.
        blank: The number that stands for no sign.
    """
    best = probabilities.argmax(axis=1)  # (steps,)
    first = np.ones(len(best), bool)
    first[1:] = best[1:] != best[:-1]
    steps = np.flatnonzero(first & (best != blank))
    scores = probabilities[steps, best[steps]]
    mean = float(scores.mean()) if len(steps) else 0.0
    return Decoded(tuple(best[steps].tolist()), tuple(steps.tolist()), mean)
