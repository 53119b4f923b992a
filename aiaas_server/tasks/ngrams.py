"""The distinct character n-grams of a text as numbers: `1 + crc32(utf-8) % (buckets - 1)`.

A CRC is linear: that of a gram is the exclusive or of what each of its characters leaves behind,
which depends on the character and on how many bytes come after it. Both are looked up for a whole
text at once, several times quicker than gram by gram.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Places = npt.NDArray[np.intp]
Characters = npt.NDArray[np.uint16]

_POLYNOMIAL = 0xEDB88320
_PLANE = 0x10000  # characters in the tables: all but emoji and rare scripts, of 1 to 3 bytes
_LONGEST = 3
_MOST_ROWS = 16  # of the tables, 256 kB each
_PADDING = np.zeros(1, np.uint32)
_SURROGATES = range(0xD800, 0xE000)  # no characters; a text that holds one is refused


class Tables(NamedTuple):
    """What is looked up.

    Attributes:
        left: `(bytes that come after * 65536 + character,)`: the CRC a character leaves behind.
        steps: `(character,)`: its bytes * 65536.
    """

    left: Ids
    steps: Places


def hashed_ids(text: str, ngrams: tuple[int, ...], buckets: int) -> Ids:
    """Ids of the distinct n-grams, ascending; runs of whitespace count as one space.

    Args:
        ngrams: Lengths in characters.
        buckets: Ids are below it, at most 2**32; 0 is left for padding.
    """
    text = " ".join(text.split())
    tables = tables_for(ngrams)
    characters = np.frombuffer(text.encode("utf-16-le"), np.uint16)
    if tables is None or len(characters) != len(text):  # some are in no table, and are two
        found = _one_by_one(text, ngrams)
    else:
        found = _at_once(characters, ngrams, tables)
    found %= buckets - 1
    ids = found[1:]
    ids += 1
    found.sort()  # the padding stays first: what differs from the one before it is new
    return ids.compress(ids != found[:-1])


@cache
def tables_for(ngrams: tuple[int, ...]) -> Tables | None:
    """The tables for grams of these lengths, made when first asked for; None where none are."""
    rows = _LONGEST * (max(ngrams, default=1) - 1) + 1
    return _tables(rows) if min(ngrams, default=1) >= 1 and rows <= _MOST_ROWS else None


def _at_once(characters: Characters, ngrams: Sequence[int], tables: Tables) -> Ids:
    """The padding's id, and the CRC-32 of every gram of a text."""
    last = tables.left.take(characters)
    steps = tables.steps.take(characters)
    parts = [_checksums(characters, steps, last, n, tables.left) for n in ngrams]
    return np.concatenate([_PADDING, *parts])


def _checksums(characters: Characters, steps: Places, last: Ids, length: int, left: Ids) -> Ids:
    """Of the grams of `length` characters: `(characters,)` -> `(grams,)`.

    Args:
        steps: Of each character, as `Tables.steps`.
        last: What each character leaves behind as the last of a gram.
    """
    if length == 1:
        return last
    count = max(len(characters) - length + 1, 0)
    found = last[length - 1 :]
    after = steps[length - 1 :]
    for place in range(length - 2, -1, -1):
        found = found ^ left.take(after + characters[place : place + count])
        if place:
            after = after + steps[place : place + count]
    return found


def _one_by_one(text: str, ngrams: Sequence[int]) -> Ids:
    grams = {text[i : i + n] for n in ngrams for i in range(len(text) - n + 1)}
    return np.array([0, *[zlib.crc32(gram.encode()) for gram in grams]], np.uint32)


@cache
def _tables(rows: int) -> Tables:
    """For grams of which fewer than `rows` bytes come after a character."""
    left = np.zeros((rows, _PLANE), np.uint32)
    steps = np.full(_PLANE, _PLANE, np.int64)
    steps[0x80:] = 2 * _PLANE
    steps[0x800:] = _LONGEST * _PLANE
    for code in range(_PLANE):
        if code not in _SURROGATES:
            left[0, code] = zlib.crc32(chr(code).encode())
    one_byte = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        one_byte = np.where(one_byte & 1, one_byte >> 1 ^ _POLYNOMIAL, one_byte >> 1)
    one_byte = one_byte.astype(np.uint32)
    for row in range(1, rows):
        before = left[row - 1]
        left[row] = one_byte[before & 0xFF] ^ before >> 8
    return Tables(left.ravel(), steps)
