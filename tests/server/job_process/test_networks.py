"""Jobs that train networks: workers, and a process that is killed and goes on elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from aiaas_client.protocol.jobs import JobError
from aiaas_server.jobs.orders import (
    ORDER_FILE,
    CheckpointLine,
    LaidCheckpoint,
    Line,
    Order,
    Product,
    ProgressLine,
)
from aiaas_server.jobs.table import Field, Table
from tests.server.job_process.ordering import (
    LINE,
    carry_out_each,
    lines_of,
    order_of,
    outcome_of,
    table_of,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed"),
    pytest.mark.skipif(find_spec("onnxscript") is None, reason="onnxscript is not installed"),
    pytest.mark.skipif(find_spec("pyarrow") is None, reason="pyarrow is not installed"),
]

EPOCHS = 30


def squares() -> Table:
    """Points, and in which of four squares they lie: as a rule that is a cross in the plane."""
    draw = np.random.default_rng(5)
    x, y = draw.uniform(-1, 1, (2, 600))
    labels = np.where(x * y > 0, "same", "other")
    columns = {"x": x.tolist(), "y": (100 * y).tolist(), "label": labels.tolist()}
    return table_of({"x": "number", "y": "number", "label": "category"}, columns)


def ordered(directory: Path, workers: int = 1, **more: Any) -> Order:
    params = {
        "hidden": [24],
        "epochs": EPOCHS,
        "learning_rate": 0.02,
        "batch_size": 32,
        "patience": 0,
    }
    spec = {
        "kind": "train",
        "model": "squares",
        "recipe": "mlp-classifier",
        "dataset": "squares@1",
        "params": params,
        "workers": workers,
        "class_weight": "balanced",
        "seed": 7,
    }
    return order_of(directory, spec, {"squares@1": squares()}, threads=2, **more)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the jobs of this module are carried out that nobody disturbs."""
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def products(place: Path) -> dict[str, Product | JobError]:
    """What they give, by recipe, carried out by one process: torch takes seconds to import."""
    moods = np.array(["bad", "good"], object)[np.arange(80) % 2]
    asked: dict[str, tuple[Table, dict[str, Any]]] = {
        "text-character-pairs": (reviews(moods), {}),
        "text-tfidf": (reviews(moods), {}),
        "cnn-classifier": (
            bars(moods),
            {"channels": [8], "dense": 16, "epochs": 15, "learning_rate": 0.01},
        ),
    }
    orders = {"whole": ordered(place / "whole"), "ray": ordered(place / "ray")}
    orders["ray"].spec["cluster"] = "http://head:10001"
    for recipe, (data, params) in asked.items():
        spec = {"kind": "train", "model": "m", "recipe": recipe, "dataset": "d@1"}
        spec |= {"params": params, "target": "mood"}
        orders[recipe] = order_of(place / recipe, spec, {"d@1": data})
    found = carry_out_each({place / name: order for name, order in orders.items()})
    return dict(zip(orders, found, strict=True))


def reviews(moods: np.ndarray[Any, Any]) -> Table:
    lines = [
        f"{'质量很好，喜欢' if mood == 'good' else '太差了，不推荐'} number {i}"
        for i, mood in enumerate(moods)
    ]
    return table_of(
        {"mood": "category", "review": "text"}, {"mood": moods.tolist(), "review": lines}
    )


def bars(moods: np.ndarray[Any, Any]) -> Table:
    """A bright bar lies upright where the mood is good."""
    draw = np.random.default_rng(2)
    found = draw.integers(0, 60, (len(moods), 12, 12)).astype(np.uint8)
    for bar, mood in zip(found, moods, strict=True):
        (bar.T if mood == "good" else bar)[draw.integers(2, 10)] = 220
    return Table([Field("bar", "array"), Field("mood", "category")], {"bar": found, "mood": moods})


def test_a_job_of_two_workers_that_is_killed_goes_on_as_if_it_had_not_been(
    products: dict[str, Product | JobError], tmp_path: Path
) -> None:
    """First one of its workers is killed, and it goes on from a checkpoint; then the job."""
    whole = products["whole"]
    assert isinstance(whole, Product), whole
    assert whole.metrics["accuracy"] > 0.9

    first = tmp_path / "first"
    lines = killed_after_checkpoints(ordered(first, workers=2), first, worker_at=2, job_at=12)
    steps = epochs_of(lines)
    assert sorted(set(steps)) == list(range(1, max(steps) + 1))
    assert steps.count(1) == 1, "it went on from a checkpoint"
    left = lines[-1]
    assert isinstance(left, CheckpointLine)
    # The next attempt may have other workers: they take the same steps.
    again = tmp_path / "again"
    order = ordered(again, attempt=2, checkpoint=LaidCheckpoint(step=left.step, path="left"))
    (again / "left").write_bytes((first / left.path).read_bytes())
    lines = lines_of(order, again)
    later = outcome_of(lines)
    assert isinstance(later, Product), later
    assert epochs_of(lines) == list(range(left.step + 1, EPOCHS + 1))
    assert later.metrics["accuracy"] == whole.metrics["accuracy"]
    assert later.metrics["log_loss"] == pytest.approx(whole.metrics["log_loss"], rel=1e-4)


def epochs_of(lines: list[Line]) -> list[int]:
    """Those that were told, each with its rate."""
    told = [line.progress for line in lines if isinstance(line, ProgressLine)]
    found = [one for one in told if one.unit == "epochs" and one.metrics]
    assert all(one.rate > 0 for one in found)
    return [one.step for one in found]


def test_a_network_that_is_too_large_is_told_with_the_limit_and_a_cluster_is_refused(
    products: dict[str, Product | JobError], tmp_path: Path
) -> None:
    large = ordered(tmp_path / "large", memory_bytes=1 << 30)
    large.spec["params"] = {"hidden": [16_384, 16_384, 16_384]}
    error = outcome_of(lines_of(large, tmp_path / "large"))
    assert isinstance(error, JobError)
    assert (error.code, "1024 MiB" in error.message) == ("out_of_memory", True), error
    refused = products["ray"]
    assert isinstance(refused, JobError)
    assert refused.code == "invalid_input"
    assert "expected ray://host:port" in refused.message


@pytest.mark.parametrize("recipe", ["text-character-pairs", "text-tfidf", "cnn-classifier"])
def test_texts_and_pictures_are_learned_by_jobs(
    place: Path, products: dict[str, Product | JobError], recipe: str
) -> None:
    product = products[recipe]
    assert isinstance(product, Product), product
    assert product.metrics["accuracy"] > 0.8
    assert (place / recipe / product.versions[0].path / "golden.json").exists()


def killed_after_checkpoints(
    order: Order, directory: Path, *, worker_at: int, job_at: int
) -> list[Line]:
    """Start the job, kill a worker behind one checkpoint, and the job behind another; its workers
    end with it. Gives what the job said until then.
    """
    (directory / ORDER_FILE).write_text(order.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "aiaas_server.job_process", str(directory), "0"]
    said: list[Line] = []
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        killed = False
        for content in process.stdout:
            said.append(LINE.validate_json(content))
            line = said[-1]
            if not isinstance(line, CheckpointLine):
                continue
            if line.step == worker_at and not killed:
                os.kill(workers_of(process.pid)[-1].pid, signal.SIGKILL)
                killed = True
            elif line.step == job_at:
                workers = workers_of(process.pid)
                os.kill(process.pid, signal.SIGKILL)
                break
        else:
            raise AssertionError((directory / "log").read_text("utf-8"))
    assert killed
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    return said


def workers_of(pid: int) -> list[psutil.Process]:
    """The processes that learn side by side, the youngest last."""
    found = psutil.Process(pid).children(recursive=True)
    return [one for one in sorted(found, key=lambda one: one.pid) if "spawn_main" in _command(one)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
