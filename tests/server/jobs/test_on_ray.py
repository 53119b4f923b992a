"""Trainings on a Ray that the job starts itself. Run where Ray is installed: `dev` has none."""

from __future__ import annotations

import asyncio
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.jobs.hearing import Heard, Limits
from aiaas_server.jobs.orders import CheckpointLine, LaidCheckpoint, Order, Product
from aiaas_server.jobs.process import MARK, mark_of, run
from aiaas_server.jobs.table import Table
from tests.server.job_process.ordering import order_of, table_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed"),
]
LIMITS = Limits(4 << 30, 300.0, 2)
RAY = {"workers": 2, "cluster": "ray://local"}


def squares() -> Table:
    """Points, and in which of four squares they lie."""
    x, y = np.random.default_rng(5).uniform(-1, 1, (2, 600))
    columns = {"x": x, "y": 100 * y, "label": np.where(x * y > 0, "same", "other").tolist()}
    return table_of({"x": "number", "y": "number", "label": "category"}, columns)


def ordered(directory: Path, recipe: str, spec: dict[str, Any], **more: Any) -> Order:
    asked = {"kind": "train", "model": "m", "dataset": "d@1", "seed": 7, "recipe": recipe} | spec
    memory = LIMITS.memory_bytes
    return order_of(directory, asked, {"d@1": squares()}, threads=2, memory_bytes=memory, **more)


async def carried_out(order: Order, directory: Path) -> Product:
    async def hear(heard: Heard) -> None:
        pass

    outcome = await run(order, directory, LIMITS, hear)
    assert outcome.product is not None, outcome
    assert not processes_of(directory)
    return outcome.product


def processes_of(directory: Path) -> dict[int, str]:
    """What belongs to a job: process id -> how it is called."""
    wanted, found = f"{MARK}={mark_of(directory)}".encode(), {}
    for path in Path("/proc").iterdir():
        try:
            if wanted in (path / "environ").read_bytes().split(b"\0"):
                found[int(path.name)] = (path / "cmdline").read_bytes().decode().strip("\0")
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
async def test_a_network_survives_a_cancelled_job_and_a_killed_worker(tmp_path: Path) -> None:
    """It ends as in one process, and no process of Ray is left behind."""
    params = {"hidden": [24], "epochs": 150, "learning_rate": 0.02, "batch_size": 32, "patience": 0}
    alone = ordered(tmp_path / "alone", "mlp-classifier", {"params": params})
    whole = await carried_out(alone, tmp_path / "alone")

    first = tmp_path / "first"
    kept: list[CheckpointLine] = []
    reached = asyncio.Event()

    async def until_the_fourth(heard: Heard) -> None:
        if isinstance(heard, CheckpointLine) and heard.step == 4:
            kept.append(heard)
            reached.set()
            await asyncio.Event().wait()  # nothing more is heard

    spec = {"params": params, **RAY}
    attempt = asyncio.ensure_future(
        run(ordered(first, "mlp-classifier", spec), first, LIMITS, until_the_fourth)
    )
    waiting = asyncio.ensure_future(reached.wait())
    await asyncio.wait({attempt, waiting}, return_when="FIRST_COMPLETED")
    assert reached.is_set(), attempt.result()
    assert any("raylet" in name for name in processes_of(first).values())
    attempt.cancel()
    await asyncio.wait({attempt})
    assert not processes_of(first)

    second = tmp_path / "second"
    left = LaidCheckpoint(step=4, path="left")
    order = ordered(second, "mlp-classifier", spec, attempt=2, checkpoint=left)
    (second / "left").write_bytes((first / kept[0].path).read_bytes())
    steps: list[int] = []

    async def kill_one(heard: Heard) -> None:
        if not isinstance(heard, CheckpointLine):
            return
        steps.append(heard.step)
        if len(steps) == 3:
            seats = [pid for pid, name in processes_of(second).items() if "Seat" in name]
            assert len(seats) == 2, processes_of(second)
            os.kill(seats[1], signal.SIGKILL)

    outcome = await run(order, second, LIMITS, kill_one)
    assert outcome.product is not None, outcome
    assert not processes_of(second)
    assert steps == list(range(5, 151))  # none twice, none left out
    metrics = outcome.product.metrics
    assert metrics["accuracy"] == pytest.approx(whole.metrics["accuracy"], abs=0.02)
    assert metrics["log_loss"] == pytest.approx(whole.metrics["log_loss"], rel=0.1)


async def test_folds_and_trees_are_those_of_this_machine(tmp_path: Path) -> None:
    """A forest over joblib, its folds over the same workers: not one number differs."""
    spec: dict[str, Any] = {"params": {"trees": 20}, "folds": 3}
    here = ordered(tmp_path / "here", "random-forest-classifier", spec)
    there = ordered(tmp_path / "there", "random-forest-classifier", spec | RAY)
    one = await carried_out(here, tmp_path / "here")
    other = await carried_out(there, tmp_path / "there")
    assert other.details["cv"] == one.details["cv"]
    assert other.metrics == one.metrics
