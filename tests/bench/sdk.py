"""The SDK's own cost: CPU of the calling process for one call, beside a bare transport call.

The bare call sends the same request bytes to the same server through `httpx2`'s transport, reads
the answer, and does nothing else.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import processes
import wire
from table import Row
from zoo import digits

from aiaas_client import AsyncClient, Client

MICRO = 1e6


def rows(network: Path, seconds: float, rounds: int) -> Iterator[Row]:
    """Args: `network`, a repository with the model `digits`."""
    _, held_out = digits.load()
    image = np.ascontiguousarray(held_out.images[:1])
    with processes.aiaas(network) as server:
        url = f"http://127.0.0.1:{server.port}"
        ours, bare = _sync(url, image, seconds, rounds)
        yield Row("SDK", "Client, one row: CPU", ours, "µs/call", bare, "httpx2 transport")
        for tasks in (1, 16):
            ours, bare = asyncio.run(_async(url, image, tasks, seconds, rounds))
            name = f"AsyncClient, {tasks} in flight: CPU"
            yield Row("SDK", name, ours, "µs/call", bare, "httpx2 transport")
    with Client.local(network) as client:
        model = client.model("digits")
        local = _repeat(lambda: model.infer(image=image), seconds)
        yield Row("SDK", "Client.local, one row: CPU", local * MICRO, "µs/call")


def _sync(url: str, image: np.ndarray, seconds: float, rounds: int) -> tuple[float, float]:
    request = _request(url, image)
    ours, bare = [], []
    with Client(url) as client, httpx2.HTTPTransport() as transport:
        model = client.model("digits")
        for _ in range(rounds):
            ours.append(_repeat(lambda: model.infer(image=image), seconds))
            bare.append(_repeat(lambda: transport.handle_request(request()).read(), seconds))
    return statistics.median(ours) * MICRO, statistics.median(bare) * MICRO


async def _async(
    url: str, image: np.ndarray, tasks: int, seconds: float, rounds: int
) -> tuple[float, float]:
    request = _request(url, image)
    ours, bare = [], []
    async with AsyncClient(url) as client, httpx2.AsyncHTTPTransport() as transport:
        model = client.model("digits")

        async def bare_call() -> None:
            await (await transport.handle_async_request(request())).aread()

        for _ in range(rounds):
            ours.append(await _repeat_async(lambda: model.infer(image=image), tasks, seconds))
            bare.append(await _repeat_async(bare_call, tasks, seconds))
    return statistics.median(ours) * MICRO, statistics.median(bare) * MICRO


def _request(url: str, image: np.ndarray) -> Callable[[], httpx2.Request]:
    head, _, body = wire.binary("digits", {"image": image}).partition(b"\r\n\r\n")
    headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")[1:]]
    target = f"{url}/v2/models/digits/infer"
    return lambda: httpx2.Request("POST", target, headers=headers, content=body)


def _repeat(call: Callable[[], object], seconds: float) -> float:
    call()
    count, cpu, until = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < until:
        call()
        count += 1
    return (time.process_time() - cpu) / count


async def _repeat_async(call: Callable[[], Awaitable[object]], tasks: int, seconds: float) -> float:
    await call()
    cpu, until = time.process_time(), time.perf_counter() + seconds

    async def one_task() -> int:
        count = 0
        while time.perf_counter() < until:
            await call()
            count += 1
        return count

    counts = await asyncio.gather(*(one_task() for _ in range(tasks)))
    return (time.process_time() - cpu) / sum(counts)
