"""Another client beside ours, against our server: CPU of the calling process for one call."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import processes
import sdk
from plan import Plan
from table import Goal, Row, at_most

from aiaas_client import AsyncClient, Client

GROUP = "peers"
TASKS = 16
Image = np.ndarray[Any, np.dtype[np.float32]]
Report = Callable[[str], None]


def rows(server: processes.Target, image: Image, plan: Plan, report: Report) -> Iterator[Row]:
    """A `tritonclient` and ours, in turns: synchronous calls, and many on an event loop."""
    if not _is_here("tritonclient.http"):
        report("tritonclient: skipped, it is not installed")
        return
    report("measuring tritonclient ...")
    yield from _threads(server, image, plan, report)
    yield from _tasks(server, image, plan, report)


def _threads(server: processes.Target, image: Image, plan: Plan, report: Report) -> Iterator[Row]:
    import tritonclient.http as triton  # type: ignore[import-untyped]  # it ships no types

    url = f"127.0.0.1:{server.port}"
    backends: dict[str, Goal | None] = {"httpx2": None}
    if _is_here("urllib3"):
        backends["urllib3"] = at_most(1.2)
    else:
        report("Client(backend='urllib3'): skipped, urllib3 is not installed")
    ours = {name: Client(f"http://{url}", backend=name) for name in backends}
    with triton.InferenceServerClient(url) as theirs:

        def call() -> object:
            answer = theirs.infer("digits", [_tensor(triton, image)])
            return answer.as_numpy("logits")

        ways = {name: _infers(client.model("digits"), image) for name, client in ours.items()}
        found = sdk.in_turns({**ways, "theirs": call}, plan)
    for client in ours.values():
        client.close()
    for name, goal in backends.items():
        what = f"Client(backend={name!r}), one row: CPU of the client"
        beside = found["theirs"], "tritonclient"
        yield Row(GROUP, what, found[name], "µs/call", *beside, goal)


def _tasks(server: processes.Target, image: Image, plan: Plan, report: Report) -> Iterator[Row]:
    if not _is_here("aiohttp"):
        report("AsyncClient(backend='aiohttp'): skipped, aiohttp is not installed")
        return
    found = asyncio.run(_on_a_loop(f"127.0.0.1:{server.port}", image, plan))
    what = f"AsyncClient(backend='aiohttp'), {TASKS} in flight: CPU of the client"
    beside = found["theirs"], "tritonclient, asyncio"
    yield Row(GROUP, what, found["ours"], "µs/call", *beside, at_most(1.1))


async def _on_a_loop(url: str, image: Image, plan: Plan) -> dict[str, float]:
    import tritonclient.http as tensors
    import tritonclient.http.aio as triton  # type: ignore[import-untyped]  # it ships no types

    async with (
        AsyncClient(f"http://{url}", backend="aiohttp") as ours,
        triton.InferenceServerClient(url) as theirs,
    ):
        model = ours.model("digits")

        async def call() -> object:
            answer = await theirs.infer("digits", [_tensor(tensors, image)])
            return answer.as_numpy("logits")

        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "ours": lambda: model.infer(image=image),
            "theirs": call,
        }
        return await sdk.in_turns_on_a_loop(ways, TASKS, plan)


def _infers(model: Any, image: Image) -> Callable[[], object]:
    return lambda: model.infer(image=image)


def _tensor(triton: Any, image: Image) -> Any:
    tensor = triton.InferInput("image", image.shape, "FP32")
    tensor.set_data_from_numpy(image)
    return tensor


def _is_here(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
