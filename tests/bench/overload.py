"""Five times what the server can do, each request with a deadline of 2 s.

Capacity is what clients get that wait for their answers, as many as make the most of it, measured
before and after each flood, so that both see the machine in the same mood. The flood's generator
takes a part of the cores that those clients do not: goodput is held against the capacity of the
cores that it leaves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
import real
import sentences
import wire
from load import write_requests
from plan import Plan
from table import Goal, Row, at_least, at_most, value_at_most
from zoo import efficientnet, photographs

TIMES = 5.0
DEADLINE = 2.0
CORES = len(os.sched_getaffinity(0))
MILLI = 1e3
PER_CENT = 1e2

Told = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent, and how many clients that wait for their answers keep the server busy.

    `goodput` is to be reached; None where the kernel's part of a refusal alone forbids it.
    """

    name: str
    requests: list[bytes]
    clients: int
    goodput: Goal | None


@dataclass(frozen=True, slots=True)
class Round:
    """A flood; capacity and the server's CPU seconds a row without it."""

    told: Told
    capacity: float
    row_cpu: float


def rows(plan: Plan) -> Iterator[Row]:
    folder = real.repository(plan.models, plan.work / "overload")
    images = [{"image": efficientnet.preprocess(f.path)[None]} for f in photographs.FILES]
    texts = sentences.feeds(plan.count(384, 48))
    small = [wire.binary("minilm", feed) for feed in texts]
    large = [wire.binary("efficientnet-lite0", image) for image in images]
    for case in (
        Case("small bodies, MiniLM", small, 64, at_least(0.92)),
        Case("600 kB, EfficientNet", large, 16, None),
    ):
        with processes.aiaas(folder, max_connections_per_address=0) as server:
            found = [_round(plan, server, case) for _ in range(min(plan.rounds, 2))]
        yield from _rows(case, found)


def _rows(case: Case, found: Sequence[Round]) -> Iterator[Row]:
    group = f"{TIMES:g} × overload, {case.name}"

    def mean(of: Callable[[Told], float]) -> float:
        return sum(of(one.told) for one in found) / len(found)

    capacity = sum(one.capacity for one in found) / len(found)
    row_cpu = sum(one.row_cpu for one in found) / len(found)
    goodput = mean(lambda told: told["goodput"])
    theirs = mean(lambda told: told["cpu"] / told["seconds"])
    left = capacity * (1 - theirs / CORES)
    by_cpu = mean(lambda told: told["goodput"] * told["seconds"] / told["server_cpu"])
    late = mean(lambda told: told["late"]) * PER_CENT
    refused = mean(lambda told: told["refused_p99"]) * MILLI
    for what, value, unit, beside, beside_what, goal in (
        ("goodput", goodput, "rows/s", left, "capacity, of the cores left", case.goodput),
        ("rows a CPU second", by_cpu, "rows", 1 / row_cpu, "without the flood", None),
        ("the generator's CPU", theirs * PER_CENT, "% of a core", None, "", None),
        ("late, of those not refused", late, "%", None, "", value_at_most(2.0)),
        ("answered: p50", mean(lambda told: told["p50"]) * MILLI, "ms", None, "", None),
        ("answered: p99", mean(lambda told: told["p99"]) * MILLI, "ms", None, "", None),
        ("refused: p99", refused, "ms", None, "", value_at_most(50.0)),
        (
            "a refusal: CPU",
            mean(_cpu(row_cpu)) * MILLI,
            "ms",
            row_cpu * MILLI,
            "a row",
            at_most(0.1),
        ),
    ):
        yield Row(group, what, value, unit, beside, beside_what, goal)


def _cpu(row_cpu: float) -> Callable[[Told], float]:
    """Server CPU a refusal: what is not explained by the rows that were served."""

    def cpu(told: Told) -> float:
        served = told["goodput"] * told["seconds"]
        refused = sum(told["statuses"].get(status, 0) for status in ("429", "503"))
        return max(float(told["server_cpu"] - served * row_cpu) / max(refused, 1), 0.0)

    return cpu


def _round(plan: Plan, server: processes.Target, case: Case) -> Round:
    path = plan.work / "flood"
    write_requests(path, with_deadlines(case.requests))
    before = processes.one_round(server, case.requests, case.clients, plan.seconds * 2)
    flooded = _flood(server, path, TIMES * before.rate, plan.seconds * 5)
    after = processes.one_round(server, case.requests, case.clients, plan.seconds * 2)
    capacity = (before.rate + after.rate) / 2
    return Round(flooded, capacity, (before.cpu + after.cpu) / 2)


def with_deadlines(requests: Sequence[bytes]) -> list[bytes]:
    """Each of them, not to be answered later than `DEADLINE`."""
    line = b"\r\nx-request-timeout-ms: %d\r\n" % (DEADLINE * MILLI)
    return [request.replace(b"\r\n", line, 1) for request in requests]


def _flood(server: processes.Target, path: Path, rate: float, seconds: float) -> Told:
    """Send `rate` requests a second, and count those of `seconds` once what can fill is full.

    Raises:
        RuntimeError: As `told`.
    """
    lead = min(DEADLINE, seconds)
    pids = ",".join(map(str, processes.family(server.pid)))
    numbers = [rate, seconds, lead, DEADLINE]
    arguments = ["127.0.0.1", str(server.port), *map(str, numbers), str(path), pids]
    command = [sys.executable, "-S", str(processes.HERE / "flood.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {**told(server, done.stdout), "seconds": seconds}


def told(server: processes.Target, output: str) -> Told:
    """What the generator wrote.

    Raises:
        RuntimeError: There was another answer than 200, 504, and refusals.
    """
    found: Told = json.loads(output)
    if set(found["statuses"]) - {"200", "200, late", "429", "503", "504", "lost"}:
        raise RuntimeError(f"{server.name} answered {found['statuses']}")
    return found
