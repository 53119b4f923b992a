"""Entry of a job's process: an order lies in its directory, lines go out by a pipe.

What libraries print goes to standard error, and so into the job's log; the pipe of the lines is out
of their reach.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, Final, cast

from aiaas_client.protocol.jobs import JobError
from aiaas_server.core.confine.limits import limit_data
from aiaas_server.core.errors import InvalidInput, OutOfMemory, ServerError
from aiaas_server.job_process.confine import confine
from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.jobs.orders import ORDER_FILE, DoneLine, FailedLine, Order, Product
from aiaas_server.jobs.recipes.recipe import Diverged

# Kind of a spec -> module with a function `run(order, watch)`, in the directory of the order.
WORK: Final = {
    "ingest": "aiaas_server.job_process.ingest",
    "train": "aiaas_server.job_process.train",
    "evaluate": "aiaas_server.job_process.evaluate",
    "compare": "aiaas_server.job_process.compare",
    "score": "aiaas_server.job_process.score",
    "optimise": "aiaas_server.job_process.optimise",
    "explain": "aiaas_server.job_process.explain",
    "batch": "aiaas_server.job_process.batch",
}


def main(directory: str, parent: int) -> None:
    """Carry out one order, and end.

    Args:
        parent: The process that asked; this one ends with it.
    """
    confine(parent)
    out = _own_output()
    os.chdir(directory)
    order = Order.model_validate_json(Path(ORDER_FILE).read_bytes())
    watch = PipeWatch(out, order)
    try:
        limit_data(order.memory_bytes)
        watch.say(DoneLine(product=_carried_out(order, watch)))
    except Exception as error:
        if not isinstance(error, InvalidInput):  # whose message is for whoever asked, and enough
            traceback.print_exc()
        watch.say(FailedLine(error=told(error, order)))
    sys.stdout.flush()
    sys.stderr.flush()
    # Whatever threads a library has left behind, or does at an end, is of no interest.
    os._exit(0)


def _carried_out(order: Order, watch: PipeWatch) -> Product:
    module = import_module(WORK[order.spec["kind"]])
    product: Product = module.run(order, watch)
    return product


def told(error: Exception, order: Order) -> JobError:
    """What a caller is told of a failure; what lies in `details` of the error comes along."""
    details = getattr(error, "details", None) or {}
    if isinstance(error, MemoryError | OutOfMemory):
        mib = order.memory_bytes >> 20
        text = f"out of memory: a job may take {mib} MiB here (job_memory_bytes)"
        return JobError(code="out_of_memory", message=text, details=details)
    if isinstance(error, Diverged):
        return JobError(code="diverged", message=str(error), details=details)
    if isinstance(error, ServerError):
        code = "invalid_input" if isinstance(error, InvalidInput) else "failed"
        return JobError(
            code=getattr(error, "job_code", code), message=error.message, details=details
        )
    if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT
        return JobError(code="storage_full", message="the disk of the server is full")
    return JobError(code="failed", message=f"{type(error).__name__}: {error}"[:1024])


def _own_output() -> BinaryIO:
    """The pipe of the lines; standard output is standard error from here on."""
    kept = os.dup(1)
    os.dup2(2, 1)
    # A line of the log goes out when it is whole, and none is lost where the process is killed.
    for stream in (sys.stdout, sys.stderr):
        cast(TextIOWrapper, stream).reconfigure(line_buffering=True, errors="backslashreplace")
    return os.fdopen(kept, "wb", buffering=0)
