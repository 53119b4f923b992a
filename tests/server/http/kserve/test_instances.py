"""Requests of many instances: how many are too many, and that nobody else waits for them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.garbage import settle, unsettle
from aiaas_server.http.kserve.answers import write_answers
from aiaas_server.http.slices import SLICE, in_slices
from tests.server.http.serving import Answer, AsgiCaller

OpenApp = Callable[..., Awaitable[AsgiCaller]]
MOODS = "/v1/models/moods:predict"
HEALTHY = 0.1  # seconds that one turn of the loop works, whatever else is asked


@pytest.fixture
def settled() -> Iterator[None]:
    """The collector as in a process that serves: not walking over all that was loaded before."""
    settle()
    yield
    unsettle()


async def beside_health(call: AsgiCaller, work: Awaitable[Answer]) -> tuple[Answer, float]:
    """The answer, and the most that the loop worked between two health checks meanwhile.

    Processor time of its thread: a busy machine adds nothing to it. The pause between two checks
    leaves the interpreter to the threads that the work has gone to.
    """
    task = asyncio.ensure_future(work)
    longest = 0.0
    while not task.done():
        began = time.thread_time()
        await asyncio.sleep(0.005)
        assert (await call("GET", "/v2/health/live")).status == 200
        longest = max(longest, time.thread_time() - began)
    return await task, longest


REQUESTS: dict[str, tuple[str, Any]] = {
    "instances": ("/v1/models/moods:predict", {"instances": ["good"] * 5}),
    "the simple form": ("/predict", {"text": ["good"] * 5}),
    "embeddings": ("/v1/embeddings", {"model": "vectors", "input": ["good"] * 5}),
    "token ids": ("/v1/embeddings", {"model": "vectors", "input": [[1, 2]] * 5}),
}


@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS.keys())
@pytest.mark.parametrize("most", [4, 5])
async def test_the_limit_is_told(
    repository: Path, open_app: OpenApp, path: str, body: Any, most: int
) -> None:
    call = await open_app(repository, max_instances=most)
    answer = await call("POST", path, body)
    assert answer.status == (200 if most == 5 else 400), answer.body
    if most == 4:
        text = answer.body.decode()
        assert "got 5, expected at most 4" in text
        assert "max_instances" in text


async def test_a_list_of_token_ids_is_one_input(repository: Path, open_app: OpenApp) -> None:
    call = await open_app(repository, max_instances=2)
    body = {"model": "vectors", "input": [2, 4, 4, 2]}
    assert (await call("POST", "/v1/embeddings", body)).status == 200


FLOODS: dict[str, tuple[str, Any]] = {
    "texts": ("/v1/models/moods:predict", {"instances": ["ab"] * 100_000}),
    "bad pictures": ("/v1/models/digits:predict", {"instances": ["no base64!"] * 60_000}),
    "the simple form": ("/predict", {"text": ["ab"] * 100_000}),
    "embeddings": ("/v1/embeddings", {"model": "vectors", "input": ["ab"] * 100_000}),
}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(("path", "body"), FLOODS.values(), ids=FLOODS.keys())
async def test_health_answers_beside_a_flood(
    repository: Path, open_app: OpenApp, path: str, body: Any
) -> None:
    call = await open_app(repository)
    answer, longest = await beside_health(call, call("POST", path, json.dumps(body).encode()))
    assert answer.status == 400
    assert longest < HEALTHY


@pytest.mark.usefixtures("settled")
async def test_health_answers_while_bad_instances_are_told_one_by_one(
    repository: Path, open_app: OpenApp
) -> None:
    call = await open_app(repository, max_instances=100_000)
    body = json.dumps({"instances": ["no base64!"] * 60_000}).encode()
    work = call("POST", "/v1/models/digits:predict", body)
    answer, longest = await beside_health(call, work)
    assert answer.status == 400
    assert "and 59999 more" in answer.json()["error"]
    assert longest < HEALTHY


@pytest.mark.usefixtures("settled")
async def test_health_answers_while_thousands_are_predicted(
    repository: Path, open_app: OpenApp
) -> None:
    call = await open_app(repository)
    body = json.dumps({"instances": ["good"] * 4096}).encode()
    answer, longest = await beside_health(call, call("POST", MOODS, body))
    assert answer.status == 200, answer.body
    assert len(answer.json()["predictions"]) == 4096
    assert longest < HEALTHY


async def test_instances_that_are_read_in_slices_keep_their_order(
    repository: Path, open_app: OpenApp
) -> None:
    call = await open_app(repository)
    picture = base64.b64encode(b"no picture").decode()
    instances = [picture, "no base64!"] * SLICE + ["no base64!"]
    good = {"instances": ["good film", "bad film"] * SLICE}
    answer = await call("POST", "/v1/models/digits:predict", {"instances": instances})
    assert answer.status == 400
    found = (await call("POST", "/v1/models/moods:predict", good)).json()["predictions"]
    assert [entry["label"] for entry in found] == ["positive", "negative"] * SLICE


async def test_vectors_that_are_written_in_slices_are_numbered_through(
    repository: Path, open_app: OpenApp
) -> None:
    call = await open_app(repository)
    texts = ["good", "tea", "bad"] * SLICE
    body = {"model": "vectors", "input": texts}
    document = (await call("POST", "/v1/embeddings", body)).json()
    assert [entry["index"] for entry in document["data"]] == list(range(len(texts)))
    first = [entry["embedding"] for entry in document["data"][:3]]
    assert [entry["embedding"] for entry in document["data"]] == first * SLICE
    assert document["object"] == "list"
    assert document["model"] == "vectors"
    assert document["usage"]["prompt_tokens"] == document["usage"]["total_tokens"] > 0
    packed = (await call("POST", "/v1/embeddings", body | {"encoding_format": "base64"})).json()
    assert len(packed["data"]) == len(texts)


async def test_slices_give_what_one_call_would() -> None:
    errors = [InvalidInput(f"instance {n}") for n in range(2 * SLICE + 1)]
    parts = await in_slices(write_answers, errors, inline=1)
    assert len(parts) == 3
    assert b",".join(parts) == write_answers(errors)
    assert await in_slices(write_answers, errors, inline=len(errors)) == [write_answers(errors)]
