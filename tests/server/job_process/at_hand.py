"""Jobs without a process for tables of cases, and processes that a test follows, or kills."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from importlib import import_module
from pathlib import Path

from aiaas_client.protocol.jobs import JobError
from aiaas_server.core.errors import ServerError
from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.job_process.worker import WORK, told
from aiaas_server.jobs.orders import ORDER_FILE, Line, Order, Product
from tests.server.job_process.ordering import LINE, carry_out


def made(order: Order, directory: Path) -> Product:
    """The product of an order that succeeds, made by a process."""
    found = carry_out(order, directory)
    assert isinstance(found, Product), found
    return found


def made_here(order: Order, directory: Path) -> Product:
    """The same, made in this process."""
    found = _carry_out_here(order, directory)
    assert isinstance(found, Product), found
    return found


def refused_here(order: Order, directory: Path) -> JobError:
    """Why an order fails, in this process."""
    found = _carry_out_here(order, directory)
    assert isinstance(found, JobError), found
    return found


def _carry_out_here(order: Order, directory: Path) -> Product | JobError:
    with (directory / "lines").open("wb", buffering=0) as out, chdir(directory):
        watch = PipeWatch(out, order)
        try:
            product: Product = import_module(WORK[order.spec["kind"]]).run(order, watch)
        except ServerError as error:
            return told(error, order)
    return product


def start(order: Order, directory: Path) -> subprocess.Popen[bytes]:
    """The process, at work."""
    (directory / ORDER_FILE).write_text(order.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "aiaas_server.job_process", str(directory), "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def lines_from(process: subprocess.Popen[bytes]) -> Iterator[Line]:
    """What it tells, as it comes."""
    assert process.stdout is not None, "it is a pipe"
    for line in process.stdout:
        yield LINE.validate_json(line)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait until it has ended, and let go of its pipe."""
    process.wait()
    assert process.stdout is not None, "it is a pipe"
    process.stdout.close()
