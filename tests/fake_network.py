"""A network of pure arithmetic: what follows depends on every token before, and on nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import OutOfMemory
from aiaas_server.core.session import StopToken

WIDTH = 29


class FakeNetwork:
    """`generate.network.Network` that sees to it that it is used as it should be.

    Args:
        memory: Tokens that all slots may hold together.
        period: What follows depends on so many last tokens only: texts repeat, and can be guessed.
        remembers: Whether prompts that begin alike are found in a cache.

    Attributes:
        runs: Of each run so far the slots, and the tokens of each.
        before_run: Is called in the thread before each run.
    """

    batches_lookahead = False
    vocabulary = WIDTH

    def __init__(
        self,
        slots: int = 4,
        context: int = 256,
        memory: int = 10**6,
        period: int = 10**6,
        *,
        remembers: bool = False,
    ) -> None:
        self.slots = slots
        self.context = context
        self.memory = memory
        self.period = period
        self.held: dict[int, list[int]] = {}
        self.runs: list[tuple[tuple[int, ...], int]] = []
        self.before_run: Callable[[], None] = lambda: None
        self.released = threading.Event()
        self.constants: dict[int, Mapping[str, Array]] = {}
        self._remembered: set[tuple[int, ...]] | None = set() if remembers else None

    def room(self, lengths: Sequence[int]) -> bool:
        assert max(lengths) <= self.context
        return len(lengths) <= self.slots and sum(lengths) <= self.memory

    def open(
        self,
        slot: int,
        tokens: Sequence[int],
        constants: Mapping[str, Array],
        whose: str = "",
    ) -> int:
        assert slot not in self.held
        assert 0 <= slot < self.slots
        self.held[slot] = []
        self.constants[slot] = constants
        for length in range(len(tokens) - 1, 0, -1):
            if self._remembered and tuple(tokens[:length]) in self._remembered:
                self.held[slot] = list(tokens[:length])
                return length
        return 0

    def extend(
        self, slot: int, tokens: Sequence[int], keep: int, stop: StopToken | None = None
    ) -> Array:
        self._run([slot], len(tokens))
        held = self.held[slot]
        rows = []
        for token in tokens:
            held.append(token)
            rows.append(logits_behind(held[-self.period :]))
        return np.array(rows[len(rows) - keep :], np.float32).reshape(keep, WIDTH)

    def step(
        self, slots: Sequence[int], tokens: Sequence[int], stop: StopToken | None = None
    ) -> Array:
        assert len(set(slots)) == len(slots) > 0
        self._run(slots, 1)
        for slot, token in zip(slots, tokens, strict=True):
            self.held[slot].append(token)
        return np.array([logits_behind(self.held[s][-self.period :]) for s in slots], np.float32)

    def length(self, slot: int) -> int:
        return len(self.held[slot])

    def truncate(self, slot: int, length: int) -> None:
        assert length <= len(self.held[slot])
        del self.held[slot][length:]

    def close(self, slot: int, *, remember: int) -> None:
        held = self.held.pop(slot)
        assert remember <= len(held)
        if self._remembered is not None and remember:
            self._remembered.add(tuple(held[:remember]))

    def measures(self) -> Mapping[str, float]:
        return {"kv_bytes": sum(map(len, self.held.values())), "kv_bytes_limit": self.memory}

    def release(self) -> None:
        self.held.clear()
        self.released.set()

    def _run(self, slots: Sequence[int], more: int) -> None:
        self.before_run()
        total = sum(map(len, self.held.values())) + more * len(slots)
        if total > self.memory:
            raise OutOfMemory(f"expected up to {self.memory} tokens, got {total}")
        assert all(len(self.held[slot]) + more <= self.context for slot in slots)
        self.runs.append((tuple(slots), more))


def logits_behind(tokens: Sequence[int]) -> Array:
    """`(WIDTH,)` float32 that every token has a part in."""
    mixed = 1
    for token in tokens:
        mixed = (mixed * 1_000_003 + token + 1) % 2**61
    return np.random.default_rng(mixed).standard_normal(WIDTH, np.float32) * 3


def greedy(prompt: Sequence[int], count: int, period: int = 10**6) -> tuple[int, ...]:
    """The likeliest tokens, worked out one by one."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits_behind(tokens[-period:]).argmax()))
    return tuple(tokens[len(prompt) :])
