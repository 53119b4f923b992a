"""The SDK's own cost: CPU of the calling process for one call, beside a bare transport call.

The bare call sends the same request bytes to the same server through `httpx2`'s transport, reads
the answer, and does nothing else. The other libraries that can send stand beside theirs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import processes
import wire
from plan import Plan
from table import Row, at_most, value_at_most
from zoo import digits

from aiaas_client import AsyncClient, Client

GROUP = "SDK"
MICRO = 1e6
STRETCH = 160  # calls
BARE = "httpx2 transport"
Image = np.ndarray[Any, np.dtype[np.float32]]


def rows(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    image = np.ascontiguousarray(held_out.images[:1])
    with processes.aiaas(plan.network) as server:
        url = f"http://127.0.0.1:{server.port}"
        yield from _sync_rows(url, image, plan)
        for tasks in (1, 16):
            yield from _async_rows(url, image, tasks, plan)
    with Client.local(plan.network) as client:
        model = client.model("digits")
        rounds = [
            _repeat(lambda: model.infer(image=image), plan.seconds) for _ in range(plan.rounds)
        ]
        name = "Client.local, one row: CPU"
        yield Row(GROUP, name, min(rounds) * MICRO, "µs/call", None, "", value_at_most(60))


def _async_rows(url: str, image: Image, tasks: int, plan: Plan) -> Iterator[Row]:
    found = asyncio.run(_async(url, image, tasks, plan))
    name = f"{tasks} in flight: CPU"
    ours, bare = found["AsyncClient"], found["bare"]
    yield Row(GROUP, f"AsyncClient, {name}", ours, "µs/call", bare, BARE, at_most(1.4))
    if "aiohttp" not in found:
        return
    what = f"AsyncClient(backend='aiohttp'), {name}"
    for beside, beside_what, goal in (
        (ours, "AsyncClient", at_most(0.5)),
        (bare, BARE, None),
        (found["bare aiohttp"], "bare aiohttp", None),
    ):
        yield Row(GROUP, what, found["aiohttp"], "µs/call", beside, beside_what, goal)


def _sync_rows(url: str, image: Image, plan: Plan) -> Iterator[Row]:
    found = _sync(url, image, plan)
    ours, bare = found["Client"], found["bare"]
    yield Row(GROUP, "Client, one row: CPU", ours, "µs/call", bare, BARE, at_most(1.4))
    if "urllib3" not in found:
        return
    what = "Client(backend='urllib3'), one row: CPU"
    besides = ((ours, "Client"), (bare, BARE), (found["bare urllib3"], "bare urllib3"))
    for beside, beside_what in besides:
        yield Row(GROUP, what, found["urllib3"], "µs/call", beside, beside_what)


def _sync(url: str, image: Image, plan: Plan) -> dict[str, float]:
    """CPU of a call in microseconds: ours, the bare transport, both on urllib3 if it is here."""
    request = _request(url, image)
    with Client(url) as client, httpx2.HTTPTransport() as transport:
        model = client.model("digits")
        ways: dict[str, Callable[[], object]] = {
            "Client": lambda: model.infer(image=image),
            "bare": lambda: transport.handle_request(request()).read(),
        }
        if importlib.util.find_spec("urllib3") is None:
            return in_turns(ways, plan)
        import urllib3

        _, headers, body = _parts(image)
        target = f"{url}/v2/models/digits/infer"
        with Client(url, backend="urllib3") as other, urllib3.PoolManager() as pools:
            others = other.model("digits")
            ways["urllib3"] = lambda: others.infer(image=image)
            ways["bare urllib3"] = lambda: pools.request("POST", target, body, headers=headers)
            return in_turns(ways, plan)


def in_turns(ways: dict[str, Callable[[], object]], plan: Plan) -> dict[str, float]:
    """CPU of a call in microseconds, by way: turns close together share the machine's mood."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(plan.rounds):
        for name, call in ways.items():
            found[name].append(_repeat(call, plan.seconds))
    return {name: min(seconds) * MICRO for name, seconds in found.items()}


async def _async(url: str, image: Image, tasks: int, plan: Plan) -> dict[str, float]:
    """CPU of a call in microseconds: ours, the bare transport, both on aiohttp if it is here."""
    request = _request(url, image)
    async with AsyncClient(url) as client, httpx2.AsyncHTTPTransport() as transport:
        model = client.model("digits")

        async def bare() -> None:
            await (await transport.handle_async_request(request())).aread()

        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "AsyncClient": lambda: model.infer(image=image),
            "bare": bare,
        }
        if importlib.util.find_spec("aiohttp") is None:
            return await in_turns_on_a_loop(ways, tasks, plan)
        import aiohttp

        _, headers, body = _parts(image)

        async def bare_aiohttp() -> None:
            target = f"{url}/v2/models/digits/infer"
            async with session.post(target, headers=headers, data=body) as answer:
                await answer.read()

        async with (
            AsyncClient(url, backend="aiohttp") as other,
            aiohttp.ClientSession() as session,
        ):
            others = other.model("digits")
            ways["aiohttp"] = lambda: others.infer(image=image)
            ways["bare aiohttp"] = bare_aiohttp
            return await in_turns_on_a_loop(ways, tasks, plan)


async def in_turns_on_a_loop(
    ways: dict[str, Callable[[], Awaitable[object]]], tasks: int, plan: Plan
) -> dict[str, float]:
    """As `in_turns`, with so many tasks calling at the same time."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(plan.rounds):
        for name, call in ways.items():
            found[name].append(await _repeat_async(call, tasks, plan.seconds))
    return {name: min(seconds) * MICRO for name, seconds in found.items()}


def _parts(image: Image) -> tuple[bytes, dict[str, str], bytes]:
    head, _, body = wire.binary("digits", {"image": image}).partition(b"\r\n\r\n")
    lines = (line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    return head, {name: value for name, value in lines if name != "content-length"}, body


def _request(url: str, image: Image) -> Callable[[], httpx2.Request]:
    _, headers, body = _parts(image)
    target = f"{url}/v2/models/digits/infer"
    return lambda: httpx2.Request("POST", target, headers=headers, content=body)


def _repeat(call: Callable[[], object], seconds: float) -> float:
    """CPU seconds of a call: the least of stretches of some calls, as of the server's."""
    call()
    least, until = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        cpu = time.process_time()
        for _ in range(STRETCH):
            call()
        least = min(least, (time.process_time() - cpu) / STRETCH)
    return least


async def _repeat_async(call: Callable[[], Awaitable[object]], tasks: int, seconds: float) -> float:
    await call()
    least, until = math.inf, time.perf_counter() + seconds

    async def one_task() -> None:
        for _ in range(STRETCH // tasks):
            await call()

    while time.perf_counter() < until:
        cpu = time.process_time()
        await asyncio.gather(*(one_task() for _ in range(tasks)))
        least = min(least, (time.process_time() - cpu) / (STRETCH // tasks * tasks))
    return least
