"""Looks for plain bytes where there should be none."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

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
        for content in contents:
            self.add(content)

    def add(self, content: bytes) -> None:
        found = {content[at : at + _BLOCK] for at in range(0, len(content) - _BLOCK + 1, _BLOCK)}
        self._blocks |= {block for block in found if len(set(block)) >= _VARIED}

    def __len__(self) -> int:
        return len(self._blocks)

    def is_in(self, content: bytes) -> bool:
        blocks = self._blocks
        return any(content[at : at + _BLOCK] in blocks for at in range(len(content) - _BLOCK + 1))

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
