"""The 784-32-10 network: the model costs next to nothing, so what is seen is the server."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack

import inprocess
import numpy as np
import processes
import sockets
import wire
from plan import Plan
from table import Goal, Row, at_most, value_at_most
from zoo import digits

GROUP = "784-32-10"
MICRO = 1e6
IMAGES = 64
ANSWER_BYTES = 400

GOALS: dict[str, dict[str, Goal]] = {
    # Where the prototype costs 26 and 49 µs, 32 and 60 are to be reached.
    "binary": {"bytes": at_most(2.0), "prototype": at_most(32 / 26)},
    "JSON": {"json": at_most(1.3), "prototype": at_most(60 / 49)},
}
NAMES = {
    "bytes": "ASGI echo",
    "json": "echo + orjson there and back + array",
    "short": "the same, ten numbers back",
    "prototype": "prototype",
}


def rows(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    feeds = [{"image": np.ascontiguousarray(image[None])} for image in held_out.images[:IMAGES]]
    model = plan.network / "digits" / "1" / "model.onnx"
    session = inprocess.open_session(model, 1)
    bare = inprocess.measure(lambda feed: session.run(None, feed), feeds, plan.seconds)
    forms = {"binary": wire.binary, "JSON": wire.text}
    with ExitStack() as stack:
        server = stack.enter_context(processes.aiaas(plan.network))
        beside = {
            "bytes": stack.enter_context(processes.echo("bytes")),
            "json": stack.enter_context(processes.echo("json")),
            "short": stack.enter_context(processes.echo("short")),
            "prototype": stack.enter_context(processes.prototype(model)),
        }
        for form, write in forms.items():
            requests = [write("digits", feed) for feed in feeds]
            kinds = ["bytes", "prototype"] if form == "binary" else list(beside)
            for connections in (32, 1):
                targets = [(server, requests)]
                targets += [(beside[kind], requests) for kind in kinds]
                ours, *others = processes.interleaved(
                    targets, connections, plan.seconds, plan.rounds
                )
                found = dict(zip(kinds, others, strict=True))
                yield from _rows(form, connections, ours, found, bare)
            yield _there_and_back(form, requests[0], plan)


def _rows(
    form: str,
    connections: int,
    ours: processes.Load,
    found: dict[str, processes.Load],
    bare: inprocess.Cost,
) -> Iterator[Row]:
    name = f"{form}, {connections} conn"
    goals = GOALS[form] if connections == 32 else {}
    for kind, load in found.items():
        yield Row(
            GROUP, f"{name}: server CPU", ours.cpu * MICRO, "µs/request",
            load.cpu * MICRO, NAMES[kind], goals.get(kind),
        )  # fmt: skip
    least = found["bytes"]
    yield Row(GROUP, f"{name}: rate", ours.rate, "requests/s", least.rate, NAMES["bytes"])
    yield Row(GROUP, f"{name}: p99", ours.p99 * MICRO, "µs", least.p99 * MICRO, NAMES["bytes"])
    if connections == 1:
        goals = {"bytes": value_at_most(60)} if form == "binary" else {}
        for kind in ("bytes", "prototype"):
            added, beside = ours.p50 - bare.p50, found[kind].p50 - bare.p50
            yield Row(
                GROUP, f"{name}: p50 added to session.run", added * MICRO, "µs",
                beside * MICRO, NAMES[kind], goals.get(kind),
            )  # fmt: skip


def _there_and_back(form: str, request: bytes, plan: Plan) -> Row:
    """What waking two processes up costs, which no server can do without."""
    with sockets.copying() as copy:
        times = [copy.seconds(request, ANSWER_BYTES) for _ in range(plan.count(4_000, 50))]
    name = f"{form}, 1 conn: p50 of raw sockets, there and back"
    return Row(GROUP, name, statistics.median(times) * MICRO, "µs")
