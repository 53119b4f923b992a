"""The client's ways of calling, each with the others: transports, addresses, hedges, bulk, streams.

Real servers answer: two that are equal, behind a list of addresses whose first is dead. Nothing may
hang, no answer may be lost, given twice, or given to another's question.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import numpy as np
import pytest

from aiaas_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    RetryPolicy,
    ServerDeadlineError,
)
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.ports import dead_address
from tests.server.http.serving import serving

OWN = pytest.param("own httpx2", marks=pytest.mark.slow)
THREADS = ("httpx2", "urllib3", "httpx", OWN, "local")
TASKS = ("httpx2", "aiohttp", "httpx", OWN, "local")
LATE = (DeadlineExceededError, ServerDeadlineError)  # found by either side
# Hedges come out of the same budget as retries: after 1 ms each, they would leave none for those.
QUICK = RetryPolicy(max_retries=3, initial_backoff=0.01, max_backoff=0.05, budget_reserve=1000)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace) -> Path:
    """Models: `lookup` gives ten times its index, and fails outside -10..9; `busy` takes long."""
    found = tmp_path_factory.mktemp("models")
    for name in ("lookup", "busy"):
        (found / name / "1").mkdir(parents=True)
        (found / name / "1" / "model.onnx").write_bytes(getattr(onnx_models, name)())
    return found


@pytest.fixture(scope="module")
def urls(root: Path) -> Iterator[list[str]]:
    """A dead address and two servers."""
    with ExitStack() as opened:
        dead = f"http://{opened.enter_context(dead_address())}"
        servers = [opened.enter_context(serving(create_app(Settings(models=root)))) for _ in "ab"]
        yield [dead, *(server.url for server in servers)]


@contextmanager
def client_of(kind: str, urls: list[str], root: Path, **options: Any) -> Iterator[Client]:
    """A client for threads."""
    with ExitStack() as opened:
        if kind == "local":
            yield opened.enter_context(Client.local(root))
            return
        library = {"httpx": httpx, "own httpx2": httpx2}.get(kind)
        if library is None:
            options["backend"] = kind
        else:
            options["http_client"] = opened.enter_context(library.Client())
        yield opened.enter_context(Client(urls, retry=QUICK, **options))


@asynccontextmanager
async def async_client_of(
    kind: str, urls: list[str], root: Path, **options: Any
) -> AsyncIterator[AsyncClient]:
    """A client for tasks."""
    if kind == "local":
        async with AsyncClient.local(root) as client:
            yield client
        return
    library = {"httpx": httpx, "own httpx2": httpx2}.get(kind)
    if library is None:
        async with AsyncClient(urls, retry=QUICK, backend=kind, **options) as client:
            yield client
        return
    async with (
        library.AsyncClient() as own,
        AsyncClient(urls, retry=QUICK, http_client=own, **options) as client,
    ):
        yield client


MODES = (
    pytest.param({}, id="plain", marks=pytest.mark.slow),
    pytest.param({"hedge_after": 0.001}, id="hedged"),
    pytest.param({"hedge_after": 0.001, "breaker": None}, id="no breaker", marks=pytest.mark.slow),
)
ITEMS = 300
BAD = (7, 150, 299)


def items() -> Iterator[np.ndarray[Any, Any]]:
    """Indices, three of them of no row."""
    for number in range(ITEMS):
        yield np.array([99 if number in BAD else number % 10], np.int64)


def check_all(results: list[Any]) -> None:
    """One result an item, in order, each its own."""
    assert len(results) == ITEMS
    for number, result in enumerate(results):
        if number in BAD:
            assert isinstance(result, Exception), (number, result)
        else:
            assert result["value"].tolist() == [10.0 * (number % 10)], (number, result)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", THREADS)
def test_threads_bulk_keeps_every_answer(
    kind: str, mode: dict[str, Any], urls: list[str], root: Path
) -> None:
    with client_of(kind, urls, root, **mode) as client:
        model = client.model("lookup")
        check_all(list(model.infer_many(items(), on_error="return", max_rows=8)))
        many = model.infer_many(items(), on_error="return", max_rows=8)
        for _ in range(3):
            next(many)
        many.close()  # what is on its way is waited for, and nothing is left
        assert model.infer(index=np.array([[3]]))["value"].tolist() == [[30.0]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TASKS)
async def test_tasks_bulk_keeps_every_answer(
    kind: str, mode: dict[str, Any], urls: list[str], root: Path
) -> None:
    async with async_client_of(kind, urls, root, **mode) as client:
        model = client.model("lookup")
        many = model.infer_many(items(), on_error="return", max_rows=8)
        check_all([one async for one in many])
        many = model.infer_many(items(), on_error="return", max_rows=8)
        async for _ in many:
            break
        await many.aclose()
        assert (await model.infer(index=np.array([[3]])))["value"].tolist() == [[30.0]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", THREADS)
def test_threads_share_a_batcher_whose_callers_leave(
    kind: str, mode: dict[str, Any], urls: list[str], root: Path
) -> None:
    with (
        client_of(kind, urls, root, **mode) as client,
        client.model("lookup").batcher(max_rows=4) as batcher,
    ):
        futures = [batcher.submit(index=np.array([n % 10])) for n in range(90)]
        for future in futures[::3]:
            future.cancel()
        with suppress(Exception):
            batcher.submit(index=np.array([99])).result(30)
        for number, future in enumerate(futures):
            if not future.cancelled():
                assert future.result(30)["value"].tolist() == [10.0 * (number % 10)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", TASKS)
async def test_tasks_share_a_batcher_whose_callers_leave(
    kind: str, mode: dict[str, Any], urls: list[str], root: Path
) -> None:
    async with (
        async_client_of(kind, urls, root, **mode) as client,
        client.model("lookup").batcher(max_rows=4) as batcher,
    ):
        tasks = [
            asyncio.create_task(batcher.infer_one(index=np.array([n % 10]))) for n in range(90)
        ]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        async with asyncio.timeout(120):
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number % 3:
                assert answer["value"].tolist() == [10.0 * (number % 10)]  # type: ignore[index]


@pytest.mark.parametrize("kind", THREADS)
def test_threads_streams_left_early_leave_nothing(kind: str, urls: list[str], root: Path) -> None:
    with client_of(kind, urls, root, hedge_after=0.001) as client:
        model = client.model("lookup")
        for number in range(20):
            stream = model.generate_stream({"index": [number % 10]})
            if number % 2:
                assert next(iter(stream))["value"] == 10.0 * (number % 10)
            stream.close()
        assert model.infer(index=np.array([[3]]))["value"].tolist() == [[30.0]]


@pytest.mark.parametrize("kind", TASKS)
async def test_tasks_streams_left_early_leave_nothing(
    kind: str, urls: list[str], root: Path
) -> None:
    async with async_client_of(kind, urls, root, hedge_after=0.001) as client:
        model = client.model("lookup")
        for number in range(20):
            stream = model.generate_stream({"index": [number % 10]})
            if number % 2:
                async for document in stream:
                    assert document["value"] == 10.0 * (number % 10)
                    break
            await stream.aclose()
        assert (await model.infer(index=np.array([[3]])))["value"].tolist() == [[30.0]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", THREADS[:4])
@pytest.mark.parametrize("mode", MODES)
def test_threads_keep_their_deadlines(
    kind: str, mode: dict[str, Any], urls: list[str], root: Path
) -> None:
    steps = np.array([50_000_000])
    with client_of(kind, urls, root, **mode) as client:
        short = client.with_options(deadline=0.5)

        def ask(_: int) -> None:
            with pytest.raises(LATE):
                short.model("busy").infer(steps=steps)

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(ask, range(6)))
        assert client.model("lookup").infer(index=np.array([[3]]))["value"].tolist() == [[30.0]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("mode", MODES)
async def test_tasks_keep_their_deadlines(
    kind: str, mode: dict[str, Any], urls: list[str], root: Path
) -> None:
    steps = np.array([50_000_000])
    async with async_client_of(kind, urls, root, **mode) as client:
        short = client.with_options(deadline=0.5)
        calls = [short.model("busy").infer(steps=steps) for _ in range(6)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, LATE) for answer in answers), answers
        found = await client.model("lookup").infer(index=np.array([[3]]))
        assert found["value"].tolist() == [[30.0]]


@pytest.mark.parametrize("kind", ["httpx2", "urllib3", "httpx"])
def test_a_server_that_stops_in_the_middle_costs_no_item(kind: str, root: Path) -> None:
    results = []
    with ExitStack() as stays, ExitStack() as goes:
        other = stays.enter_context(serving(create_app(Settings(models=root))))
        first = goes.enter_context(serving(create_app(Settings(models=root)), edge=False))
        client = stays.enter_context(client_of(kind, [first.url, other.url], root))
        many = client.model("lookup").infer_many(items(), on_error="return", max_rows=2)
        for one in many:
            results.append(one)
            if len(results) == 20:
                goes.close()  # while eight requests are on their way
    check_all(results)
