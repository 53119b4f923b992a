"""Keys and values of prompts that may come again, by what stands before and in each block."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array

BLOCK: Final = 32
"""Tokens of one block."""

ReadTokens = Callable[[int, int], list[Array]]
"""Copies the keys and values of tokens `begin` up to `end`: `(heads, tokens, head)` a tensor."""


class _Block(NamedTuple):
    tensors: list[Array]
    size: int  # bytes


class PrefixCache:
    """Blocks of tokens; each is known by its own tokens and all before it.

    The longest unused goes first, and of one prompt its end before its beginning, since a block is
    found through those before it.

    Args:
        limit: Most bytes; 0 keeps nothing.

    Attributes:
        bytes: Of the blocks that are kept.
        looked_up: Tokens that were asked for, since start.
        hits: Of these, found.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self.looked_up = 0
        self.hits = 0
        self._blocks: OrderedDict[bytes, _Block] = OrderedDict()  # the longest unused first

    def find(self, tokens: Sequence[int], whose: str = "") -> list[list[Array]]:
        """The blocks that a prompt begins with, never all of its tokens.

        Args:
            whose: What others have asked is not found: it would tell that somebody asked it.
        """
        keys = []
        for key in _keys(tokens[:-1], whose):
            if key not in self._blocks:
                break
            keys.append(key)
        for key in reversed(keys):
            self._blocks.move_to_end(key)
        if self.limit:
            self.looked_up += len(tokens)
            self.hits += len(keys) * BLOCK
        return [self._blocks[key].tensors for key in keys]

    def keep(
        self, tokens: Sequence[int], read: ReadTokens, begin: int = 0, whose: str = ""
    ) -> None:
        """Keep the whole blocks of `tokens`; `read` is called for those that are new.

        Args:
            begin: Tokens whose blocks were kept before; if they are gone, they stay so.
            whose: Who may find them.
        """
        keys = list(_keys(tokens, whose)) if self.limit else []
        for number in range(begin // BLOCK, len(keys)):
            if keys[number] not in self._blocks:
                self._add(keys[number], read(number * BLOCK, (number + 1) * BLOCK))
        for key in reversed(keys):
            if key in self._blocks:
                self._blocks.move_to_end(key)
        while self.bytes > self.limit:
            self.bytes -= self._blocks.popitem(last=False)[1].size

    def clear(self) -> None:
        self._blocks.clear()
        self.bytes = 0

    def _add(self, key: bytes, tensors: list[Array]) -> None:
        block = _Block(tensors, sum(tensor.nbytes for tensor in tensors))
        self._blocks[key] = block
        self.bytes += block.size


def _keys(tokens: Sequence[int], whose: str) -> Iterator[bytes]:
    """One key a whole block, of a hash that nobody can make collide."""
    key = blake2b(whose.encode(), digest_size=32).digest()
    values = np.asarray(tokens, np.int64)
    for begin in range(0, len(tokens) - BLOCK + 1, BLOCK):
        key = blake2b(values[begin : begin + BLOCK].tobytes(), key=key, digest_size=32).digest()
        yield key
