"""Our application, which tells what its own code costs besides `session.run`.

`python timed.py MODELS FILE PORT` writes FILE at each signal `SIGUSR1`: runs so far, CPU seconds of
the process, and of these the ones that its Python threads spent outside of runs, event loop and
all. What the runtime's own threads do is part of a run.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import uvicorn

from aiaas_server.app import create_app
from aiaas_server.settings import Settings

NANO = 1e9
RUNS = ("run", "run_with_iobinding", "run_with_ort_values")


class Runs:
    """How many there were, and the CPU seconds of the threads that called them."""

    def __init__(self) -> None:
        self.count = 0
        self.cpu = 0.0

    def timed(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, counted; a server under measurement makes one at a time."""

        def call(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return run(*arguments, **named)
            finally:
                self.count += 1
                self.cpu += time.thread_time() - began

        return call

    def tell(self, path: Path) -> None:
        """Write what was counted."""
        inside = self.cpu
        python = sum(_cpu(thread.native_id) for thread in threading.enumerate())
        told = {"runs": self.count, "cpu": time.process_time(), "outside": python - inside}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(told), "utf-8")
        part.replace(path)


def _cpu(thread: int | None) -> float:
    """CPU seconds of a thread so far."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) / NANO


def main() -> None:
    models, file, port = sys.argv[1:]
    runs = Runs()
    for name in RUNS:
        run = getattr(onnxruntime.InferenceSession, name)
        setattr(onnxruntime.InferenceSession, name, runs.timed(run))
    signal.signal(signal.SIGUSR1, lambda *_: runs.tell(Path(file)))
    uvicorn.run(
        create_app(Settings(models=Path(models), generate_speculate=False)),
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
