"""`Work`: what all jobs of a process have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from aiaas_client.protocol.jobs import JobResult
from aiaas_server.jobs import queue
from aiaas_server.jobs.keeping import Keeping
from aiaas_server.jobs.orders import Order, Product
from aiaas_server.jobs.process import WORKER
from aiaas_server.jobs.rows import JobRow
from aiaas_server.state.database import Database

LayOut = Callable[[JobRow, Path], Awaitable[Order]]
"""Puts all that a job needs into its directory. Raises a ServerError where that cannot be."""
Keep = Callable[[JobRow, Product, Path], Awaitable[JobResult]]
"""Keeps what a job made, for good; may be called again after a crash in the middle of it."""


class Allowed(NamedTuple):
    """What jobs may take.

    Attributes:
        slots: Jobs at a time.
        memory_bytes, threads: Of each.
        timeout: Seconds, all attempts of a job together.
        lease: Seconds that one is held without being renewed.
        check_room: Raises `StorageFull` where the disk has too little left; blocks.
    """

    slots: int
    memory_bytes: int
    threads: int
    timeout: float
    lease: float = queue.LEASE
    check_room: Callable[[], object] | None = None


class Work(NamedTuple):
    """How jobs are carried out.

    Attributes:
        keeping: For checkpoints.
        lay_out, keep: What goes before and behind a process.
        worker: The module that a process runs.
    """

    database: Database
    keeping: Keeping
    lay_out: LayOut
    keep: Keep
    allowed: Allowed
    worker: str = WORKER
