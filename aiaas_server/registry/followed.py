"""What one process knows of a model that it follows: its files, and what went wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0

Place = tuple[Path, str]
"""The directory of a bundle, and its digest."""


@dataclass(slots=True)
class Followed:
    """One model.

    Attributes:
        lock: Held while it is brought up to date.
        places: Of the versions that the pool is shown, by number.
        held: Versions that stay loaded because somebody is about to have them serve.
        problems: Why versions cannot be loaded here, by number.
        queued: It waits for its turn to be brought up to date.
        retry_at: On the loop's clock, when what failed is tried again.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    places: dict[int, Place] = field(default_factory=dict)
    held: Counter[int] = field(default_factory=Counter)
    problems: dict[int, str] = field(default_factory=dict)
    queued: bool = False
    retry_at: float | None = None
    _failures: int = 0

    @contextmanager
    def holding(self, numbers: Iterable[int]) -> Iterator[None]:
        """Meanwhile these versions stay loaded."""
        counted = Counter(numbers)
        self.held += counted
        try:
            yield
        finally:
            self.held -= counted

    def failed(self) -> None:
        """It is tried again, after a longer pause each time."""
        pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
        self._failures = min(self._failures + 1, 10)
        self.retry_at = asyncio.get_running_loop().time() + pause

    def succeeded(self) -> None:
        """All is as it should be."""
        self.problems = {}
        self.retry_at, self._failures = None, 0

    def is_due(self) -> bool:
        """Whether it is time to try again."""
        return self.retry_at is not None and self.retry_at <= asyncio.get_running_loop().time()
