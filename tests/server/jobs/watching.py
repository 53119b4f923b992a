"""`Kept`: who watches a training in a test, and what was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from aiaas_server.jobs.recipes.recipe import Watch


class Kept(Watch):
    """Keeps all that it is told.

    Args:
        place: For files.
        restored: A checkpoint to go on from.
        at_checkpoint: Is called with each step once its checkpoint lies there.
    """

    def __init__(
        self,
        place: Path,
        restored: Path | None = None,
        at_checkpoint: Callable[[int], object] = lambda step: None,
    ) -> None:
        self.scratch, self.restored = place, restored
        self._at_checkpoint = at_checkpoint
        self.phases: list[str] = []
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.checkpoints: dict[int, Path] = {}
        self.lines: list[str] = []

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def progress(
        self,
        step: int,
        total: int = 0,
        unit: str = "",
        *,
        rate: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        self.steps.append((step, dict(metrics or {})))

    def checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        path = self.scratch / f"checkpoint-{step}"
        write(path)
        self.checkpoints[step] = path
        self._at_checkpoint(step)

    def log(self, line: str) -> None:
        self.lines.append(line)
