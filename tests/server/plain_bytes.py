"""Looks for plain bytes where there should be none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

RUN = 64
"""A run of so many bytes of something known is found, wherever it begins."""
_BLOCK = RUN // 2
_VARIED = 12  # different bytes of a block that could not be in anything by chance


class Known:
    """Bytes that are to be nowhere.

    Any run of 64 of them has a whole block of 32 that begins at a multiple of 32, so it is enough
    to look for these, at every place of a file.
    """

    def __init__(self, *contents: bytes) -> None:
        self._blocks: set[bytes] = set()
        self._beginnings = np.empty(0, "<u8")
        for content in contents:
            self.add(content)

    def add(self, content: bytes) -> None:
        found = {content[at : at + _BLOCK] for at in range(0, len(content) - _BLOCK + 1, _BLOCK)}
        self._blocks |= {block for block in found if len(set(block)) >= _VARIED}
        beginnings = b"".join(block[:8] for block in self._blocks)
        self._beginnings = np.unique(np.frombuffer(beginnings, "<u8"))

    def __len__(self) -> int:
        return len(self._blocks)

    def is_in(self, content: bytes) -> bool:
        """Whether a block is there; its first eight bytes are looked for at every place."""
        for shift in range(8):
            count = (len(content) - shift) // 8
            if count <= 0:
                return False
            words = np.frombuffer(content, "<u8", count, shift)
            for at in np.flatnonzero(np.isin(words, self._beginnings)) * 8 + shift:
                if content[at : at + _BLOCK] in self._blocks:
                    return True
        return False

    def found_below(self, *roots: Path) -> list[str]:
        """Files that have some of it."""
        return [str(path) for path in files_below(roots) if self.is_in(_read(path))]


def files_below(roots: Iterable[Path]) -> list[Path]:
    return [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # it went meanwhile
        return b""
