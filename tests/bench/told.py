"""What a run has found so far, written to files as it goes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import curves
import table


@dataclass(slots=True)
class Told:
    """Rows and curves, and where they are written."""

    json: Path | None = None
    markdown: Path | None = None
    rows: list[table.Row] = field(default_factory=list)
    points: list[curves.Point] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def took(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began

    def write(self) -> None:
        """Write what is there."""
        if self.json is not None:
            self.json.write_text(json.dumps(self._as_json(), indent=1) + "\n", "utf-8")
        if self.markdown is not None:
            self.markdown.write_text(self._as_markdown(), "utf-8")

    def _as_markdown(self) -> str:
        """What a document tells of a run."""
        machine = ", ".join(f"{name} {value}" for name, value in table.machine().items())
        versions = ", ".join(f"{name} {value}" for name, value in table.versions().items())
        return (
            f"{table.summary(self.rows)}, {self.took():.0f} s.\n\n"
            f"{machine}.\n\n{versions}.\n\n{table.markdown(self.rows)}\n"
        )

    def _as_json(self) -> dict[str, object]:
        return {
            "machine": table.machine(),
            "versions": table.versions(),
            "seconds": self.took(),
            "rows": table.as_json(self.rows),
            "curves": curves.as_json(self.points),
        }
