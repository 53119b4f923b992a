"""Decoding one by one, as plainly as it can be written: what every network is held against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.session import OnnxSession
from tests import tiny_llm

Floats = npt.NDArray[np.float32]


@cache
def tiny_session(kept: Any = "shared") -> OnnxSession:
    return open_session(tiny_llm.model_bytes(kept))


def logits_of(tokens: Sequence[int]) -> Floats:
    """`(len(tokens), vocabulary)`: the whole text in one run, with nothing kept before."""
    return _logits_of(tuple(tokens))


@cache
def _logits_of(tokens: tuple[int, ...]) -> Floats:
    session = tiny_session("separate")
    count = len(tokens)
    inputs: dict[str, Any] = {
        "input_ids": np.array([tokens], np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count)[None],
        "num_logits_to_keep": np.array(count, np.int64),
    }
    for spec in session.inputs:
        if spec.name.startswith("past_key_values."):
            inputs[spec.name] = np.zeros((1, spec.shape[1], 0, spec.shape[3]), np.float32)
    found: Floats = session.run(inputs, ["logits"])[0][0]
    return found


def greedy(prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest `count` tokens behind a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_of(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def hold(found: npt.NDArray[Any], tokens: Sequence[int], within: float = 1e-3) -> None:
    """Hold logits against those of the last of `tokens`, as many as there are."""
    expected = logits_of(tokens)[len(tokens) - len(found) :]
    np.testing.assert_allclose(found, expected, rtol=within, atol=within)
