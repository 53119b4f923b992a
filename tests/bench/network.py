"""The 784-32-10 network: the model costs next to nothing, so what is seen is the server."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import inprocess
import numpy as np
import processes
import sockets
import wire
from plan import Plan
from table import Row, at_most, value_at_most
from zoo import digits

GROUP = "784-32-10"
MICRO = 1e6
IMAGES = 64
ANSWER_BYTES = 400
HEADS = 4096  # more than a server may remember
FLOOR = "floor"

GOALS = {
    ("binary", 32): at_most(1.7),
    ("binary", 1): at_most(1.4),
    ("JSON", 32): at_most(1.35),
    ("JSON", 1): at_most(1.35),
}


def rows(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    feeds = [{"image": np.ascontiguousarray(image[None])} for image in held_out.images[:IMAGES]]
    model = plan.network / "digits" / "1" / "model.onnx"
    session = inprocess.open_session(model, 1)
    bare = inprocess.measure(lambda feed: session.run(None, feed), feeds, plan.seconds)
    with ExitStack() as stack:
        server = stack.enter_context(processes.aiaas(plan.network))
        floor = stack.enter_context(processes.floor(plan.network))
        prototype = stack.enter_context(processes.prototype(model))
        echo = stack.enter_context(processes.echo())
        for form, write, beside in (
            ("binary", wire.binary, {FLOOR: floor, "ASGI prototype": prototype, "ASGI echo": echo}),
            ("JSON", wire.text, {FLOOR: floor, "ASGI prototype": prototype}),
        ):
            requests = [write("digits", feed) for feed in feeds]
            _check_answers(requests[0], [server, floor, prototype])
            for connections in (32, 1):
                ours, *others = processes.interleaved(
                    [(target, requests) for target in (server, *beside.values())],
                    connections, plan.seconds, plan.rounds,
                )  # fmt: skip
                found = dict(zip(beside, others, strict=True))
                yield from _rows(form, connections, ours, found, bare)
            yield _there_and_back(form, requests[0], plan)
            if form == "binary":
                yield _new_heads(requests[0], [server, floor], plan)


def _rows(
    form: str,
    connections: int,
    ours: processes.Load,
    found: dict[str, processes.Load],
    bare: inprocess.Cost,
) -> Iterator[Row]:
    name = f"{form}, {connections} conn"
    for kind, load in found.items():
        goal = GOALS[form, connections] if kind == FLOOR else None
        yield Row(
            GROUP, f"{name}: server CPU", ours.cpu * MICRO, "µs/request",
            load.cpu * MICRO, kind, goal,
        )  # fmt: skip
    least = found[FLOOR]
    yield Row(GROUP, f"{name}: rate", ours.rate, "requests/s", least.rate, FLOOR)
    yield Row(GROUP, f"{name}: p99", ours.p99 * MICRO, "µs", least.p99 * MICRO, FLOOR)
    if connections == 1:
        added, beside = ours.p50 - bare.p50, least.p50 - bare.p50
        yield Row(
            GROUP, f"{name}: p50 added to session.run", added * MICRO, "µs",
            beside * MICRO, FLOOR, value_at_most(60) if form == "binary" else None,
        )  # fmt: skip


def _new_heads(request: bytes, targets: Sequence[processes.Target], plan: Plan) -> Row:
    """As behind a balancer that numbers what it passes on: nothing in a head can be remembered."""
    requests = [
        wire.with_header(request, b"x-amzn-trace-id: Root=1-%08x-%024x" % (number, number))
        for number in range(plan.count(HEADS, 64))
    ]
    ours, least = processes.interleaved(
        [(target, requests) for target in targets], 32, plan.seconds, plan.rounds
    )
    return Row(
        GROUP, "binary, 32 conn, each head new: server CPU", ours.cpu * MICRO, "µs/request",
        least.cpu * MICRO, FLOOR,
    )  # fmt: skip


def _check_answers(request: bytes, targets: Sequence[processes.Target]) -> None:
    """See that the first of `targets` does the same work as those it is compared with.

    Raises:
        AssertionError: One answered something else.
    """
    ours, *others = (wire.outputs(target.ask(request)) for target in targets)
    for theirs in others:
        assert list(theirs) == list(ours)
        for name, array in ours.items():
            np.testing.assert_allclose(theirs[name], array, rtol=1e-4)


def _there_and_back(form: str, request: bytes, plan: Plan) -> Row:
    """What waking two processes up costs, which no server can do without."""
    with sockets.copying() as copy:
        times = [copy.seconds(request, ANSWER_BYTES) for _ in range(plan.count(4_000, 50))]
    name = f"{form}, 1 conn: p50 of raw sockets, there and back"
    return Row(GROUP, name, statistics.median(times) * MICRO, "µs")
