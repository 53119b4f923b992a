"""Many items through few requests: every item answered once, in order, and failures stand alone."""

from __future__ import annotations

import asyncio
import io
import threading
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client import AsyncClient, Client
from aiaas_client._api.inference import SHARED_BYTES, InferResult
from aiaas_client._bulk.batches import Batch, Piece, split
from aiaas_client._bulk.core import BulkCore
from aiaas_client._bulk.items import Rows
from aiaas_client._bulk.plan import BulkPlan
from aiaas_client._bulk.progress import Lines, Silent, open_progress
from aiaas_client._errors import (
    AiaasError,
    BadRequestError,
    BulkError,
    DtypeError,
    InputError,
    ModelNotFoundError,
    ProtocolError,
    ServiceUnavailableError,
    ShapeError,
)
from aiaas_client._models.bulk import Tensorizer
from aiaas_client.testing import FakeServer, tensor

# --- the core, without I/O -----------------------------------------------------------------------


def plan(max_rows=4, max_bytes=2**20, batched=True):
    return BulkPlan("m", Tensorizer("m", None, frozenset()), batched, max_rows, max_bytes)


def answer(chunk):
    return InferResult({"y": chunk.inputs()["x"] * 2})


def has_bad_row(chunk):
    return bool((chunk.inputs()["x"] < 0).any())


def drive(core, values, order, refuse=lambda chunk: None):
    """Play the part of the loops: read, send, answer in an order that `order` chooses."""
    source = iter(values)
    flying, got, read = [], [], 0
    while True:
        got.extend(outcome for entry in core.finished() for outcome in entry.outcomes())
        if (chunk := core.take()) is not None:
            flying.append(chunk)
            assert core.in_flight == len(flying)
        elif core.wants_input:
            value = next(source, None)
            if value is None:
                core.end()
            else:
                read += 1
                core.add(value)
        elif flying:
            chunk = flying.pop(order(len(flying)))
            error = refuse(chunk)
            core.succeeded(chunk, answer(chunk)) if error is None else core.failed(chunk, error)
        else:
            return got
        yield_state = (read, len(got), len(flying))
        drive.most_ahead = max(drive.most_ahead, yield_state[0] - yield_state[1])


drive.most_ahead = 0

REFUSED = BadRequestError("no", status_code=400)


@given(
    widths=st.lists(st.integers(1, 3), max_size=60),
    bad=st.sets(st.integers(0, 59)),
    max_rows=st.integers(1, 7),
    max_bytes=st.integers(1, 60),
    concurrency=st.integers(1, 4),
    ordered=st.booleans(),
    data=st.data(),
)
def test_every_item_is_answered_exactly_once(
    widths, bad, max_rows, max_bytes, concurrency, ordered, data
):
    items = [
        {"x": np.full(width, -1.0 if i in bad else float(i))} for i, width in enumerate(widths)
    ]
    core = BulkCore(plan(max_rows, max_bytes), concurrency=concurrency, ordered=ordered)
    drive.most_ahead = 0
    seen = []

    def refuse(chunk):
        assert len({piece.inputs["x"].shape[1:] for piece in chunk.pieces}) == 1
        assert chunk.rows <= max_rows
        assert chunk.rows == 1 or chunk.inputs()["x"].nbytes <= max_bytes
        seen.append(chunk.rows)
        return REFUSED if has_bad_row(chunk) else None

    got = drive(core, items, lambda n: data.draw(st.integers(0, n - 1)), refuse)
    indices = [outcome.index for outcome in got]
    assert sorted(indices) == list(range(len(items)))
    if ordered:
        assert indices == sorted(indices)
    assert drive.most_ahead <= (concurrency + 1) * max_rows
    for outcome in got:
        index = outcome.index
        if index in bad:
            assert isinstance(outcome, BadRequestError)
        else:
            assert outcome["y"].tolist() == [2.0 * index] * widths[index]


@given(
    sizes=st.lists(st.integers(0, 9), max_size=20),
    max_rows=st.integers(1, 5),
    refused_above=st.integers(1, 5),
    data=st.data(),
)
def test_blocks_come_back_whole(sizes, max_rows, refused_above, data):
    start = np.cumsum([0, *sizes])
    blocks = [{"x": np.arange(a, b, dtype=np.float64)} for a, b in pairwise(start)]
    core = BulkCore(plan(max_rows), concurrency=3, rows=True)
    got = drive(
        core,
        blocks,
        lambda n: data.draw(st.integers(0, n - 1)),
        lambda chunk: REFUSED if chunk.rows > refused_above else None,
    )
    assert [outcome.index for outcome in got] == list(range(len(blocks)))
    for outcome, block in zip(got, blocks, strict=True):
        assert outcome["y"].tolist() == (block["x"] * 2).tolist()


@given(
    count=st.integers(0, 40),
    bad=st.sets(st.integers(0, 39)),
    max_rows=st.integers(1, 7),
    step=st.integers(1, 9),
    data=st.data(),
)
def test_rows_read_together_are_answered_one_by_one(count, bad, max_rows, step, data):
    values = np.array([-1.0 if i in bad else float(i) for i in range(count)])
    columns = {"x": values.reshape(-1, 1)}
    blocks = [Rows(columns, i, min(i + step, count)) for i in range(0, count, step)]
    core = BulkCore(plan(max_rows), concurrency=2)
    got = drive(
        core,
        blocks,
        lambda n: data.draw(st.integers(0, n - 1)),
        lambda chunk: REFUSED if has_bad_row(chunk) else None,
    )
    assert [outcome.index for outcome in got] == list(range(count))
    for index, outcome in enumerate(got):
        if index in bad:
            assert isinstance(outcome, BadRequestError)
        else:
            assert outcome["y"].tolist() == [2.0 * index]


@pytest.mark.parametrize("width", [3, SHARED_BYTES])  # small answers are shared, large ones copied
def test_rows_of_one_answer_do_not_see_each_other(width):
    answer = InferResult({"y": np.zeros((3, width), np.uint8), "n": np.arange(3)}, attempts=2)
    rows = list(answer.rows(dict(answer), 3, 10))
    rows[1]["y"][:] = 7
    rows[1]["n"][...] = 70
    assert [int(row["y"][0]) for row in rows] == [0, 7, 0]
    assert [int(row["n"]) for row in rows] == [0, 70, 2]
    assert [(row.index, row.attempts) for row in rows] == [(10, 2), (11, 2), (12, 2)]
    assert all(isinstance(row["n"], np.ndarray) and row["n"].shape == () for row in rows)
    assert (rows[0]["y"].base is None) == (width == SHARED_BYTES)


def test_rows_without_outputs_are_still_counted():
    assert [row.index for row in InferResult({}).rows({}, 3, 0)] == [0, 1, 2]


def test_a_bad_row_costs_few_requests():
    core = BulkCore(plan(64), concurrency=1)
    sent = []

    def refuse(chunk):
        sent.append(chunk.rows)
        return REFUSED if has_bad_row(chunk) else None

    items = [{"x": np.full(1, -1.0 if i == 37 else float(i))} for i in range(64)]
    drive(core, items, lambda n: 0, refuse)
    assert len(sent) == 1 + 2 * 6


def test_an_item_s_array_is_its_own():
    pieces = [Piece(i, {"x": np.zeros((1, 2))}, 1) for i in range(2)]
    shares = split(Batch(pieces), InferResult({"y": np.zeros((2, 2))}))
    first, second = (outputs["y"] for _, outputs in shares)
    first[:] = 7
    assert second.tolist() == [[0, 0]]
    assert first.base is None


def test_an_answer_with_a_wrong_number_of_rows_is_not_believed():
    chunk = Batch([Piece(i, {"x": np.zeros((1, 2))}, 1) for i in range(2)])
    with pytest.raises(ProtocolError, match=r"output 'y': expected 2 rows for 2 sent"):
        split(chunk, InferResult({"y": np.zeros((3, 2))}))


# --- the loops, against a server -----------------------------------------------------------------


def double(x):
    if (x < 0).any():
        raise ValueError("negative numbers are refused")
    return {"y": x * 2}


@pytest.fixture
def server():
    with FakeServer() as server:
        server.add(
            "double",
            double,
            inputs=[tensor("x", "FP32", [-1, 2])],
            outputs=[tensor("y", "FP32", [-1, 2])],
            max_batch_size=8,
        )
        yield server


@pytest.fixture
def model(server):
    with Client(server.url) as client:
        yield client.model("double")


@pytest.fixture
async def async_model(server):
    async with AsyncClient(server.url) as client:
        yield client.model("double")


def items(count, bad=()):
    return ([-1.0 if i in bad else float(i), 0.0] for i in range(count))


def firsts(outcomes):
    return [float(o["y"][0]) if isinstance(o, InferResult) else type(o) for o in outcomes]


async def collect(outcomes):
    return [outcome async for outcome in outcomes]


def test_results_come_in_the_order_of_the_items(server, model):
    results = list(model.infer_many(items(50)))
    assert firsts(results) == [2.0 * i for i in range(50)]
    assert [result.index for result in results] == list(range(50))
    assert len(server.infer_requests) == 7  # of 8 rows each, the model's largest batch


async def test_tasks_do_the_same(server, async_model):
    results = await collect(async_model.infer_many(items(50)))
    assert firsts(results) == [2.0 * i for i in range(50)]
    assert len(server.infer_requests) == 7


async def test_an_asynchronous_source_is_read(async_model):
    async def source():
        for item in items(20):
            await asyncio.sleep(0)
            yield item

    assert firsts(await collect(async_model.infer_many(source()))) == [2.0 * i for i in range(20)]


def test_failed_items_are_raised_at_the_end(model):
    got = []
    with pytest.raises(BulkError, match="2 of 30 items failed; the first is item 3") as caught:
        for result in model.infer_many(items(30, bad={3, 17})):
            got.append(result.index)  # noqa: PERF401, the loop raises at its end
    assert got == [i for i in range(30) if i not in {3, 17}]
    assert set(caught.value.failures) == {3, 17}
    assert isinstance(caught.value.failures[3], BadRequestError)


def test_failed_items_are_returned_in_their_place(model):
    outcomes = list(model.infer_many(items(10, bad={4}), on_error="return"))
    assert firsts(outcomes) == [BadRequestError if i == 4 else 2.0 * i for i in range(10)]


async def test_failed_items_in_tasks(async_model):
    outcomes = await collect(async_model.infer_many(items(10, bad={4}), on_error="return"))
    assert firsts(outcomes) == [BadRequestError if i == 4 else 2.0 * i for i in range(10)]
    with pytest.raises(BulkError):
        await collect(async_model.infer_many(items(10, bad={4})))


def test_an_item_of_the_wrong_shape_is_never_sent(server, model):
    outcomes = list(model.infer_many([[1.0, 2.0], [3.0]], on_error="return"))
    assert isinstance(outcomes[1], ShapeError)
    assert sum(r.infer.inputs["x"].shape[0] for r in server.infer_requests) == 1


def test_an_unknown_model_is_told_at_once(server):
    with Client(server.url) as client, pytest.raises(ModelNotFoundError):
        next(client.model("nothing").infer_many(items(3)))


def test_an_outage_fails_only_the_items_it_met(server):
    with Client(server.url) as client:
        server.fail(503, times=1)
        model = client.with_options(max_retries=0).model("double")
        work = model.infer_many(items(16), on_error="return", concurrency=1)
        kinds = [type(outcome) for outcome in work]
    assert sum(issubclass(kind, ServiceUnavailableError) for kind in kinds[:8]) == 8
    assert kinds[8:] == [InferResult] * 8


def test_rows_of_arrays_are_items(model):
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    results = list(model.infer_many({"x": rows}))
    assert np.array_equal([result["y"] for result in results], rows * 2)
    assert firsts(model.infer_many(rows)) == [2.0 * row[0] for row in rows]


def test_a_bad_row_of_an_array_fails_alone(model):
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    rows[7] = -1
    outcomes = list(model.infer_many(rows, on_error="return"))
    assert firsts(outcomes) == [BadRequestError if i == 7 else 4.0 * i for i in range(20)]
    mixed = np.array([[1, 2], [None, 4], [5, 6]], dtype=object)
    outcomes = list(model.infer_many(mixed, on_error="return"))
    assert firsts(outcomes) == [2.0, DtypeError, 10.0]


def test_rows_of_a_frame_are_items(server, model):
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert [r["y"].tolist() for r in model.infer_many(frame)] == [[2, 6], [4, 8]]
    columns = [tensor("a", "FP32", [-1, 1]), tensor("b", "FP32", [-1, 1])]
    server.add(
        "sum", lambda a, b: {"y": a + b}, inputs=columns, outputs=[tensor("y", "FP32", [-1, 1])]
    )
    with Client(server.url) as client:
        results = list(client.model("sum").infer_many(frame, max_rows=8))
    assert [r["y"].tolist() for r in results] == [[4], [6]]
    assert len(server.infer_requests) == 2


def test_arrays_of_unequal_length_are_refused(model):
    with pytest.raises(InputError, match="expected inputs of equal length"):
        list(model.infer_many({"x": [[1, 2]], "z": [1, 2]}))


def test_blocks_keep_their_rows(server, model):
    blocks = [np.full((n, 2), n, np.float32) for n in (3, 20, 0, 1)]
    results = list(model.infer_many(blocks, rows=True))
    assert [result["y"].shape for result in results] == [(3, 2), (20, 2), (0, 2), (1, 2)]
    assert all((r["y"] == 2 * b).all() for r, b in zip(results, blocks, strict=True))


def test_the_input_is_read_lazily(server, model):
    read = 0

    def counted():
        nonlocal read
        for item in items(10_000):
            read += 1
            yield item

    with server.hold() as gate:
        work = model.infer_many(counted(), concurrency=2, max_rows=4)
        first = threading.Thread(target=lambda: next(work))
        first.start()
        gate.wait_for(2)
        gate.release()
        first.join()
        work.close()
    assert read <= 3 * 4


def test_closing_early_leaves_no_thread(server, model):
    work = model.infer_many(items(1000), concurrency=4)
    next(work)
    work.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("aiaas-bulk")]
    assert len(server.infer_requests) < 125


async def test_closing_early_leaves_no_task(server, async_model):
    work = async_model.infer_many(items(1000), concurrency=4)
    before = asyncio.all_tasks()
    await anext(work)
    await work.aclose()
    assert asyncio.all_tasks() == before
    assert firsts(await collect(async_model.infer_many(items(3)))) == [0.0, 2.0, 4.0]


async def test_cancelling_the_consumer_ends_the_work(server, async_model):
    with server.hold() as gate:
        task = asyncio.create_task(collect(async_model.infer_many(items(100))))
        await asyncio.to_thread(gate.wait_for, 8)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(asyncio.all_tasks()) == 1


def test_unordered_results_do_not_wait_for_the_slow_one(server, model):
    with server.hold(times=1) as gate:
        work = model.infer_many(items(24), ordered=False, concurrency=2)
        indices = [next(work).index for _ in range(16)]
        gate.release()
        indices += [result.index for result in work]
    assert sorted(indices) == list(range(24))
    assert indices != list(range(24)) or gate.arrived == 1


def test_an_error_of_the_source_reaches_the_caller(model):
    def broken():
        yield [1.0, 2.0]
        raise RuntimeError("the file ended")

    with pytest.raises(RuntimeError, match="the file ended"):
        list(model.infer_many(broken()))


@pytest.mark.parametrize("limits", [{"concurrency": 0}, {"max_rows": 0}, {"max_bytes": 0}])
def test_limits_below_one_are_refused(model, limits):
    with pytest.raises(InputError, match=f"{next(iter(limits))}: expected at least 1, got 0"):
        model.infer_many([], **limits)


def test_no_items_are_no_requests(server, model):
    assert list(model.infer_many([])) == []
    assert server.infer_requests == []


def test_a_model_without_batches_gets_one_item_a_request(server):
    server.add(
        "plain",
        lambda x: {"y": x.sum()},
        inputs=[tensor("x", "FP32", [2])],
        outputs=[tensor("y", "FP32", [])],
    )
    with Client(server.url) as client:
        results = list(client.model("plain").infer_many([[1, 2], [3, 4]]))
    assert [float(result["y"]) for result in results] == [3.0, 7.0]


# --- progress ------------------------------------------------------------------------------------


def test_progress_is_told(model):
    told = []
    list(model.infer_many([[1, 2]] * 3, progress=lambda done, total: told.append((done, total))))
    assert told == [(1, 3), (2, 3), (3, 3)]
    told.clear()
    list(model.infer_many(items(1), progress=lambda done, total: told.append((done, total))))
    assert told == [(1, None)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_appears_on_a_terminal_only():
    terminal = Terminal()
    bar = open_progress(True, 2, "double", terminal)
    bar.advance()
    bar.advance()
    bar.close()
    assert "double" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert isinstance(open_progress(True, 2, "double", io.StringIO()), Silent)


def test_plain_lines_come_at_most_once_a_second():
    now = [0.0]
    stream = io.StringIO()
    lines = Lines(3, "double", stream, clock=lambda: now[0])
    lines.advance()
    now[0] = 1.5
    lines.advance()
    lines.advance()
    lines.close()
    assert stream.getvalue() == "double: 2 of 3\ndouble: 3 of 3\n"


def test_errors_are_the_sdk_s(model):
    outcomes = list(model.infer_many(items(2, bad={0}), on_error="return"))
    assert isinstance(outcomes[0], AiaasError)


@pytest.mark.parametrize("given", [list, np.array], ids=["item by item", "as an array"])
def test_of_many_failures_some_are_kept_and_all_are_counted(model, given):
    bad = set(range(0, 30, 3))
    values = given([[-1.0 if i in bad else float(i), 0.0] for i in range(30)])
    got = []
    with pytest.raises(BulkError, match="10 of 30 items failed") as caught:
        for result in model.infer_many(values, kept_failures=4):
            got.append(result.index)  # noqa: PERF401, the loop raises at its end
    assert got == [i for i in range(30) if i not in bad]
    assert caught.value.count == 10
    assert len(caught.value.failures) == 4
    assert bad >= set(caught.value.failures)
    assert all(error.index == index for index, error in caught.value.failures.items())


def test_a_negative_number_of_kept_failures_is_refused(model):
    with pytest.raises(InputError, match="kept_failures"):
        model.infer_many([], kept_failures=-1)
