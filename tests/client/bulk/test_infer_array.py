"""Any number of rows to one result: over HTTP and in process, from threads and on a loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    BlockError,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    DtypeError,
    InferResult,
    InputError,
    ModelNotFoundError,
    OptionTypeError,
    ShapeError,
    UnknownInputError,
)
from aiaas_client.testing import FakeServer, tensor
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving

ROWS = np.arange(100, dtype=np.float32).reshape(50, 2)


def double(x):
    if (x < 0).any():
        raise ValueError("negative numbers are refused")
    return {"y": x * 2}


@pytest.fixture
def server():
    with FakeServer() as server:
        pair = [tensor("x", "FP32", [-1, 2])]
        server.add(
            "double",
            double,
            inputs=pair,
            outputs=[tensor("y", "FP32", [-1, 2])],
            max_batch_size=8,
        )
        server.add(
            "sum",
            lambda a, b: {"total": a + b, "texts": a.astype("U").astype(object)},
            inputs=[tensor("a", "FP32", [-1, 1]), tensor("b", "FP32", [-1, 1])],
            outputs=[tensor("total", "FP32", [-1, 1]), tensor("texts", "BYTES", [-1, 1])],
            max_batch_size=8,
        )
        server.add(
            "one",
            lambda x: {"y": x.sum(keepdims=True)},
            inputs=[tensor("x", "FP32", [3])],
            outputs=[tensor("y", "FP32", [1])],
        )
        yield server


@pytest.fixture
def model(server):
    with Client(server.url) as client:
        yield client.model("double")


@pytest.fixture(params=["sync", "async"])
def infer_array(request, server):
    """`model.infer_array` of a model by name, run to its end, whichever client it is of."""

    def run_sync(name, *given, **options):
        with Client(server.url) as client:
            return client.model(name).infer_array(*given, **options)

    async def run_async(name, *given, **options):
        async with AsyncClient(server.url) as client:
            return await client.model(name).infer_array(*given, **options)

    if request.param == "sync":
        return run_sync
    return lambda *given, **options: asyncio.run(run_async(*given, **options))


def sent_rows(server):
    return sorted(len(request.infer.inputs["x"]) for request in server.infer_requests)


def test_many_requests_make_one_result(server, infer_array):
    result = infer_array("double", x=ROWS)
    assert isinstance(result, InferResult)
    assert result["y"].tolist() == (ROWS * 2).tolist()
    assert result["y"].dtype == np.float32
    assert result["y"].flags.writeable
    assert sent_rows(server) == [2, *[8] * 6]  # the model's largest batch
    assert (result.attempts, result.model_name, result.model_version) == (7, "double", "1")
    assert result.timing.total > 0


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(ROWS, id="array"),
        pytest.param({"x": ROWS}, id="mapping"),
        pytest.param(ROWS.astype(np.float64), id="other dtype"),
        pytest.param(np.asfortranarray(ROWS), id="column-major"),
        pytest.param(np.repeat(ROWS, 2, axis=1)[:, ::2], id="strides"),
        pytest.param(ROWS.tolist(), id="lists"),
        pytest.param(list(ROWS), id="list of rows"),
        pytest.param(pd.DataFrame(ROWS, index=range(50, 0, -1)), id="frame"),
        pytest.param([ROWS[:20], ROWS[20:]], id="list of blocks"),
        pytest.param(({"x": ROWS[:20]}, {"x": ROWS[20:]}), id="tuple of mappings"),
        pytest.param([pd.DataFrame(ROWS[:20]), pd.DataFrame(ROWS[20:])], id="frames"),
    ],
)
def test_rows_come_in_every_form(infer_array, given):
    assert infer_array("double", given)["y"].tolist() == (ROWS * 2).tolist()


def test_blocks_of_unknown_number_are_joined(server, infer_array):
    blocks = (ROWS[start : start + 3] for start in range(0, 50, 3))
    assert infer_array("double", blocks)["y"].tolist() == (ROWS * 2).tolist()
    assert len(server.infer_requests) == 9  # blocks of 3 rows share requests of 6


async def test_an_asynchronous_source_is_read(server):
    async def blocks():
        for start in range(0, 50, 20):
            await asyncio.sleep(0)
            yield {"x": ROWS[start : start + 20]}

    async with AsyncClient(server.url) as client:
        result = await client.model("double").infer_array(blocks())
    assert result["y"].tolist() == (ROWS * 2).tolist()
    with Client(server.url) as client, pytest.raises(InputError, match="asynchronous"):
        client.model("double").infer_array(blocks())


def test_memory_maps_are_read_and_written(infer_array, tmp_path):
    given = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (50, 2))
    given[:] = ROWS
    out = np.lib.format.open_memmap(tmp_path / "y.npy", "w+", np.float32, (50, 2))
    result = infer_array("double", x=np.load(tmp_path / "x.npy", mmap_mode="r"), out={"y": out})
    assert result["y"] is out
    out.flush()
    assert np.load(tmp_path / "y.npy").tolist() == (ROWS * 2).tolist()


def test_out_may_be_a_view_and_the_only_output_needs_no_name(infer_array):
    whole = np.full((100, 3), -1, np.float32)
    infer_array("double", ROWS, out=whole[::2, :2])
    assert whole[::2, :2].tolist() == (ROWS * 2).tolist()
    assert (whole[1::2] == -1).all()
    assert (whole[:, 2] == -1).all()


def test_out_of_blocks_may_have_more_rows_than_come(infer_array):
    out = np.full((60, 2), -1, np.float32)
    result = infer_array("double", iter([ROWS[:30], ROWS[30:]]), out={"y": out})
    assert result["y"].tolist() == (ROWS * 2).tolist()
    assert np.shares_memory(result["y"], out)
    assert (out[50:] == -1).all()


def test_several_inputs_and_outputs(infer_array):
    a, b = ROWS[:, :1], ROWS[:, 1:]
    out = np.empty((50, 1), object)
    result = infer_array("sum", {"a": a}, b=b, out={"texts": out})
    assert result["total"].tolist() == (a + b).tolist()
    assert result["texts"] is out
    assert out[3, 0] == b"6.0"
    frame = pd.DataFrame(
        {
            "a": a[:, 0],
            "b": b[:, 0],
        }
    )
    assert infer_array("sum", frame, outputs="total")["total"].tolist() == (a + b).tolist()
    assert list(infer_array("sum", frame, outputs=["texts"])) == ["texts"]


def test_a_model_without_batches_gets_one_row_a_request(server, infer_array):
    rows = np.arange(15, dtype=np.float32).reshape(5, 3)
    result = infer_array("one", x=rows)
    assert result["y"].tolist() == rows.sum(axis=1, keepdims=True).tolist()
    assert [r.infer.inputs["x"].shape for r in server.infer_requests] == [(3,)] * 5
    assert infer_array("one", [rows[:2], rows[2:]])["y"].tolist() == result["y"].tolist()
    with pytest.raises(ShapeError, match=r"input 'x': expected shape \(3,\), got \(4,\)"):
        infer_array("one", x=np.zeros((2, 4)))


def test_no_rows_give_arrays_of_none(server, infer_array):
    result = infer_array("double", x=ROWS[:0])
    assert (result["y"].shape, result["y"].dtype) == ((0, 2), np.float32)
    assert infer_array("double", iter(()))["y"].shape == (0, 2)
    assert infer_array("double", [])["y"].shape == (0, 2)
    assert infer_array("one", x=np.zeros((0, 3)))["y"].shape == (0, 1)
    empty = infer_array("sum", a=ROWS[:0, :1], b=ROWS[:0, :1])
    assert empty["texts"].dtype == object
    out = np.zeros((4, 2), np.float32)
    assert infer_array("double", iter(()), out=out)["y"].shape == (0, 2)
    assert not server.infer_requests


@pytest.mark.parametrize(
    ("given", "out", "error", "told"),
    [
        ({"x": ROWS[:, :1]}, None, ShapeError, r"'x': expected shape \(-1, 2\), got \(50, 1\)"),
        ({"x": np.full((2, 2), "a")}, None, DtypeError, "'x': expected FP32, got text"),
        ({"z": ROWS}, None, UnknownInputError, "unknown input 'z'; expected 'x'"),
        ({"x": 5.0}, None, InputError, "'x': expected rows, got one float"),
        ({"x": np.float32(5)}, None, InputError, "'x': expected rows, got a value without dim"),
        ({"x": "text"}, None, InputError, "'x': expected rows, got one str"),
        ({"x": iter([ROWS])}, None, InputError, "'x': expected rows, got one list_iterator"),
        ({}, None, InputError, "expected as many rows in every input, got no inputs"),
        ({"x": ROWS}, {"z": ROWS.copy()}, InputError, "out: unknown output 'z'; expected 'y'"),
        ({"x": ROWS}, {"y": [1]}, InputError, "out 'y': expected a numpy array, got list"),
        ({"x": ROWS}, np.zeros((49, 2), "f4"), ShapeError, r"out 'y': expected 50 rows, got"),
        (
            {"x": ROWS}, np.zeros((50, 3), "f4"), ShapeError,
            r"out 'y': expected \(50, 2\), got shape \(50, 3\)",
        ),
        ({"x": ROWS}, np.zeros((50, 2)), DtypeError, "out 'y': expected dtype float32"),
        ({"x": ROWS}, np.broadcast_to(np.float32(0), (50, 2)), InputError, "can be written to"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_is_sent(
    server, infer_array, given, out, error, told
):
    with pytest.raises(error, match=told):
        infer_array("double", {**given}, out=out)
    assert not server.infer_requests


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"max_rows": 0}, InputError, "max_rows: expected at least 1, got 0"),
        ({"concurrency": 0}, InputError, "concurrency"),
        ({"max_bytes": "1"}, OptionTypeError, "max_bytes"),
        ({"progress": 3}, OptionTypeError, "progress"),
        ({"deadline": 0}, ValueError, "deadline"),
        ({"outputs": 3}, OptionTypeError, "outputs"),
        ({"outputs": ["y", "z"], "out": np.zeros((50, 2), "f4")}, InputError, "expected a mapping"),
    ],
)
def test_options_that_cannot_be_are_refused(server, infer_array, options, error, told):
    with pytest.raises(error, match=told):
        infer_array("double", x=ROWS, **options)
    assert not server.infer_requests


def test_inputs_are_given_once(infer_array):
    with pytest.raises(InputError, match="input 'x' was given twice"):
        infer_array("double", {"x": ROWS}, x=ROWS)
    with pytest.raises(InputError, match="give blocks of rows, or inputs by name, not both"):
        infer_array("double", iter([ROWS]), x=ROWS)


def test_limits_of_a_request(server, infer_array):
    infer_array("double", x=ROWS, max_rows=5)
    assert sent_rows(server) == [5] * 10
    infer_array("double", x=ROWS, max_bytes=16)
    assert sent_rows(server)[:25] == [2] * 25


def test_progress_counts_rows(infer_array):
    told = []
    infer_array("double", x=ROWS, concurrency=1, progress=lambda *seen: told.append(seen))
    assert told == [*((rows, 50) for rows in range(8, 50, 8)), (50, 50)]
    told.clear()
    blocks = iter([ROWS[:8], ROWS[8:16]])
    infer_array("double", blocks, concurrency=1, progress=lambda *seen: told.append(seen))
    assert told == [(8, None), (16, None)]


def test_a_failed_block_names_its_rows_and_ends_the_call(server, infer_array):
    rows = ROWS.copy()
    rows[20] = -1
    with pytest.raises(BlockError, match="rows 16 to 23 failed: ") as caught:
        infer_array("double", x=rows, concurrency=1)
    assert (caught.value.start, caught.value.stop) == (16, 24)
    assert isinstance(caught.value.failures[16], BadRequestError)
    assert isinstance(caught.value.__cause__, BadRequestError)
    assert len(server.infer_requests) == 3


def test_a_busy_server_is_asked_again(server, infer_array):
    server.fail(503, times=2, retry_after=0.0)
    result = infer_array("double", x=ROWS, concurrency=1)
    assert result["y"].tolist() == (ROWS * 2).tolist()
    assert result.attempts == 9


def test_a_request_that_is_too_large_is_halved(server, infer_array):
    server.fail(413, times=3)
    assert infer_array("double", x=ROWS, concurrency=1)["y"].tolist() == (ROWS * 2).tolist()
    assert sent_rows(server) == [*[2] * 5, *[4] * 2, *[8] * 6]


def test_what_has_nothing_to_do_with_rows_is_raised_as_it_is(server, infer_array):
    with pytest.raises(ModelNotFoundError):
        infer_array("nothing", x=ROWS)
    server.fail(404, times=1, code="model_not_found")
    with pytest.raises(ModelNotFoundError):
        infer_array("double", x=ROWS)


def test_the_caller_s_own_error_comes_through(server, infer_array):
    def blocks():
        yield ROWS[:20]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        infer_array("double", blocks())


def test_a_block_that_cannot_be_sent_is_told_with_its_rows(infer_array):
    with pytest.raises(BlockError, match=r"row 10 failed: input 'x': expected FP32"):
        infer_array("double", iter([ROWS[:10], np.full((5, 2), "a")]))
    with pytest.raises(BlockError, match=r"row 10 failed: input 'x': expected rows, got one int"):
        infer_array("double", iter([ROWS[:10], {"x": 5}]))


def test_a_model_that_has_changed_is_asked_about_anew(server, model):
    model.infer_array(x=ROWS)
    server.add(
        "double",
        lambda x: {"z": x.sum(axis=1)},
        inputs=[tensor("x", "FP32", [-1, 2])],
        outputs=[tensor("z", "FP32", [-1])],
        max_batch_size=16,
        versions=["2"],
    )
    result = model.infer_array(x=ROWS)
    assert result["z"].tolist() == ROWS.sum(axis=1).tolist()
    assert result.model_version == "2"


def test_shapes_that_change_between_blocks_cannot_be_stacked(server, infer_array):
    any_width = [tensor("x", "FP32", [-1, -1])]
    outputs = [tensor("y", "FP32", [-1, -1])]
    server.add("echo", lambda x: {"y": x}, inputs=any_width, outputs=outputs, max_batch_size=8)
    blocks = iter([np.zeros((8, 2), "f4"), np.zeros((8, 3), "f4")])
    told = r"rows 8 to 15 failed: output 'y': expected rows of shape \(2,\), got \(3,\)"
    with pytest.raises(BlockError, match=told) as caught:
        infer_array("echo", blocks, concurrency=1)
    assert isinstance(caught.value.__cause__, ShapeError)
    assert caught.value.__cause__.tensor == "y"


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "FP64", "BYTES"])
def test_every_datatype(server, infer_array, datatype):
    kinds = {"BOOL": "?", "UINT8": "u1", "INT64": "i8", "FP16": "f2", "FP64": "f8", "BYTES": "O"}
    values = np.arange(20).reshape(20, 1).astype(kinds[datatype])
    if datatype == "BYTES":
        values = np.array([[b"x" * n] for n in range(20)], object)
    spec = [-1, 1]
    server.add(
        "echo",
        lambda x: {"y": x},
        inputs=[tensor("x", datatype, spec)],
        outputs=[tensor("y", datatype, spec)],
        max_batch_size=6,
    )
    result = infer_array("echo", x=values)
    assert result["y"].dtype == values.dtype
    assert result["y"].tolist() == values.tolist()


def test_a_server_that_tells_nothing_gets_blocks_of_64(server):
    server.add("plain", lambda x: {"y": x + 1})
    with Client(server.url) as client:
        client_model = client.model("plain")
        result = client_model.infer_array(x=np.arange(100.0), max_rows=64)
    assert result["y"].tolist() == list(range(1, 101))


# --- ending early --------------------------------------------------------------------------------


def test_the_deadline_is_that_of_the_whole_call(server, model):
    with server.hold() as gate, pytest.raises(DeadlineExceededError):
        model.infer_array(x=ROWS, deadline=0.2, concurrency=2)
    assert gate.arrived == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("aiaas-bulk")]


def test_an_interruption_leaves_no_thread(server, model):
    def report(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.infer_array(x=ROWS, concurrency=2, progress=report)
    assert not [t for t in threading.enumerate() if t.name.startswith("aiaas-bulk")]
    assert len(server.infer_requests) < 7


async def test_cancelling_ends_what_is_in_flight(server):
    async with AsyncClient(server.url) as client:
        with server.hold() as gate:
            task = asyncio.create_task(client.model("double").infer_array(x=ROWS, concurrency=3))
            await asyncio.to_thread(gate.wait_for, 3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (await client.model("double").infer_array(x=ROWS))["y"].shape == (50, 2)


async def test_a_failure_cancels_the_others(server):
    async with AsyncClient(server.url) as client:
        with server.hold(times=1), pytest.raises(BlockError):  # one is held, another refused
            await client.model("double").infer_array(x=ROWS - 200, concurrency=2)
        assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_closed_client_is_told(server):
    with Client(server.url) as client:
        model = client.model("double")
    with pytest.raises(ClientClosedError):
        model.infer_array(x=ROWS)


def test_a_source_is_read_no_further_than_needed(server, model):
    read, enough = [], threading.Event()

    def blocks():
        while not enough.is_set():
            read.append(8)
            yield ROWS[:8]

    with server.hold() as gate:
        work = threading.Thread(
            target=model.infer_array, args=[blocks()], kwargs={"concurrency": 3}
        )
        work.start()
        gate.wait_for(3)
        enough.set()
    work.join()
    assert 3 <= len(read) <= 4


# --- the real server, and none -------------------------------------------------------------------


@pytest.fixture
def repository(onnx_models, make_repository):
    models = {
        "digits": onnx_models.mlp(),
        "negate": onnx_models.fixed_batch(),
    }
    return make_repository(models)


@pytest.fixture(params=["http", "local"])
def client(request, repository):
    if request.param == "local":
        with Client.local(repository) as client:
            yield client
        return
    with serving(create_app(Settings(models=repository))) as server, Client(server.url) as client:
        yield client


def test_it_gives_what_infer_gives(client):
    rows = np.random.default_rng(0).normal(size=(3000, 784)).astype(np.float32)
    model = client.model("digits")
    most = model.config()["max_batch_size"]
    direct = [model.infer(image=rows[i : i + most])["logits"] for i in range(0, 3000, most)]
    found = model.infer_array(image=rows)
    assert isinstance(found, Mapping)
    assert np.allclose(found["logits"], np.concatenate(direct), atol=1e-5)
    assert np.allclose(found["logits"], model.infer_array(iter([rows]))["logits"], atol=1e-5)


async def test_it_works_in_process_on_a_loop(repository):
    rows = np.ones((700, 784), np.float32)
    async with AsyncClient.local(repository) as client:
        result = await client.model("digits").infer_array(image=rows, max_rows=100)
    assert result["logits"].shape == (700, 10)
    assert np.allclose(result["logits"], result["logits"][0], atol=1e-5)


def test_with_out_memory_does_not_grow_with_the_rows(client):
    """Beside the caller's arrays there are a few requests, whatever the number of rows."""
    model = client.model("digits")
    rows = np.broadcast_to(np.float32(1), (40_000, 784))  # 125 MB that take no memory
    out = np.empty((40_000, 10), np.float32)
    model.infer_array(image=rows[:2000], out=out[:2000])
    gc.collect()
    tracemalloc.start()
    try:
        model.infer_array(image=rows, out=out, max_bytes=1 << 20, concurrency=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20
    assert np.allclose(out, out[0], atol=1e-4)
