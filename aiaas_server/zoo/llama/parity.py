"""Whether a graph says what the checkpoint says: a few tokens through both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.session import Session
from aiaas_server.zoo.llama.checkpoint import Checkpoint
from aiaas_server.zoo.llama.config import Floats, LlamaConfig, UnusableCheckpoint
from aiaas_server.zoo.llama.projections import Precision
from aiaas_server.zoo.llama.reference import forward

PROMPT: Final = 8  # tokens given, in two runs
WRITTEN: Final = 24  # tokens that the graph writes after them
# How far logits may be off, as a share of how far they spread; 8-bit weights and inputs round.
ALLOWED: Final[dict[Precision, float]] = {"float32": 1e-3, "float16": 1e-2, "int8": 0.2}


class Parity(NamedTuple):
    """What the comparison gave.

    Attributes:
        difference: Root mean square between the logits of graph and reference, as a share of the
            standard deviation of the reference's.
        agreed: Share of the written tokens that the reference would have chosen too.
    """

    difference: float
    agreed: float


def compare(session: Session, checkpoint: Checkpoint, context: int) -> Parity:
    """Let a graph write tokens, and see what the reference thinks of each of them.

    Args:
        context: Most tokens that the graph takes.
    """
    config = checkpoint.config
    written = max(min(WRITTEN, context - PROMPT), 1)
    prompt = [*checkpoint.begin, *_spread(config.vocabulary)][: min(PROMPT, context)]
    tokens, logits = greedy(session, config, prompt, written)
    expected = forward(config, checkpoint.weights, [*prompt, *tokens[:-1]])[len(prompt) - 1 :]
    found = np.stack(logits)
    spread = float(expected.std()) or 1.0
    difference = float(np.sqrt(np.mean(np.square(found - expected)))) / spread
    agreed = float(np.mean(expected.argmax(axis=1) == np.array(tokens)))
    return Parity(difference, agreed)


def judge(parity: Parity, precision: Precision) -> None:
    """Refuse a graph that says something else.

    Raises:
        UnusableCheckpoint: With what was allowed and what was found.
    """
    allowed = ALLOWED[precision]
    if not parity.difference <= allowed:  # NaN too
        raise UnusableCheckpoint(
            f"{precision} weights change the model: expected logits within {allowed:g} of their "
            f"spread, got {parity.difference:.3g} ({parity.agreed:.0%} of the tokens are the same)"
        )


def greedy(
    session: Session, config: LlamaConfig, prompt: Sequence[int], count: int
) -> tuple[list[int], list[Floats]]:
    """The likeliest tokens one by one, and the logits that each was chosen by.

    The prompt is run in two pieces, so that keys and values are read back as well.
    """
    network = _Stepper(session, config)
    if len(prompt) > 1:
        network.run(prompt[: len(prompt) // 2])
    row = network.run(prompt[len(prompt) // 2 :])
    tokens: list[int] = []
    logits: list[Floats] = []
    for left in range(count - 1, -1, -1):
        tokens.append(int(row.argmax()))
        logits.append(row)
        if left:
            row = network.run(tokens[-1:])
    return tokens, logits


class _Stepper:
    """Runs a graph with keys and values passed from run to run."""

    def __init__(self, session: Session, config: LlamaConfig) -> None:
        self._session = session
        self._asks = {spec.name for spec in session.inputs}
        self._kept: dict[str, Array] = {
            name: np.zeros((1, config.kv_heads, 0, config.head), np.float32)
            for name in self._asks
            if name.startswith("past_key_values.")
        }
        self._outputs = [name.replace("past_key_values", "present") for name in self._kept]
        self._length = 0

    def run(self, tokens: Sequence[int]) -> Floats:
        """Logits behind the last of some further tokens, `(vocabulary,)`."""
        before, self._length = self._length, self._length + len(tokens)
        inputs: dict[str, Array] = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, self._length), np.int64),
            "num_logits_to_keep": np.array(1, np.int64),
        }
        if "position_ids" in self._asks:
            inputs["position_ids"] = np.arange(before, self._length)[None]
        logits, *given = self._session.run({**inputs, **self._kept}, ["logits", *self._outputs])
        self._kept = dict(zip(self._kept, given, strict=True))
        row: Floats = logits[0, -1]
        return row


def _spread(vocabulary: int) -> list[int]:
    """Tokens from all over the vocabulary, the same each time."""
    return [(1 + 2_654_435_761 * (i + 1)) % vocabulary for i in range(PROMPT)]
