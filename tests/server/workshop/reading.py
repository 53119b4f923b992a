"""Reading uploads in this process, as the one of a job would."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from aiaas_server.jobs.orders import Order, Product


async def read_here(order: Order, directory: Path) -> Product:
    """`workshop.datasets.Run` without a process: what is asked of it is the same."""
    from aiaas_server.job_process import ingest
    from aiaas_server.job_process.watch import PipeWatch

    with contextlib.chdir(directory):
        return ingest.run(order, PipeWatch(io.BytesIO(), order))
