"""The cache of prompts: found by all that stands before, forgotten from the end."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiaas_server.generate.prefix import BLOCK, PrefixCache

SIZE = 4 * BLOCK  # bytes of a block


class Text:
    """Keys that tell their place, and how often they were read."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read(self, begin: int, end: int) -> list[Any]:
        self.reads.append((begin, end))
        return [np.arange(begin, end, dtype=np.float32).reshape(1, -1, 1)]


def tokens(count: int, first: int = 0) -> list[int]:
    return [first, *range(1, count)]


def test_only_whole_blocks_are_kept_and_never_all_of_a_prompt_is_found() -> None:
    cache, text = PrefixCache(100 * SIZE), Text()
    cache.keep(tokens(2 * BLOCK + 5), text.read)
    assert text.reads == [(0, BLOCK), (BLOCK, 2 * BLOCK)]
    assert cache.bytes == 2 * SIZE
    assert cache.find(tokens(BLOCK)) == []
    (one,) = cache.find(tokens(BLOCK + 1))
    np.testing.assert_array_equal(one[0].ravel(), np.arange(BLOCK))
    assert len(cache.find(tokens(2 * BLOCK))) == 1
    assert len(cache.find(tokens(4 * BLOCK))) == 2
    assert cache.hits == 4 * BLOCK
    assert cache.looked_up == 8 * BLOCK + 1


def test_a_block_is_known_by_what_stands_before_it() -> None:
    cache = PrefixCache(100 * SIZE)
    cache.keep(tokens(2 * BLOCK), Text().read)
    assert cache.find(tokens(3 * BLOCK, first=9)) == []  # the second block's tokens are equal
    assert cache.find(tokens(3 * BLOCK)[BLOCK:]) == []


def test_blocks_that_are_there_are_not_read_again() -> None:
    cache, text = PrefixCache(100 * SIZE), Text()
    cache.keep(tokens(2 * BLOCK), text.read)
    cache.keep(tokens(3 * BLOCK), text.read, begin=2 * BLOCK)
    cache.keep(tokens(3 * BLOCK), text.read)
    assert text.reads == [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 3 * BLOCK)]


def test_the_longest_unused_goes_first_and_of_one_prompt_its_end() -> None:
    cache = PrefixCache(4 * SIZE)
    cache.keep(tokens(2 * BLOCK), Text().read)
    cache.keep(tokens(2 * BLOCK, first=9), Text().read)
    assert len(cache.find(tokens(3 * BLOCK))) == 2  # used: now the other one is the oldest
    cache.keep(tokens(BLOCK, first=8), Text().read)
    assert cache.bytes == 4 * SIZE
    assert len(cache.find(tokens(3 * BLOCK, first=9))) == 1
    assert len(cache.find(tokens(3 * BLOCK))) == 2


def test_a_prompt_larger_than_the_cache_leaves_its_beginning() -> None:
    cache = PrefixCache(2 * SIZE)
    cache.keep(tokens(5 * BLOCK), Text().read)
    assert cache.bytes == 2 * SIZE
    assert len(cache.find(tokens(5 * BLOCK))) == 2


def test_without_room_nothing_is_kept_or_counted() -> None:
    cache, text = PrefixCache(0), Text()
    cache.keep(tokens(5 * BLOCK), text.read)
    assert cache.find(tokens(5 * BLOCK)) == []
    assert text.reads == []
    assert cache.looked_up == cache.hits == cache.bytes == 0


def test_what_was_cleared_takes_no_memory() -> None:
    cache = PrefixCache(10 * SIZE)
    cache.keep(tokens(5 * BLOCK), Text().read)
    cache.clear()
    assert cache.bytes == 0
    assert cache.find(tokens(5 * BLOCK)) == []


def test_nobody_finds_what_others_have_asked() -> None:
    cache = PrefixCache(100_000)
    cache.keep(tokens(2 * BLOCK), Text().read, whose="acme")
    assert cache.find(tokens(2 * BLOCK + 1), "beta") == []
    assert cache.find(tokens(2 * BLOCK + 1)) == []
    assert len(cache.find(tokens(2 * BLOCK + 1), "acme")) == 2
