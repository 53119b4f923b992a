"""The process of a job: what it may have, what it tells, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from aiaas_server.core.errors import InvalidInput, OutOfMemory, StorageFull
from aiaas_server.jobs.hearing import Heard, Hearing, Limits, LogLine, Outcome
from aiaas_server.jobs.orders import (
    CheckpointLine,
    DoneLine,
    LaidCheckpoint,
    Order,
    Product,
    ProgressLine,
)
from aiaas_server.jobs.process import run, run_once
from tests.waiting import until

WORKER = "tests.server.jobs.odd_work"
MEMORY = 1 << 30


def order_of(checkpoint: LaidCheckpoint | None = None, **spec: Any) -> Order:
    return Order(job="j", spec={"kind": "odd", **spec}, checkpoint=checkpoint, memory_bytes=MEMORY)


class Said(list[Heard]):
    async def hear(self, heard: Heard) -> None:
        self.append(heard)

    @property
    def log(self) -> str:
        return "\n".join(heard.text for heard in self if isinstance(heard, LogLine))


async def carried_out(
    order: Order, path: Path, memory: int = MEMORY, timeout: float = 60.0
) -> tuple[Outcome, Said]:
    said = Said()
    return await run(order, path, Limits(memory, timeout), said.hear, worker=WORKER), said


async def test_tells_its_progress_its_checkpoints_and_its_product(tmp_path: Path) -> None:
    """Line by line, and its log without what looks like a secret."""
    printed = ["learning", "password=hunter2 is no good", "\x1b[31mred\x1b[0m"]
    outcome, said = await carried_out(order_of(prints=printed), tmp_path)
    assert outcome.product is not None
    assert outcome.product.metrics == {"steps": 3.0}
    steps = [heard.progress.step for heard in said if isinstance(heard, ProgressLine)]
    assert steps == [0, 1, 2, 3]
    assert [heard.step for heard in said if isinstance(heard, CheckpointLine)] == [1, 2, 3]
    assert said.log == "learning\npassword=[left out] is no good\nred"


async def test_gives_way_to_what_serves_in_whatever_session(tmp_path: Path) -> None:
    """Niceness alone means nothing to other sessions where the system groups processes by them."""
    outcome, _ = await carried_out(order_of(then="tell its priority"), tmp_path)
    assert outcome.product is not None
    assert outcome.product.details["process"] == 19
    assert outcome.product.details["session"] in ("", "19")


async def test_has_no_environment_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the server's settings nor its keys are within its reach."""
    monkeypatch.setenv("AIAAS_SERVER_API_KEY", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    outcome, _ = await carried_out(order_of(), tmp_path)
    assert outcome.product is not None
    names = outcome.product.details["environment"]
    assert not [name for name in names if name.startswith(("AIAAS_SERVER", "AWS"))]
    assert {"HOME", "TMPDIR", "OMP_NUM_THREADS"} <= set(names)


async def test_one_that_is_killed_is_lost_and_another_goes_on(tmp_path: Path) -> None:
    """The next one begins behind the last checkpoint."""
    outcome, said = await carried_out(order_of(dies_at=2), tmp_path)
    assert outcome == Outcome(lost="ended with SIGKILL")
    last = [heard for heard in said if isinstance(heard, CheckpointLine)][-1]
    assert last.step == 2
    again = order_of(LaidCheckpoint(step=2, path=last.path))
    outcome, said = await carried_out(again, tmp_path)
    assert outcome.product is not None
    assert outcome.product.details["begun"] == 2


async def test_a_failure_is_told_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="column 'x' cannot be read"):
        await run_once(
            order_of(then="refuse"), tmp_path, timeout=60, memory_bytes=MEMORY, worker=WORKER
        )
    with pytest.raises(StorageFull, match="disk of the server is full"):
        await run_once(
            order_of(then="no disk"), tmp_path, timeout=60, memory_bytes=MEMORY, worker=WORKER
        )


@pytest.mark.slow
@pytest.mark.parametrize("then", ["fill", "fill elsewhere"])
async def test_too_much_memory_names_the_limit(then: str, tmp_path: Path) -> None:
    """Whether it takes it itself, or a process that it has started does."""
    order = order_of(then=then).model_copy(update={"memory_bytes": 400 << 20})
    with pytest.raises(OutOfMemory, match=r"may take 400 MiB here \(job_memory_bytes\)"):
        await run_once(order, tmp_path, timeout=60, memory_bytes=400 << 20, worker=WORKER)


async def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    outcome, _ = await carried_out(order_of(hangs_at=1), tmp_path, timeout=1.0)
    assert outcome.error is not None
    assert outcome.error.code == "timeout"
    assert "1 s" in outcome.error.message


async def test_a_caller_that_leaves_ends_it_with_all_that_it_started(tmp_path: Path) -> None:
    """Also what has put itself in a session of its own."""
    said = Said()
    running = asyncio.create_task(
        run(order_of(hangs_at=2), tmp_path, Limits(MEMORY, 60.0), said.hear, worker=WORKER)
    )
    await until(lambda: "beside" in said.log)
    beside = int(said.log.split()[-3])
    assert os.path.exists(f"/proc/{beside}")  # noqa: PTH110  # it is about the process
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await until(lambda: not _runs(beside))


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"versions": [{"model": "m", "path": "/etc"}]}, "/etc"),
        ({"versions": [{"model": "m", "path": "out/version"}]}, "out/version/labels.txt"),
        ({"files": {"report.html": "../secret"}}, "../secret"),
        ({"files": {"report.html": "out/version/labels.txt"}}, "out/version/labels.txt"),
        ({"files": {"report.html": "out/nothing"}}, "out/nothing"),
        ({"versions": [{"model": "m", "path": "out/file"}]}, "out/file"),
    ],
)
async def test_nothing_outside_its_directory_is_taken_for_its_product(
    made: dict[str, Any], told: str, tmp_path: Path
) -> None:
    place = tmp_path / "job"
    (place / "out" / "version").mkdir(parents=True)
    (tmp_path / "secret").write_text("of the server")
    (place / "out" / "file").write_text("no bundle")
    (place / "out" / "version" / "labels.txt").symlink_to(tmp_path / "secret")

    async def hear(heard: Heard) -> None:
        """Nothing is of interest."""

    hearing = Hearing(place, hear)
    pipe = asyncio.StreamReader()
    line = DoneLine(product=Product.model_validate(made))
    pipe.feed_data(line.model_dump_json().encode() + b"\n")
    await hearing.lines(pipe)
    outcome = hearing.outcome(0, Limits(1 << 30, 1.0, 1), None, late=False)
    assert outcome.error is not None
    assert repr(told) in outcome.error.message
