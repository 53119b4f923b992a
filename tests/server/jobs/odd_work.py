"""A kind of work for tests, `odd`, run in the real process: its spec says what happens.

`steps` are counted up, each with a line of progress and a checkpoint; then `then` is done.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process import worker
from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.jobs.orders import OUT, Order, Product


def main(directory: str, parent: int) -> None:
    """As the worker's, which knows this kind too."""
    worker.WORK["odd"] = __name__
    worker.main(directory, parent)


def run(order: Order, watch: PipeWatch) -> Product:
    """Do what the spec says."""
    spec = order.spec
    begun = 0 if watch.restored is None else int(watch.restored.read_text())
    watch.phase("counting")
    for line in spec.get("prints", []):
        print(line)
    for step in range(begun + 1, spec.get("steps", 3) + 1):
        watch.progress(step, spec.get("steps", 3), "steps", metrics={"loss": 1 / step})
        watch.checkpoint(step, lambda path, step=step: path.write_text(str(step)))  # type: ignore[misc]
        if step >= spec.get("dies_at", 1 << 30) and order.attempt <= spec.get("deaths", 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == spec.get("hangs_at") and order.attempt <= spec.get("hangs", 1):
            _hang(spec)
    return _do(spec.get("then", ""), begun, order)


def _do(what: str, begun: int, order: Order) -> Product:
    if what == "refuse":
        raise InvalidInput("column 'x' cannot be read")
    if what == "fill":
        held = []
        while True:
            held.append(bytearray(os.urandom(16 << 20)))
    if what == "fill elsewhere":
        _helper("held = [bytearray(b'x' * (16 << 20)) for _ in range(400)]; print(len(held))")
    if what == "tell its priority":
        group = Path("/proc/self/autogroup")
        told = group.read_text("ascii").split()[-1] if group.exists() else ""
        return Product(details={"process": os.nice(0), "session": told})
    if what == "no disk":
        raise OSError(28, "No space left on device")
    if what == "nonsense":
        os.write(3, b"")
        os._exit(0)
    out = Path(OUT)
    out.mkdir(exist_ok=True)
    (out / "told.txt").write_text(f"began behind {begun}")
    environment = sorted(os.environ)
    details = {"begun": begun, "attempt": order.attempt, "environment": environment}
    return Product(
        metrics={"steps": float(order.spec.get("steps", 3))},
        files={"told.txt": f"{OUT}/told.txt"},
        details=details,
    )


def _hang(spec: dict[str, object]) -> None:
    """Until it is ended; with a process beside it, in a session of its own."""
    beside = "import time; time.sleep(1000)"
    started = subprocess.Popen([sys.executable, "-c", beside], start_new_session=True)
    print(f"beside {started.pid} of {os.getpid()}", flush=True)
    time.sleep(1000)


def _helper(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
