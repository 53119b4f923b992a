"""The public API as typed code: checked by mypy and pyright, never run.

`assert_type` pins what a caller's checker is told; a line that must not pass carries an ignore
comment, which mypy reports when it is no longer needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from aiaas_client import (
    AiaasError,
    AsyncClient,
    AsyncModel,
    BlockError,
    BulkError,
    Client,
    InferResult,
    Model,
    RawResponse,
    ShapeError,
)
from aiaas_client.protocol.messages import ModelMetadata, ModelStatistics
from aiaas_client.testing import FakeModel, FakeServer, Gate, RecordedRequest, tensor


def one_call(client: Client, array: npt.NDArray[np.float32]) -> None:
    model = client.model("digits", version=2)
    assert_type(model, Model)
    result = model.infer(x=array, outputs=["y"], priority=1, deadline=2.0)
    assert_type(result, InferResult)
    assert_type(result["y"], npt.NDArray[Any])
    assert_type(result.array, npt.NDArray[Any])
    assert_type(result.timing.total, float)
    assert_type(result.timing.server_queue, float | None)
    assert_type(result.attempts, int)
    assert_type(result.request_id, str)
    assert_type(model.infer({"outputs": [1.0]}, classification={"y": 3}), InferResult)
    assert_type(model.infer_one([1, 2, 3]), InferResult)
    assert_type(model.metadata(), ModelMetadata)
    assert_type(model.config(), dict[str, Any])
    assert_type(model.statistics(), list[ModelStatistics])
    assert_type(model.ready(), bool)
    as_mapping: Mapping[str, npt.NDArray[Any]] = result
    del as_mapping


def wrong_calls(model: Model) -> None:
    model.infer(x=1, priority="high")  # type: ignore[arg-type]
    model.infer_many(5)  # type: ignore[call-overload]
    model.infer_many([], on_error="ignore")  # type: ignore[call-overload]


def many_calls(model: Model) -> None:
    for result in model.infer_many([[1.0], [2.0]], progress=True, concurrency=4):
        assert_type(result, InferResult)
    for outcome in model.infer_many({"x": np.zeros((5, 2))}, on_error="return", ordered=False):
        if isinstance(outcome, AiaasError):
            assert_type(outcome.message, str)
        else:
            assert_type(outcome, InferResult)
            assert_type(outcome.index, int | None)
    try:
        list(model.infer_many([1], progress=lambda done, total: print(done, total)))
    except BulkError as error:
        assert_type(error.failures, dict[int, Exception])
    except ShapeError as error:
        assert_type(error.tensor, str)


def array_calls(model: Model, array: npt.NDArray[np.float32]) -> None:
    assert_type(model.infer_array(x=array, out={"y": array}, deadline=9.0), InferResult)
    assert_type(model.infer_array(block for block in [array]), InferResult)
    model.infer_array(array, out=5)  # type: ignore[arg-type]
    try:
        model.infer_array(array, out=array, progress=lambda done, total: None)
    except BlockError as error:
        assert_type((error.start, error.stop), tuple[int, int])


def shared_calls(client: Client) -> None:
    with client.model("digits").batcher(max_wait=0.001) as batcher:
        assert_type(batcher.infer_one(x=[1]), InferResult)
        assert_type(batcher.submit(x=[1]), Future[InferResult])


async def tasks(client: AsyncClient) -> None:
    assert_type(await client.model("digits").infer_array([[1.0]]), InferResult)
    model = client.model("digits")
    assert_type(model, AsyncModel)
    assert_type(await model.infer(x=[1]), InferResult)
    assert_type(await model.metadata(), ModelMetadata)

    async def source() -> AsyncIterator[object]:
        yield [1.0]

    async for result in model.infer_many(source()):
        assert_type(result, InferResult)
    async for outcome in model.infer_many([[1.0]], on_error="return"):
        assert_type(outcome, InferResult | AiaasError)
    async with model.batcher() as batcher:
        assert_type(await batcher.infer_one(x=[1]), InferResult)


def whole_answers(client: Client) -> None:
    model = client.model("digits")
    assert_type(model.with_raw_response.infer(x=[1], outputs="y"), RawResponse[InferResult])
    assert_type(model.with_raw_response.infer(x=[1]).parse(), InferResult)
    assert_type(model.with_raw_response.ready().parse(), bool)
    assert_type(model.with_raw_response.config().parse(), dict[str, Any])
    model.with_raw_response.infer(x=1, priority="high")  # type: ignore[arg-type]
    assert_type(client.with_raw_response.health(), RawResponse[bool])
    assert_type(client.with_raw_response.infer("m", {}), RawResponse[InferResult])
    assert_type(client.with_raw_response.model("m").metadata(), RawResponse[ModelMetadata])
    assert_type(client.with_raw_response.models.get("m"), RawResponse[ModelMetadata])
    assert_type(client.models.with_raw_response.load("m"), RawResponse[None])


async def whole_answers_in_tasks(client: AsyncClient) -> None:
    model = client.model("digits")
    assert_type(await model.with_raw_response.infer(x=[1]), RawResponse[InferResult])
    assert_type((await client.with_raw_response.ready()).parse(), bool)
    assert_type(await client.with_raw_response.model("m").ready(), RawResponse[bool])
    assert_type(await client.with_raw_response.models.unload("m"), RawResponse[None])


def fake() -> None:
    with FakeServer() as server:
        model = server.add("m", lambda x: {"y": x}, inputs=[tensor("x", "FP32", [-1])])
        assert_type(model, FakeModel)
        assert_type(server.url, str)
        assert_type(server.requests, list[RecordedRequest])
        with server.hold() as gate:
            assert_type(gate, Gate)
