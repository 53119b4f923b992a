"""Jobs: what one costs the requests beside it, what it takes to begin, and what a runner costs.

The job is the training of a network, at the lowest priority that the system has; requests come one
after another from one caller, and from eight at once, which keep two cores busy by themselves.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import processes
import wire
from load import write_requests
from plan import Plan
from processes import Target
from table import Row, at_most, value_at_most
from zoo import digits

from aiaas_client import Client, JobCancelledError
from aiaas_client._resources.job import JobHandle

GROUP: Final = "jobs"
CALLERS: Final = (1, 8)
MILLI: Final = 1e3
COLUMNS: Final = 20
JOB: Final = {"epochs": 10_000, "patience": 0, "hidden": [64]}
"""Longer than anything that is measured beside it: it is cancelled then."""


def rows(plan: Plan) -> Iterator[Row]:
    """All of it."""
    yield from _idle(plan)
    data = str(plan.work / "jobs")
    with (
        processes.aiaas(plan.network, data=data, jobs=1) as server,
        Client(f"http://127.0.0.1:{server.port}", timeout=300.0) as client,
    ):
        yield _explained(plan, client)
        yield _ingested(plan, client)
        yield from _beside(plan, server, client)


def _idle(plan: Plan) -> Iterator[Row]:
    """CPU of a server that nobody calls, with and without a runner, at once."""
    seconds = plan.count(20)
    with (
        processes.aiaas(plan.network, data=str(plan.work / "runs"), jobs=1) as runs,
        processes.aiaas(plan.network, data=str(plan.work / "none")) as none,
    ):
        time.sleep(1.0)  # what a start leaves to do
        before = none.cpu(), runs.cpu()
        time.sleep(seconds)
        after = none.cpu(), runs.cpu()
    without, each = (MILLI * (b - a) / seconds for a, b in zip(before, after, strict=True))
    what = "a server that nobody calls, with a runner: CPU a second"
    yield Row(GROUP, what, each, "ms", without, "without one", value_at_most(10))


def _explained(plan: Plan, client: Client) -> Row:
    """Rows a second that one explanation has the model answer, all it does with them included."""
    _, held_out = digits.load()
    images = [image.tolist() for image in held_out.images[:20]]
    samples, model = plan.count(200_000, 2_000), client.model("digits")
    began = time.perf_counter()
    told = model.explain(images[0], background=images[1:], samples=samples, deadline=300.0)
    rate = told.samples / (time.perf_counter() - began)
    return Row(GROUP, f"`:explain`, 784 inputs: {told.samples:,} rows", rate, "rows/s")


def _ingested(plan: Plan, client: Client) -> Row:
    """A table from a file to a version that is read, looked at and kept."""
    file = plan.work / "points.csv"
    count = plan.count(100_000, 2_000)
    _write_points(file, count)
    size = file.stat().st_size / 1e6
    began = time.perf_counter()
    client.datasets.upload("points", file)
    rate = size / (time.perf_counter() - began)
    what = f"upload of {count:,} rows of {COLUMNS + 1} columns, CSV"
    return Row(GROUP, what, rate, "MB/s")


def _write_points(file: Path, count: int) -> None:
    numbers = np.random.default_rng(0).normal(size=(count, COLUMNS))
    labels = np.where(numbers[:, 0] + numbers[:, 1] > 0, "up", "down")
    names = [f"x{number}" for number in range(COLUMNS)]
    with file.open("w") as out:
        out.write(",".join([*names, "label"]) + "\n")
        for row, label in zip(numbers.tolist(), labels.tolist(), strict=True):
            out.write(",".join(f"{one:.6f}" for one in row) + f",{label}\n")


# Beside requests


def _beside(plan: Plan, server: Target, client: Client) -> Iterator[Row]:
    """Requests before a job, while it trains, and after it."""
    _, held_out = digits.load()
    path = plan.work / "jobs.requests"
    image = np.ascontiguousarray(held_out.images[:1])
    write_requests(path, [wire.binary("digits", {"image": image})])
    calm, busy = _rounds(plan, server, path), []
    job = client.jobs.train("points", recipe="mlp-classifier", dataset="points", params=JOB)
    try:
        claimed, spoke = _until_it_trains(job)
        busy = _rounds(plan, server, path)
        job.refresh()
        if job.state != "running":
            raise RuntimeError(f"the job has ended too early: {job.error}")
    finally:
        began = time.perf_counter()
        job.cancel()
        with suppress(JobCancelledError):
            job.wait()
    ended = time.perf_counter() - began
    calm += _rounds(plan, server, path)
    yield Row(GROUP, "a job: asked for to claimed", claimed, "s", goal=value_at_most(1))
    yield Row(GROUP, "a job: claimed to its process's first word", spoke, "s")
    yield Row(GROUP, "a job: cancelled to gone", ended, "s", goal=value_at_most(2))
    for callers in CALLERS:
        for which, goal in ((0, None), (1, at_most(1.3))):
            beside, without = (
                MILLI * statistics.median(one[which] for at, one in some if at == callers)
                for some in (busy, calm)
            )
            what = f"beside a training job, {callers} at a time: {('p50', 'p99')[which]}"
            yield Row(GROUP, what, beside, "ms", without, "no job", goal)


def _rounds(plan: Plan, server: Target, path: Path) -> list[tuple[int, tuple[float, float]]]:
    """By the callers at a time, median and 99th percentile of each round, seconds."""
    found = []
    for callers in CALLERS * plan.rounds:
        told = processes.generate(server, path, callers, plan.seconds)
        if set(told["statuses"]) != {"200"}:
            raise RuntimeError(f"answered {told['statuses']}")
        found.append((callers, (told["p50"], told["p99"])))
    return found


def _until_it_trains(job: JobHandle) -> tuple[float, float]:
    """Seconds from the question to the claim, and from there to what the process first says."""
    seen: dict[str, float] = {}
    for event in job.events():
        seen.setdefault(event.data.get("state", event.kind), event.at)
        if event.data.get("metrics"):
            return seen["running"] - seen["queued"], seen["progress"] - seen["running"]
    raise RuntimeError(f"the job never trained: {job.refresh().error}")
