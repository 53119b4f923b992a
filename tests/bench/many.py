"""Many models and many connections: the CPU of a request is to stay what it is for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import graphs
import inprocess
import numpy as np
import processes
import wire
from plan import Plan
from table import Goal, Row, at_most
from zoo import digits

GROUP = "loaded models"
MICRO = 1e6
WITHIN = at_most(1.15)


def rows(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    inputs = {"image": np.ascontiguousarray(held_out.images[:1])}
    yield from _models(plan, inputs)
    yield from _connections(plan, inputs)


def _models(plan: Plan, inputs: dict[str, np.ndarray]) -> Iterator[Row]:
    """Requests to one of the loaded models, and to all of them in turn.

    In turn, 32 connections seldom have two requests for one model: no batch forms, and each
    request finds another session's memory cold. That is the model's own cost, shown beside.
    """
    counts = [1, plan.count(100, 3), plan.count(1_000, 10)]
    with ExitStack() as stack:
        targets: list[tuple[processes.Target, list[bytes]]] = []
        facts: list[Row] = []
        for count in counts:
            folder = plan.work / f"models-{count}"
            names = graphs.copies(plan.network / "digits", folder, count)
            requests = [wire.binary(name, inputs) for name in names]
            server = stack.enter_context(processes.aiaas(folder, patience=240.0))
            targets += [(server, requests[:1]), (server, requests)]
            loaded, start = f"{count:,} models", server.start_seconds
            facts.append(Row(GROUP, f"{loaded}: resident memory", server.rss() / 1e6, "MB"))
            facts.append(Row(GROUP, f"{loaded}: start to ready", start, "s"))
        found = processes.interleaved(targets, 32, plan.seconds, plan.rounds)
    cpu = [load.cpu * MICRO for load in found]
    yield from _spread(GROUP, "models, one called", list(zip(counts, cpu[::2], strict=True)))
    turns = list(zip(counts, cpu[1::2], strict=True))
    yield from _spread(GROUP, "models, called in turn", turns)
    session = plan.network / "digits" / "1" / "model.onnx"
    for count, ours in turns:
        alone = inprocess.in_turn(session, count, inputs, plan.seconds) * MICRO
        name = f"{count:,} models, called in turn: server CPU"
        yield Row(GROUP, name, ours, "µs/request", alone, "session.run, in turn")
    yield from facts


def _connections(plan: Plan, inputs: dict[str, np.ndarray]) -> Iterator[Row]:
    counts = [1, 100, plan.count(1_000, 200)]
    request = [wire.binary("digits", inputs)]
    with processes.aiaas(plan.network, **processes.CROWD) as server, processes.echo() as echo:
        found, beside = [], []
        for count in counts:
            targets = [(server, request), (echo, request)]
            ours, least = processes.interleaved(targets, count, plan.seconds, plan.rounds)
            found.append((count, ours.cpu * MICRO))
            beside.append((count, least.cpu * MICRO))
    yield from _spread("connections", "connections", found)
    yield from _spread("connections", "connections, ASGI echo", beside, goal=None)


def _spread(
    group: str, what: str, found: Sequence[tuple[int, float]], goal: Goal | None = WITHIN
) -> Iterator[Row]:
    least = min(cpu for _, cpu in found)
    for count, cpu in found:
        name = f"{count:,} {what}: server CPU"
        yield Row(group, name, cpu, "µs/request", least, "the least of these", goal)
