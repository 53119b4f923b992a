"""Import and start: what is paid before the first request."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator

import processes
from plan import Plan
from table import Row, value_at_most

MILLI = 1e3


def rows(plan: Plan) -> Iterator[Row]:
    nothing = _cpu("pass", plan.rounds)
    numpy = _cpu("import numpy", plan.rounds) - nothing
    for code in ("import aiaas_client", "from aiaas_client import Client"):
        ours = _cpu(code, plan.rounds) - nothing
        yield Row("start", f"{code}: CPU", ours * MILLI, "ms", numpy * MILLI, "import numpy")
    starts, cpus = [], []
    for _ in range(plan.rounds):
        with processes.aiaas(plan.network) as server:
            starts.append(server.start_seconds)
            cpus.append(server.cpu())
    name = "aiaas serve to ready, one tiny model"
    yield Row("start", f"{name}: time", min(starts), "s", None, "", value_at_most(1.0))
    yield Row("start", f"{name}: CPU", min(cpus), "s")


def _cpu(code: str, rounds: int) -> float:
    """CPU seconds of a fresh interpreter that runs `code`; the median of some."""
    return statistics.median(_one(code) for _ in range(max(rounds, 5)))


def _one(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
