"""Many models and many connections: the CPU of a request is to stay what it is for few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import graphs
import inprocess
import numpy as np
import processes
import wire
from plan import Plan
from table import Row, at_most
from zoo import digits

MODELS = "loaded models"
CONNECTIONS = "connections"
MICRO = 1e6


def rows(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    inputs = {"image": np.ascontiguousarray(held_out.images[:1])}
    yield from _models(plan, inputs)
    yield from _connections(plan, inputs)


def _models(plan: Plan, inputs: dict[str, np.ndarray]) -> Iterator[Row]:
    """Requests to one of the loaded models, and to all of them in turn.

    In turn, 32 connections seldom have two requests for one model: no batch forms, and each
    request finds another session's memory cold. What of that is the model's own stands beside:
    the floor, and the sessions alone.
    """
    counts = plan.count(100, 3), plan.count(1_000, 10)
    facts: list[Row] = []
    with ExitStack() as stack:
        targets: list[tuple[processes.Target, list[bytes]]] = []
        for count in (1, *counts):
            folder = plan.work / f"models-{count}"
            names = graphs.copies(plan.network / "digits", folder, count)
            requests = [wire.binary(name, inputs) for name in names]
            server = stack.enter_context(processes.aiaas(folder, patience=240.0))
            floor = stack.enter_context(processes.floor(folder))
            targets += [(server, requests), (floor, requests)]
            if count > 1:
                targets.append((server, requests[:1]))
                memory, start = server.rss() / 1e6, server.start_seconds
                facts.append(Row(MODELS, f"{count:,} models: resident memory", memory, "MB"))
                facts.append(Row(MODELS, f"{count:,} models: start to ready", start, "s"))
        found = processes.interleaved(targets, 32, plan.seconds, plan.rounds)
    alone, floor_alone, *others = [load.cpu * MICRO for load in found]
    model = plan.network / "digits" / "1" / "model.onnx"
    for count, seen, goal in zip(
        counts, (others[:3], others[3:]), (at_most(1.6), None), strict=True
    ):
        in_turn, floor_in_turn, one_called = seen
        bare = inprocess.in_turn(model, count, inputs, plan.seconds) * MICRO
        for what, value, beside, beside_what, row_goal in (
            ("one called", one_called, alone, "1 model", at_most(1.15)),
            ("called in turn", in_turn, alone, "1 model", goal),
            ("called in turn", in_turn, floor_in_turn, "floor", None),
            ("called in turn", in_turn, bare, "session.run, in turn", None),
            ("called in turn, floor", floor_in_turn, floor_alone, "1 model, floor", None),
        ):
            name = f"{count:,} models, {what}: server CPU"
            yield Row(MODELS, name, value, "µs/request", beside, beside_what, row_goal)
    yield from facts


def _connections(plan: Plan, inputs: dict[str, np.ndarray]) -> Iterator[Row]:
    """A thousand connections with a request in flight on each, against a hundred."""
    few, many = plan.count(100, 20), plan.count(1_000, 200)
    request = [wire.binary("digits", inputs)]
    with (
        processes.aiaas(plan.network, **processes.CROWD) as server,
        processes.floor(plan.network) as floor,
    ):
        turns = [(target, count) for target in (server, floor) for count in (few, many)]
        loads = [
            [
                processes.one_round(target, request, count, 2 * plan.seconds)
                for target, count in turns
            ]
            for _ in range(plan.rounds)
        ]
    best = [processes.best(seen).cpu * MICRO for seen in zip(*loads, strict=True)]
    ours_few, ours, floor_few, least = best
    name, before = f"{many:,} connections", f"{few:,} connections"
    for what, value, beside, beside_what, goal in (
        (name, ours, ours_few, before, at_most(1.15)),
        (name, ours, least, "floor", None),
        (f"{name}, floor", least, floor_few, f"{before}, floor", None),
    ):
        yield Row(
            CONNECTIONS, f"{what}: server CPU", value, "µs/request", beside, beside_what, goal
        )
