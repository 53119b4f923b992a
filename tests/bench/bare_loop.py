"""The floor of writing: a loop over `session.run`, one prompt after another, nothing around it.

As fast as a person would write it: keys and values lie in one buffer that the graph extends, all of
it bound once; logits have a place of their own; the next token is the likeliest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import inprocess
import numpy as np
import onnxruntime

ROOM = 1024
"""Tokens of the buffer."""


class Wanted(NamedTuple):
    """A prompt, and how many tokens are to follow it."""

    prompt: tuple[int, ...]
    tokens: int


class Loop:
    """A decoder with a buffer for one answer."""

    def __init__(self, model: Path, threads: int) -> None:
        self._session = inprocess.open_session(model, threads)
        self._binding: Any = self._session.io_binding()
        for spec in self._session.get_inputs():
            if spec.name.startswith("past_key_values"):
                _, heads, _, head = spec.shape
                array = np.zeros((1, heads, ROOM, head), np.float32)
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
                self._binding.bind_ortvalue_input(spec.name, value)
                present = spec.name.replace("past_key_values", "present")
                self._binding.bind_ortvalue_output(present, value)
        width = self._session.get_outputs()[0].shape[-1]
        self._logits = np.zeros((1, 1, width), np.float32)
        logits = onnxruntime.OrtValue.ortvalue_from_numpy(self._logits)
        self._binding.bind_ortvalue_output("logits", logits)
        self._inputs = {spec.name for spec in self._session.get_inputs()}
        self._ones = np.ones((1, ROOM), np.int64)

    def write(self, wanted: Wanted) -> Iterator[int]:
        """The tokens that follow a prompt."""
        ids, begin = np.array([wanted.prompt], np.int64), 0
        for _ in range(wanted.tokens):
            self._run(ids, begin)
            begin += ids.shape[1]
            ids = self._logits[:, -1].argmax(axis=1, keepdims=True)  # (1, 1)
            yield int(ids[0, 0])

    def _run(self, ids: Any, begin: int) -> None:
        bind = self._binding.bind_cpu_input
        bind("input_ids", ids)
        bind("attention_mask", self._ones[:, : begin + ids.shape[1]])
        if "num_logits_to_keep" in self._inputs:
            bind("num_logits_to_keep", np.array(1, np.int64))
        self._session.run_with_iobinding(self._binding)


def rate(loop: Loop, wanted: Sequence[Wanted], seconds: float) -> float:
    """Tokens a second behind the first one, prompts in turn."""
    count, began = -1, 0.0
    for one in cycle(wanted):
        for _ in loop.write(one):
            count += 1
            began = began or time.perf_counter()
            took = time.perf_counter() - began
            if took >= seconds:
                return count / took
    raise AssertionError("nothing was wanted")
