"""How long a phase still takes is told once there is a pace to tell it from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.jobs.orders import Order, ProgressLine


@pytest.mark.parametrize(
    ("steps", "known"),
    [
        pytest.param([(1, 10), (2, 10)], [True, True], id="from the first epoch on"),
        pytest.param([(6, 10), (7, 10)], [False, True], id="goes on in the middle"),
        pytest.param([(512, 12000), (1024, 12000)], [False, True], id="many rows at once"),
        pytest.param([(600, 600)], [False], id="all at once"),
    ],
)
def test_what_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[int, int]],
    known: list[bool],
) -> None:
    monkeypatch.chdir(tmp_path)
    out = io.BytesIO()
    watch = PipeWatch(out, Order(job="j", spec={"kind": "train"}))
    watch.phase("training")
    for step, total in steps:
        watch.progress(step, total, "epochs", metrics={"loss": 1.0})
    told = [ProgressLine.model_validate_json(line).progress for line in out.getvalue().splitlines()]
    assert [one.left is not None for one in told[1:]] == known
