"""`PipeWatch`: what a job tells of itself while it works, line by line."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import BaseModel

from aiaas_client.protocol.jobs import Progress
from aiaas_server.jobs.orders import CHECKPOINTS, CheckpointLine, Order, ProgressLine
from aiaas_server.jobs.recipes.recipe import Watch

_SOON: Final = 0.1  # seconds between two lines of progress within a phase


class PipeWatch(Watch):
    """See `Watch`. From any thread.

    Args:
        out: Where lines go.
        order: What is done, in the current directory.
    """

    def __init__(self, out: BinaryIO, order: Order) -> None:
        self._out = out
        self._lock = threading.Lock()
        self.restored = None if order.checkpoint is None else Path(order.checkpoint.path)
        self.scratch = Path("scratch")
        self.scratch.mkdir(exist_ok=True)
        Path(CHECKPOINTS).mkdir(exist_ok=True)
        self._phase = ""
        self._began = time.monotonic()
        self._first = 0
        self._said = 0.0

    def say(self, line: BaseModel) -> None:
        """Send a line whole."""
        with self._lock:
            self._out.write(line.model_dump_json().encode() + b"\n")

    def phase(self, name: str) -> None:
        """See `Watch`."""
        self._phase, self._began, self._first, self._said = name, time.monotonic(), -1, 0.0
        self.say(ProgressLine(progress=Progress(phase=name)))

    def progress(
        self,
        step: int,
        total: int = 0,
        unit: str = "",
        *,
        rate: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """See `Watch`; lines that say nothing new but a step come at most ten times a second."""
        now = time.monotonic()
        if self._first < 0:
            # What goes on in the middle, or tells of many rows at once, has no pace yet.
            self._first, self._began = (0, self._began) if step == 1 else (step, now)
        last = bool(total) and step >= total
        if not metrics and not last and now - self._said < _SOON:
            return
        self._said = now
        done = step - self._first
        left = (now - self._began) / done * (total - step) if total and done > 0 else None
        found = Progress(
            phase=self._phase,
            step=step,
            total=total,
            unit=unit,
            rate=rate,
            left=left,
            metrics=dict(metrics or {}),
        )
        self.say(ProgressLine(progress=found))

    def checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """See `Watch`: into a new file, to the disk, renamed, and only then told."""
        path = Path(CHECKPOINTS) / f"{step}"
        part = path.with_suffix(".part")
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(path)
        self.say(CheckpointLine(step=step, path=str(path)))

    def log(self, line: str) -> None:
        """See `Watch`."""
        print(line, file=sys.stderr, flush=True)
