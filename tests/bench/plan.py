"""How long and how often the groups measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of the benchmark works with.

    Attributes:
        models: A repository with the real models.
        network: A repository with the 784-32-10 network alone, named `digits`.
        work: A folder for what a group makes.
        seconds: Of one round of load.
        rounds: Of which the best counts: what else the machine does only ever adds.
        share: Of the rows, requests and cycles that a group counts instead of seconds; 1 is all.
        long: A million requests where memory is watched, not a fifth of it.
    """

    models: Path
    network: Path
    work: Path
    seconds: float = 0.8
    rounds: int = 5
    share: float = 1.0
    long: bool = False

    def count(self, whole: int, least: int = 1) -> int:
        return max(least, round(whole * self.share))
