"""What each default feature adds to a request for the 784-32-10 network.

"By difference" is the server's CPU under load of 32 connections, with the feature against without
it, in turns. "Its calls" is a loop over the functions that do it, with what they get in a request;
a loop has warm caches, so that these figures are lower bounds. "In process" is the application
called without sockets, one request at a time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import inprocess
import numpy as np
import processes
import uvloop
import wire
from plan import Plan
from table import Row
from zoo import digits

from aiaas_client.protocol.plans import RequestDecoder
from aiaas_server.app import Application, create_app
from aiaas_server.core.statistics import Statistics
from aiaas_server.http.auth import KeyCheck
from aiaas_server.http.fastjson import FAST_JSON
from aiaas_server.http.head import deadline_seconds, read_headers, request_id_of
from aiaas_server.settings import Settings

GROUP = "features"
MICRO = 1e6
KEY = "a-key-for-the-benchmark-of-some-length"


def rows(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    inputs = {"image": np.ascontiguousarray(held_out.images[:1])}
    request = wire.binary("digits", inputs)
    yield from _by_difference(plan, request)
    yield from uvloop.run(_pieces(plan, request, inputs))


def _by_difference(plan: Plan, request: bytes) -> Iterator[Row]:
    keyed = request.replace(b"\r\n", b"\r\nauthorization: Bearer %s\r\n" % KEY.encode(), 1)
    unlimited = {"max_connections_per_address": 0}
    stock = [sys.executable, str(Path(__file__).with_name("stock.py")), str(plan.network)]
    with ExitStack() as stack:
        plain = stack.enter_context(processes.aiaas(plan.network))
        with_key = stack.enter_context(processes.aiaas(plan.network, api_key=KEY))
        logged = stack.enter_context(processes.aiaas(plan.network, access_log=True))
        open_to_one = stack.enter_context(processes.aiaas(plan.network, **unlimited))
        without_edge = stack.enter_context(processes.started("stock uvicorn", stock))
        found = processes.interleaved(
            [
                (plain, [request]), (with_key, [keyed]), (logged, [request]),
                (open_to_one, [request]), (without_edge, [request]),
            ],
            32, plan.seconds, 2 * plan.rounds,
        )  # fmt: skip
    base, key, log, address, edge = (load.cpu * MICRO for load in found)
    yield _row("HTTP edge: limits, timeouts, strictness (by difference)", base - edge, base)
    yield _row("connections an address limited (by difference)", base - address, base)
    yield _row("key check, off by default (by difference)", key - base, base)
    yield _row("access log, off by default (by difference)", log - base, base)


def _row(name: str, cost: float, whole: float) -> Row:
    return Row(GROUP, name, cost, "µs/request", whole, "the whole request")


async def _pieces(plan: Plan, request: bytes, inputs: inprocess.Feed) -> list[Row]:
    settings = Settings(models=plan.network)
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]
    listed = [(name, value) for name, value in lines]
    scope = {
        "type": "http", "method": "POST", "path": "/v2/models/digits/infer",
        "raw_path": b"/v2/models/digits/infer", "query_string": b"", "headers": listed,
        "client": ("127.0.0.1", 1), "extensions": {"aiaas.cancel_on_disconnect": {}},
    }  # fmt: skip
    headers = read_headers(scope)
    keyed = {**headers, b"authorization": b"Bearer " + KEY.encode()}
    length = int(headers[b"inference-header-content-length"])
    decoder, counts, check = RequestDecoder(json=FAST_JSON), Statistics(), KeyCheck(KEY)
    session = inprocess.open_session(plan.network / "digits" / "1" / "model.onnx", 1)
    clock = asyncio.get_running_loop().time

    def deadline() -> float:
        return clock() + deadline_seconds(headers, settings.default_deadline, settings.max_deadline)

    def counted() -> None:
        counts.executed(1, 1000, 4000, 1000)
        counts.succeeded(1, 20_000, 1000, 1000, 4000, 1000)

    async with create_app(settings) as app:
        model = app.pool.resolve("digits", None)
        signature = model.signature
        whole = await _each_async(lambda: _call(app, scope, body), plan.seconds)
        bare = await _each_async(lambda: model.infer(inputs), plan.seconds)
        until = clock() + 3600.0
        timed = await _each_async(lambda: model.infer(inputs, deadline=until), plan.seconds)
        pieces: list[tuple[str, Callable[[], object]]] = [
            ("validation of names, types, shapes (its calls)",
             lambda: (signature.check(inputs), signature.select(()))),
            ("statistics and metrics (its calls)", counted),
            ("request id (its calls)", lambda: request_id_of(headers)),
            ("deadline read from the header (its calls)", deadline),
            ("key check, off by default (its calls)", lambda: check.check(scope, keyed)),
            ("headers in one pass (its calls)", lambda: read_headers(scope)),
            ("body decoded (its calls)", lambda: decoder.decode(body, length)),
            ("model found (its calls)", lambda: app.pool.resolve("digits", None)),
            ("session.run (its calls)", lambda: session.run(None, inputs)),
        ]  # fmt: skip
        rows = [_row(name, _each(call) * MICRO, whole * MICRO) for name, call in pieces]
    rows.append(_row("deadline kept (in process, by difference)", (timed - bare) * MICRO,
                     whole * MICRO))  # fmt: skip
    rows.append(_row("checked, queued, run, counted (in process)", bare * MICRO, whole * MICRO))
    rows.append(Row(GROUP, "the whole request without HTTP (in process)", whole * MICRO, "µs"))
    return rows


async def _call(app: Application, scope: dict[str, Any], body: bytes) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"answered {message['status']}")

    await app({**scope}, receive, send)


def _each(call: Callable[[], object], times: int = 5_000) -> float:
    """CPU seconds of one call: the best of some rounds."""
    found = []
    for _ in range(5):
        began = time.thread_time()
        for _ in range(times):
            call()
        found.append((time.thread_time() - began) / times)
    return min(found)


async def _each_async(call: Callable[[], Awaitable[object]], seconds: float) -> float:
    found: list[float] = []
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        began = time.process_time()
        for _ in range(200):
            await call()
        found.append((time.process_time() - began) / 200)
    return min(found)
