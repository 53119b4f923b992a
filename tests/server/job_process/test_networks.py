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
import pytest

from aiaas_client.protocol.jobs import JobError
from aiaas_server.jobs.orders import (
    ORDER_FILE,
    CheckpointLine,
    LaidCheckpoint,
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


def squares() -> Table:
    """Points, and in which of four squares they lie: as a rule that is a cross in the plane."""
    draw = np.random.default_rng(5)
    x, y = draw.uniform(-1, 1, (2, 600))
    labels = np.where(x * y > 0, "same", "other")
    columns = {"x": x.tolist(), "y": (100 * y).tolist(), "label": labels.tolist()}
    return table_of({"x": "number", "y": "number", "label": "category"}, columns)


def ordered(directory: Path, workers: int = 1, **more: Any) -> Order:
    params = {"hidden": [24], "epochs": 12, "learning_rate": 0.02, "batch_size": 32, "patience": 0}
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


def test_a_job_of_two_workers_that_is_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = outcome_of(lines_of(ordered(tmp_path / "whole"), tmp_path / "whole"))
    assert isinstance(whole, Product), whole
    assert whole.metrics["accuracy"] > 0.9

    first = tmp_path / "first"
    left = killed_after_checkpoint(ordered(first, workers=2), first, 4)
    # The next attempt may have other workers: they take the same steps.
    again = tmp_path / "again"
    order = ordered(again, attempt=2, checkpoint=LaidCheckpoint(step=left.step, path="left"))
    (again / "left").write_bytes((first / left.path).read_bytes())
    lines = lines_of(order, again)
    later = outcome_of(lines)
    assert isinstance(later, Product), later
    told = [line.progress for line in lines if isinstance(line, ProgressLine)]
    epochs = [one for one in told if one.unit == "epochs" and one.metrics]
    assert [one.step for one in epochs] == list(range(left.step + 1, 13))
    assert all(one.rate > 0 for one in epochs)
    assert later.metrics["accuracy"] == whole.metrics["accuracy"]
    assert later.metrics["log_loss"] == pytest.approx(whole.metrics["log_loss"], rel=1e-4)


def test_a_network_that_is_too_large_is_told_with_the_limit_and_a_cluster_is_refused(
    tmp_path: Path,
) -> None:
    large = ordered(tmp_path / "large", memory_bytes=1 << 30)
    large.spec["params"] = {"hidden": [16_384, 16_384, 16_384]}
    error = outcome_of(lines_of(large, tmp_path / "large"))
    assert isinstance(error, JobError)
    assert (error.code, "1024 MiB" in error.message) == ("out_of_memory", True), error

    ray = ordered(tmp_path / "ray")
    ray.spec["cluster"] = "http://head:10001"
    error = outcome_of(lines_of(ray, tmp_path / "ray"))
    assert isinstance(error, JobError)
    assert error.code == "invalid_input"
    assert "expected ray://host:port" in error.message


def test_texts_and_pictures_are_learned_by_jobs(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    moods = np.array(["bad", "good"], object)[np.arange(80) % 2]
    lines = [
        f"{'质量很好，喜欢' if mood == 'good' else '太差了，不推荐'} number {i}"
        for i, mood in enumerate(moods)
    ]
    bars = draw.integers(0, 60, (80, 12, 12)).astype(np.uint8)
    for bar, mood in zip(bars, moods, strict=True):
        (bar.T if mood == "good" else bar)[draw.integers(2, 10)] = 220
    table = table_of(
        {"mood": "category", "review": "text"}, {"mood": moods.tolist(), "review": lines}
    )
    pictures = Table(
        [Field("bar", "array"), Field("mood", "category")], {"bar": bars, "mood": moods}
    )
    quick = {"channels": [8], "dense": 16, "epochs": 15, "learning_rate": 0.01}
    asked: dict[str, tuple[Table, dict[str, Any]]] = {
        "text-character-pairs": (table, {}),
        "text-tfidf": (table, {}),
        "cnn-classifier": (pictures, quick),
    }
    orders = {}
    for recipe, (data, params) in asked.items():
        spec = {"kind": "train", "model": "m", "recipe": recipe, "dataset": "d@1"}
        spec |= {"params": params, "target": "mood"}
        orders[tmp_path / recipe] = order_of(tmp_path / recipe, spec, {"d@1": data})
    for recipe, product in zip(asked, carry_out_each(orders), strict=True):
        assert isinstance(product, Product), (recipe, product)
        assert product.metrics["accuracy"] > 0.8, recipe
        assert (tmp_path / recipe / product.versions[0].path / "golden.json").exists()


def killed_after_checkpoint(order: Order, directory: Path, step: int) -> CheckpointLine:
    """Start the job, kill it once that checkpoint is there; its workers end with it."""
    (directory / ORDER_FILE).write_text(order.model_dump_json(), "utf-8")
    command = [sys.executable, "-m", "aiaas_server.job_process", str(directory), "0"]
    with (
        (directory / "log").open("wb") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        ) as process,
    ):
        assert process.stdout is not None
        for content in process.stdout:
            line = LINE.validate_json(content)
            if isinstance(line, CheckpointLine) and line.step == step:
                workers = children_of(process.pid)
                os.kill(process.pid, signal.SIGKILL)
                break
        else:
            raise AssertionError((directory / "log").read_text("utf-8"))
    assert len(workers) >= 2
    _, alive = psutil_wait(workers)
    assert not alive
    return line


def children_of(pid: int) -> list[Any]:
    import psutil

    found: list[Any] = psutil.Process(pid).children(recursive=True)
    return found


def psutil_wait(processes: list[Any]) -> tuple[Any, Any]:
    import psutil

    found: tuple[Any, Any] = psutil.wait_procs(processes, timeout=30)
    return found
