"""The 784-32-10 network: the model costs next to nothing, so what is seen is the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import inprocess
import numpy as np
import processes
import wire
from table import Row
from zoo import digits

MICRO = 1e6


def rows(models: Path, seconds: float, rounds: int) -> Iterator[Row]:
    _, held_out = digits.load()
    inputs = {"image": np.ascontiguousarray(held_out.images[:1])}
    session = inprocess.open_session(models / "digits" / "1" / "model.onnx")
    bare = inprocess.measure(lambda x: session.run(None, x), [inputs], seconds)
    requests = {"binary": wire.binary("digits", inputs), "JSON": wire.text("digits", inputs)}
    with processes.aiaas(models) as server, processes.echo() as echo:
        for form, request in requests.items():
            for connections in (1, 32):
                plan = [(server, [request]), (echo, [request])]
                ours, least = processes.interleaved(plan, connections, seconds, rounds)
                yield from _rows(f"{form}, {connections} conn", ours, least, bare)
        yield Row("784-32-10", "resident memory after load", server.rss() / 1e6, "MB")


def _rows(
    name: str, ours: processes.Load, least: processes.Load, bare: inprocess.Cost
) -> Iterator[Row]:
    group = "784-32-10"
    cpu, echo_cpu, run_cpu = ours.cpu * MICRO, least.cpu * MICRO, bare.cpu * MICRO
    yield Row(group, f"{name}: server CPU", cpu, "µs/request", echo_cpu, "ASGI echo")
    yield Row(group, f"{name}: server CPU", cpu, "µs/request", run_cpu, "session.run")
    yield Row(group, f"{name}: rate", ours.rate, "requests/s", least.rate, "ASGI echo")
    yield Row(group, f"{name}: p50", ours.p50 * MICRO, "µs", least.p50 * MICRO, "ASGI echo")
    yield Row(group, f"{name}: p99", ours.p99 * MICRO, "µs", least.p99 * MICRO, "ASGI echo")
