"""Import and start: what is paid before the first request."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes
from table import Row

MILLI = 1e3


def rows(network: Path, rounds: int) -> Iterator[Row]:
    """Args: `network`, a repository with one tiny model."""
    nothing = _cpu("pass", rounds)
    numpy = _cpu("import numpy", rounds) - nothing
    ours = _cpu("import aiaas_client", rounds) - nothing
    yield Row("start", "import aiaas_client: CPU", ours * MILLI, "ms", numpy * MILLI, "numpy")
    ours = _cpu("from aiaas_client import Client", rounds) - nothing
    name = "from aiaas_client import Client: CPU"
    yield Row("start", name, ours * MILLI, "ms", numpy * MILLI, "numpy")
    starts, sizes = [], []
    for _ in range(rounds):
        with processes.aiaas(network) as server:
            starts.append(server.start_seconds)
            sizes.append(server.rss())
    yield Row("start", "aiaas serve to ready, one tiny model", statistics.median(starts), "s")
    yield Row("start", "its resident memory when ready", statistics.median(sizes) / 1e6, "MB")


def _cpu(code: str, rounds: int) -> float:
    """CPU seconds of a fresh interpreter that runs `code`; the median of some."""
    return statistics.median(_one(code) for _ in range(max(rounds, 5)))


def _one(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
