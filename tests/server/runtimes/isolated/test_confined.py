"""What the process of a model can do once it has opened the model: run it, and nothing else."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import InferenceFailed, ModelCrashed, OutOfMemory
from aiaas_server.runtimes.isolated.keeper import Terms
from aiaas_server.runtimes.isolated.orders import Order
from aiaas_server.runtimes.sandbox import SandboxedSession
from tests.server.runtimes.isolated import loading
from tests.server.runtimes.isolated.conftest import HERE, Open, X, doubles
from tests.server.runtimes.isolated.probing import ALLOWED, ANY, ENDS, REFUSED, ROOM

ENTRY = f"{HERE}.probing"


@pytest.fixture(scope="module")
def attempt() -> Iterator[Callable[[str], float]]:
    """Have one process, which is confined, try this and that; gives the error's number, or 0."""
    graph = doubles()
    config = ModelConfig(name="any")
    sizes = {"size": len(graph), "threads": 1, "memory_bytes": 1 << 30}
    order = Order(path=None, config=config, filters=True, **sizes)
    session = SandboxedSession(order, graph, terms=Terms(entry=ENTRY))

    def made(name: str) -> float:
        x = np.full((1, 4), ANY.index(name), np.float32)
        return float(session.run({"x": x}, ["y"])[0][0, 0])

    yield made
    session.close()
    session.wait_closed(60)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_model_is_refused_what_it_does_not_need(
    attempt: Callable[[str], float], name: str
) -> None:
    assert attempt(name) == errno.EPERM


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_model_can_do_what_running_takes(attempt: Callable[[str], float], name: str) -> None:
    assert attempt(name) == 0


def test_while_a_model_is_opened_it_reaches_nobody() -> None:
    told = subprocess.check_output([sys.executable, "-m", f"{HERE}.loading"])
    expected = dict.fromkeys(loading.REFUSED, errno.EPERM) | dict.fromkeys(loading.ALLOWED, 0)
    assert json.loads(told) == expected


def tried(opened: Open, name: str, **more: int) -> None:
    session = opened(doubles(), name, entry=ENTRY, **more)
    session.run({"x": X}, ["y"])


@pytest.mark.parametrize("name", sorted(ENDS))
def test_a_model_that_ends_its_process_ends_one_request(
    opened: Open, beside: Callable[[], None], name: str
) -> None:
    # A Python that counts the frames of C refuses to recurse, where another one runs into the end.
    with pytest.raises((ModelCrashed, InferenceFailed)):
        tried(opened, name)
    beside()


@pytest.mark.parametrize("name", sorted(ROOM))
def test_a_model_that_takes_too_much_memory_is_told_so(
    opened: Open, beside: Callable[[], None], name: str
) -> None:
    with pytest.raises(OutOfMemory):
        tried(opened, name, memory=512 << 20)
    beside()


def test_the_process_has_no_more_than_it_needs(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIAAS_SECRET_OF_OURS", "x")
    session = opened(doubles())
    session.run({"x": X}, ["y"])
    worker = session._keeper.worker(None)
    proc = Path(f"/proc/{worker.pid}")
    assert b"AIAAS_SECRET_OF_OURS" not in (proc / "environ").read_bytes()
    assert str((proc / "cwd").readlink()).endswith("(deleted)")
    kinds = sorted(str(file.readlink()).partition(":")[0] for file in (proc / "fd").iterdir())
    assert kinds == ["/dev/null", "/dev/null", "/memfd", "socket", "socket"]
    status = (proc / "status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "Seccomp_filters:\t2" in status
    limits = {
        line[:25].strip(): line[26:46].strip()
        for line in (proc / "limits").read_text().splitlines()
    }
    assert limits["Max file size"] == "0"
    assert limits["Max core file size"] == "0"
    assert limits["Max open files"] == "64"
    assert int(limits["Max address space"]) < 2 << 30
