"""Handles, bulk calls and batchers against the real server and onnxruntime."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import numpy as np
import pytest

from aiaas_client import AsyncClient, Client, InferResult
from aiaas_client._errors import BadRequestError, ShapeError
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving


@pytest.fixture
def url(onnx_models, make_repository):
    models = {
        "double": onnx_models.scale(2.0),
        "digits": onnx_models.mlp(),
        "sum": onnx_models.row_sum(),
        "negate": onnx_models.fixed_batch(),
    }
    with serving(create_app(Settings(models=make_repository(models)))) as server:
        yield server.url


@pytest.fixture
def client(url):
    with Client(url) as client:
        yield client


def test_one_call(client):
    result = client.model("double").infer(x=[[1, 2, 3, 4]], request_id="r1")
    assert result["y"].tolist() == [[2, 4, 6, 8]]
    assert (result.model_name, result.model_version, result.request_id) == ("double", "1", "r1")
    assert client.model("double").infer_one(x=[1, 2, 3, 4], binary=False)["y"].tolist() == [
        2,
        4,
        6,
        8,
    ]


async def test_statistics_tell_which_batches_pay(client, url):
    (told,) = client.model("digits").statistics()
    curve = told.batch_curve
    assert curve is not None
    assert curve.unit == "rows"
    assert curve.cap in [point.size for point in curve.points]
    assert all(point.seconds_each == point.ns / point.size / 1e9 > 0 for point in curve.points)
    assert client.model("negate").statistics()[0].batch_curve is None  # of one row always
    async with AsyncClient(url) as same:
        assert (await same.model("digits").statistics())[0].batch_curve == curve


def test_a_wrong_shape_is_named(client):
    with pytest.raises(ShapeError, match=r"input 'x': expected shape \(-1, 4\), got \(1, 3\)"):
        client.model("double").infer(x=[[1, 2, 3]])


def test_classification(client):
    result = client.model("double").infer(x=[[1, 9, 3, 4]], classification=2)
    texts = [text.decode().split(":")[1] for text in result["y"][0]]
    assert texts == ["1", "3"]


def test_bulk_rows_equal_one_request(client):
    rows = np.random.default_rng(0).normal(size=(500, 784)).astype(np.float32)
    model = client.model("digits")
    one_by_one = np.array([result["logits"] for result in model.infer_many(rows)])
    blocks = (rows[start : start + 33] for start in range(0, 500, 33))
    in_blocks = np.concatenate([r["logits"] for r in model.infer_many(blocks, rows=True)])
    most = model.config()["max_batch_size"]
    direct = [model.infer(image=rows[i : i + most])["logits"] for i in range(0, 500, most)]
    assert np.allclose(one_by_one, np.concatenate(direct), atol=1e-5)
    assert np.allclose(in_blocks, np.concatenate(direct), atol=1e-5)


def test_ragged_items_keep_their_order(client):
    rng = np.random.default_rng(0)
    items = [rng.normal(size=rng.integers(1, 5, size=2)).astype(np.float32) for _ in range(100)]
    results = list(client.model("sum").infer_many(items))
    expected = pytest.approx([float(item.sum()) for item in items], abs=1e-5)
    assert [float(result["total"]) for result in results] == expected


def test_a_model_that_cannot_batch(client):
    items = [[float(i)] * 4 for i in range(5)]
    results = list(client.model("negate").infer_many(items))
    assert [float(result["y"].reshape(-1)[0]) for result in results] == [0, -1, -2, -3, -4]


def test_a_batcher_gives_each_its_own(client):
    with client.batcher("double") as batcher:
        futures = [batcher.submit(x=[i, 0, 0, 0]) for i in range(100)]
        assert [float(future.result()["y"][0]) for future in futures] == [
            2.0 * i for i in range(100)
        ]


async def test_tasks_do_the_same(url):
    async with AsyncClient(url) as client:
        rows = np.ones((100, 4), np.float32)
        results = [result async for result in client.model("double").infer_many(rows)]
        assert all((result["y"] == 2).all() for result in results)
        async with client.batcher("double") as batcher:
            calls = (batcher.infer_one(x=[i, 0, 0, 0]) for i in range(100))
            shared = await asyncio.gather(*calls)
        assert [float(result["y"][0]) for result in shared] == [2.0 * i for i in range(100)]


def test_a_refused_parameter_is_the_server_s_error(client):
    model = client.model("double")
    with pytest.raises(BadRequestError, match="triton_"):
        model.infer(x=[[1, 2, 3, 4]], parameters={"triton_secret": 1})
    assert isinstance(model.infer(x=[[1, 2, 3, 4]]), InferResult)


@pytest.mark.slow
async def test_ten_thousand_calls_leave_less_than_a_megabyte(url):
    x = np.ones((1, 784), np.float32)
    async with AsyncClient(url) as client:
        model = client.model("digits")

        async def memory_after(count):
            for _ in range(count // 20):
                await asyncio.gather(*(model.infer(image=x) for _ in range(20)))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await memory_after(200)
            assert await memory_after(10_000) - before < 1_000_000
        finally:
            tracemalloc.stop()
