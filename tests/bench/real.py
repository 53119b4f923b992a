"""Real models served, beside the same rows through `session.run` in this process.

In process means the best that a person would write: as many threads as the server runs at a time,
the best of some batch sizes, sentences sorted by length. Both fill all cores, so that CPU a row is
compared under the same crowding; the load generator takes its part of them only from the server.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import inprocess
import processes
import sentences
import wire
from plan import Plan
from table import Goal, Row, at_least, at_most
from zoo import efficientnet, photographs

MILLI = 1e3
CORES = len(os.sched_getaffinity(0))
PADDING = {
    "pad": {name: {"axis": 1} for name in ("input_ids", "attention_mask", "token_type_ids")},
    "slice": {"last_hidden_state": 1},
}

Join = Callable[[Sequence[inprocess.Feed], int], list[inprocess.Feed]]


class Best(NamedTuple):
    """The fastest way through all rows in this process."""

    work: inprocess.Work
    name: str
    again: Callable[[], inprocess.Work]


def rows(plan: Plan) -> Iterator[Row]:
    folder = plan.work / "real"
    with processes.aiaas(repository(plan.models, folder)) as server:
        yield from _minilm(plan, folder, server)
        yield from _efficientnet(plan, folder, server)
        yield Row("real models", "resident memory after the load", server.rss() / 1e6, "MB")


def repository(models: Path, folder: Path) -> Path:
    """The real models; MiniLM with padding declared, without, and without batching."""
    shutil.copytree(models / "efficientnet-lite0", folder / "efficientnet-lite0")
    minilm = models / "minilm" / "1"
    padded = {"batching": {"string_value": json.dumps(PADDING)}}
    batching = {"max_batch_size": 64, "dynamic_batching": {}}
    for name, config in (
        ("minilm", {**batching, "parameters": padded}),
        ("minilm-by-shape", batching),
        ("minilm-one-by-one", {"max_batch_size": 64}),
    ):
        shutil.copytree(minilm, folder / name / "1")
        (folder / name / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def best(model: Path, feeds: Sequence[inprocess.Feed], join: Join, sizes: Sequence[int]) -> Best:
    """Try batch sizes, with one thread a run and a run on each core."""
    session = inprocess.open_session(model / "1" / "model.onnx", 1)
    session.run(None, join(feeds[: sizes[-1]], sizes[-1])[0])
    found = []
    for size in sizes:
        batches = join(feeds, size)
        again = partial(inprocess.work, session, batches, CORES)
        found.append(Best(again(), f"batches of {size}", again))
    return max(found, key=lambda one: one.work.rate)


def _in_turns(
    plan: Plan,
    way: Best,
    loads: Sequence[tuple[processes.Target, list[bytes]]],
    connections: int,
) -> tuple[inprocess.Work, list[processes.Load]]:
    """Rounds of work in process and of load, in turns."""
    works: list[inprocess.Work] = []
    seen: list[list[processes.Load]] = [[] for _ in loads]
    for _ in range(plan.rounds):
        works.append(way.again())
        for (target, requests), found in zip(loads, seen, strict=True):
            found.append(processes.one_round(target, requests, connections, plan.seconds * 2))
    return inprocess.best(works), [processes.best(found) for found in seen]


def _minilm(plan: Plan, folder: Path, server: processes.Target) -> Iterator[Row]:
    group = "MiniLM, 5-120 tokens"
    feeds = sentences.feeds(plan.count(384, 48))
    way = best(folder / "minilm", feeds, inprocess.joined_by_length, (1, 8, 16, 32))
    names = ("minilm", "minilm-by-shape", "minilm-one-by-one")
    loads = [(server, [wire.binary(name, feed) for feed in feeds]) for name in names]
    work, (ours, by_shape, alone) = _in_turns(plan, way, loads, 32)
    inside = f"in process, {way.name}"
    name, off = "32 clients, one sentence each", "batching off"
    unpadded = f"{name}, no padding declared"
    yield _cpu(group, name, ours, work, inside, at_most(1.10))
    for what, rate, least, beside, goal in (
        (name, ours.rate, alone.rate, off, at_least(1.5)),
        (name, ours.rate, work.rate, inside, None),
        (f"{inside}, the most that batching can give", work.rate, alone.rate, off, None),
        (unpadded, by_shape.rate, alone.rate, off, at_least(1.0)),
    ):
        yield Row(group, f"{what}: rate", rate, "rows/s", least, beside, goal)
    yield _cpu(group, unpadded, by_shape, work, inside, None)
    yield Row(group, f"{name}: p99", ours.p99 * MILLI, "ms", alone.p99 * MILLI, off)
    yield from _one_client(plan, group, server, folder, "minilm", feeds)


def _efficientnet(plan: Plan, folder: Path, server: processes.Target) -> Iterator[Row]:
    group = "EfficientNet-Lite0"
    pictures = [{"image": efficientnet.preprocess(f.path)[None]} for f in photographs.FILES]
    feeds = [pictures[i % len(pictures)] for i in range(plan.count(128, 16))]
    way = best(folder / "efficientnet-lite0", feeds, inprocess.joined, (1, 2, 4, 16))
    requests = [wire.binary("efficientnet-lite0", picture) for picture in pictures]
    work, (ours,) = _in_turns(plan, way, [(server, requests)], 16)
    inside = f"in process, {way.name}"
    name = "16 clients, one image each"
    yield _cpu(group, name, ours, work, inside, at_most(1.08))
    yield Row(group, f"{name}: rate", ours.rate, "rows/s", work.rate, inside, at_least(0.90))
    yield Row(group, f"{name}: p99", ours.p99 * MILLI, "ms")
    yield from _one_client(plan, group, server, folder, "efficientnet-lite0", pictures)


def _cpu(
    group: str,
    name: str,
    ours: processes.Load,
    work: inprocess.Work,
    inside: str,
    goal: Goal | None,
) -> Row:
    cpu, least = ours.cpu * MILLI, work.cpu * MILLI
    return Row(group, f"{name}: server CPU", cpu, "ms/row", least, inside, goal)


def _one_client(
    plan: Plan,
    group: str,
    server: processes.Target,
    folder: Path,
    model: str,
    feeds: Sequence[inprocess.Feed],
) -> Iterator[Row]:
    session = inprocess.open_session(folder / model / "1" / "model.onnx", 1)
    bare = inprocess.measure(lambda feed: session.run(None, feed), feeds[:32], plan.seconds)
    load = processes.one_round(
        server, [wire.binary(model, feed) for feed in feeds[:32]], 1, plan.seconds
    )
    yield Row(
        group, "1 client, one row each: p50", load.p50 * MILLI, "ms",
        bare.p50 * MILLI, "session.run, one thread",
    )  # fmt: skip
