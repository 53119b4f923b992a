"""Orders carried out as a server has them carried out: by a process of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from importlib import import_module
from pathlib import Path

from pydantic import TypeAdapter

from aiaas_client.protocol.jobs import JobError
from aiaas_server.core.errors import ServerError
from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.job_process.worker import WORK, told
from aiaas_server.jobs.orders import (
    ORDER_FILE,
    DoneLine,
    FailedLine,
    Line,
    Order,
    Product,
)

LINE: TypeAdapter[Line] = TypeAdapter(Line)


def carry_out(order: Order, directory: Path) -> Product | JobError:
    """What comes of an order whose files lie in a directory."""
    process = start(order, directory)
    *_, last = lines_of(process)
    process.wait()
    if isinstance(last, DoneLine):
        return last.product
    assert isinstance(last, FailedLine), f"it ended with {last}"
    return last.error


def made(order: Order, directory: Path) -> Product:
    """The product of an order that succeeds."""
    found = carry_out(order, directory)
    assert isinstance(found, Product), found
    return found


def made_here(order: Order, directory: Path) -> Product | JobError:
    """The same without a process: for tables of cases. Paths of the order are absolute."""
    with (directory / "told").open("wb", buffering=0) as out, chdir(directory):
        watch = PipeWatch(out, order)
        try:
            product: Product = import_module(WORK[order.spec["kind"]]).run(order, watch)
        except ServerError as error:
            return told(error, order)
    return product


def start(order: Order, directory: Path) -> subprocess.Popen[bytes]:
    """The process, at work; what it prints goes to the test's standard error."""
    (directory / ORDER_FILE).write_text(order.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "aiaas_server.job_process", str(directory), "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[Line]:
    """What it tells, as it comes."""
    assert process.stdout is not None, "it is a pipe"
    with process.stdout as told:
        for line in told:
            yield LINE.validate_json(line)
