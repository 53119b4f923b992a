"""What each default feature adds to a request for the 784-32-10 network.

"By difference" is the server's CPU under load of 32 connections, with the feature against without
it, in turns. "Its calls" is a loop over the functions that do it. "In process" are connections
without sockets, on which requests come from memory.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pieces
import processes
import uvloop
import wire
from plan import Plan
from table import Goal, Row
from unplugged import Connections
from zoo import digits

from aiaas_server.app import create_app
from aiaas_server.settings import Settings

GROUP = "features"
MICRO = 1e6


def rows(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    inputs = {"image": np.ascontiguousarray(held_out.images[:1])}
    request = wire.binary("digits", inputs)
    yield from _by_difference(plan, request)
    yield from uvloop.run(_by_calls(plan, request))


def _by_difference(plan: Plan, request: bytes) -> Iterator[Row]:
    keyed = request.replace(b"\r\n", b"\r\nauthorization: Bearer %s\r\n" % pieces.KEY.encode(), 1)
    stock = [sys.executable, str(Path(__file__).with_name("stock.py")), str(plan.network)]
    with ExitStack() as stack:
        plain = stack.enter_context(processes.aiaas(plan.network))
        with_key = stack.enter_context(processes.aiaas(plan.network, api_key=pieces.KEY))
        logged = stack.enter_context(processes.aiaas(plan.network, access_log=True))
        on_stock = stack.enter_context(processes.started("stock uvicorn", stock))
        found = processes.interleaved(
            [(plain, [request]), (with_key, [keyed]), (logged, [request]), (on_stock, [request])],
            32, plan.seconds, plan.rounds,
        )  # fmt: skip
    base, key, log, asgi = (load.cpu * MICRO for load in found)
    yield _row("key check, off by default (by difference)", key - base, base)
    yield _row("access log, off by default (by difference)", log - base, base)
    yield _row("uvicorn's own protocol instead of ours (by difference)", asgi - base, base)


def _row(name: str, cost: float, whole: float, goal: Goal | None = None) -> Row:
    return Row(GROUP, name, cost, "µs/request", whole, "the whole request", goal)


async def _by_calls(plan: Plan, request: bytes) -> list[Row]:
    async with create_app(Settings(models=plan.network)) as app:
        one = await pieces.served(app, "digits", request)
        inputs = one.request.inputs
        alone, crowd = Connections(app, 1), Connections(app, 32)
        single = await _each(lambda: alone.ask(request), plan.seconds) * MICRO
        whole = await _each(lambda: crowd.ask(request), plan.seconds) / 32 * MICRO
        infer = await _each(lambda: one.model.infer(inputs), plan.seconds) * MICRO
        found = [
            _row(f"{piece.name} (its calls)", piece.seconds() * MICRO, whole, piece.goal)
            for piece in pieces.pieces(one)
        ]
    return [
        *found,
        _row("checked, run alone, counted (in process)", infer, single),
        Row(GROUP, "the whole request, one at a time (in process)", single, "µs"),
        Row(GROUP, "the whole request, 32 in a turn (in process)", whole, "µs"),
    ]


async def _each(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    """CPU seconds of one call: the least mean of some."""
    found: list[float] = []
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        began = time.process_time()
        for _ in range(100):
            await call()
        found.append((time.process_time() - began) / 100)
    return min(found)
