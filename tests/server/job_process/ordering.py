"""Orders of jobs, laid out and carried out by the real process, with no server around it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from aiaas_client.protocol.datasets import Column, Dataset
from aiaas_client.protocol.jobs import JobError
from aiaas_server.jobs.orders import (
    ORDER_FILE,
    DoneLine,
    FailedLine,
    LaidDataset,
    Line,
    Order,
    Product,
)
from aiaas_server.jobs.table import Field, Table

_ROOT = Path(__file__).parents[3]
LINE: TypeAdapter[Line] = TypeAdapter(Line)

# Several orders one after another: most of the time of a short one are imports.
_EACH = """
import os, sys
from pathlib import Path
from aiaas_server.job_process import worker
from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.jobs.orders import DoneLine, FailedLine, Order

for directory in sys.argv[1:]:
    os.chdir(directory)
    order = Order.model_validate_json(Path("order.json").read_bytes())
    watch = PipeWatch(open("lines", "wb", buffering=0), order)
    try:
        watch.say(DoneLine(product=worker._carried_out(order, watch)))
    except Exception as error:
        watch.say(FailedLine(error=worker.told(error, order)))
"""


def table_of(kinds: Mapping[str, str], columns: Mapping[str, Sequence[Any]]) -> Table:
    """A table from lists: `{"age": "number"}`, `{"age": [1.0, None]}`."""
    values = {name: _array(kinds[name], cells) for name, cells in columns.items()}
    return Table([Field(name, kinds[name]) for name in columns], values)  # type: ignore[arg-type]


def _array(kind: str, cells: Sequence[Any]) -> np.ndarray[Any, Any]:
    if kind == "number":
        return np.array([np.nan if cell is None else cell for cell in cells], np.float64)
    if kind in ("category", "text", "image") or any(cell is None for cell in cells):
        found = np.empty(len(cells), object)
        found[:] = list(cells)
        return found
    return np.array(cells, "datetime64[ns]" if kind == "time" else None)


def order_of(
    directory: Path,
    spec: Mapping[str, Any],
    datasets: Mapping[str, Table] | None = None,
    **more: Any,
) -> Order:
    """An order over tables, which are written into `directory`; `datasets` by `name@number`."""
    from aiaas_server.job_process.tables import write_table  # and with it pyarrow

    laid = {}
    directory.mkdir(parents=True, exist_ok=True)
    for ref, table in (datasets or {}).items():
        name, _, number = ref.partition("@")
        columns = [Column(name=field.name, kind=field.kind) for field in table.fields]
        found = Dataset(name=name, number=int(number), rows=table.rows, columns=columns)
        write_table(table, directory / f"{name}-{number}.parquet")
        laid[ref] = LaidDataset(dataset=found, path=f"{name}-{number}.parquet")
    return Order(job="j1", spec=dict(spec), datasets=laid, **more)


def lines_of(order: Order, directory: Path, timeout: float = 300.0) -> list[Line]:
    """What the process says while it carries the order out in that directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ORDER_FILE).write_text(order.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "aiaas_server.job_process", str(directory), "0"]
    with (directory / "log").open("wb") as log:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env=_environment(order.threads),
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=timeout,
            check=True,
        )
    return [LINE.validate_json(line) for line in done.stdout.splitlines()]


def outcome_of(lines: Iterable[Line]) -> Product | JobError:
    """What the last line tells."""
    *_, last = lines
    if isinstance(last, FailedLine):
        return last.error
    assert isinstance(last, DoneLine), last
    return last.product


def carry_out(order: Order, directory: Path, timeout: float = 300.0) -> Product | JobError:
    """Carry an order out in the directory in which its files lie."""
    return outcome_of(lines_of(order, directory, timeout))


def carry_out_each(
    orders: Mapping[Path, Order], timeout: float = 300.0
) -> list[Product | JobError]:
    """Carry orders out by one process, each in its directory; it is slow to start."""
    for directory, order in orders.items():
        (directory / ORDER_FILE).write_text(order.model_dump_json(), "utf-8")
    command = [sys.executable, "-c", _EACH, *map(str, orders)]
    subprocess.run(command, cwd=_ROOT, env=_environment(1), timeout=timeout, check=True)
    told = [(directory / "lines").read_bytes().splitlines() for directory in orders]
    return [outcome_of([LINE.validate_json(lines[-1])]) for lines in told]


def _environment(threads: int) -> dict[str, str]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**os.environ, "PYTHONPATH": str(_ROOT), **dict.fromkeys(names, str(threads))}


def log_of(directory: Path) -> str:
    """What the process printed."""
    return (directory / "log").read_text("utf-8")
