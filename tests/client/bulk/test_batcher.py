"""Single calls share requests; each gets its own answer, and one bad call spoils no other."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.coalescer import Coalescer, settle
from aiaas_client._errors import (
    BadRequestError,
    ClientClosedError,
    InputError,
    InternalServerError,
    ShapeError,
)
from aiaas_client.testing import FakeServer, tensor

# --- the core, without I/O -----------------------------------------------------------------------

REFUSED = BadRequestError("no", status_code=400)


def answered(chunk, bad):
    """Run `settle`, refusing requests that hold a bad value; give the answers by ticket."""
    steps = settle(chunk)
    sent = 0
    try:
        tensors = next(steps)
        while True:
            sent += 1
            if bad & set(tensors["x"][:, 0].tolist()):
                tensors = steps.throw(REFUSED)
            else:
                tensors = steps.send(InferResult({"y": tensors["x"] * 2}))
    except StopIteration as stop:
        return stop.value, sent


@given(
    calls=st.lists(st.tuples(st.integers(1, 3), st.floats(0, 0.01)), max_size=50),
    bad=st.sets(st.integers(0, 49)),
    max_rows=st.integers(1, 8),
)
def test_every_call_is_answered_exactly_once_and_nobody_waits_longer_than_asked(
    calls, bad, max_rows
):
    coalescer = Coalescer(0.005, max_rows)
    now, entered, answers = 0.0, {}, []

    def send(chunk):
        assert len(chunk.pieces) <= max_rows
        assert len({piece.inputs["x"].shape for piece in chunk.pieces}) == 1
        assert all(now - entered[piece.owner] <= 0.005 + 1e-9 for piece in chunk.pieces)
        answers.extend(answered(chunk, bad)[0])

    for ticket, (width, pause) in enumerate(calls):
        while (due := coalescer.next_due()) is not None and due <= now + pause:
            now = max(now, due)
            send(coalescer.take(now))
        now += pause
        entered[ticket] = now
        coalescer.add(ticket, {"x": np.full((1, width), float(ticket))}, now)
        while (chunk := coalescer.take(now)) is not None:
            send(chunk)
    coalescer.flush()
    while (chunk := coalescer.take(now)) is not None:
        send(chunk)
    assert coalescer.is_empty
    assert coalescer.next_due() is None
    assert sorted(ticket for ticket, _ in answers) == list(range(len(calls)))
    for ticket, outcome in answers:
        if ticket in bad:
            assert outcome is REFUSED
        else:
            assert outcome["y"].tolist() == [2.0 * ticket] * calls[ticket][0]


def test_a_request_is_full_by_bytes_too():
    coalescer = Coalescer(1.0, 100, max_bytes=16)
    for ticket in range(3):
        coalescer.add(ticket, {"x": np.zeros((1, 1))}, 0.0)
    assert [piece.owner for piece in coalescer.take(0.0).pieces] == [0, 1]
    assert coalescer.take(0.0) is None


# --- the shells, against a server ----------------------------------------------------------------


def double(x):
    if (x < 0).any():
        raise ValueError("negative numbers are refused")
    return {"y": x * 2, "rows": np.full((len(x),), len(x))}


@pytest.fixture
def server():
    with FakeServer() as server:
        server.add(
            "double",
            double,
            inputs=[tensor("x", "FP32", [-1, 2])],
            outputs=[tensor("y", "FP32", [-1, 2]), tensor("rows", "INT64", [-1])],
            max_batch_size=8,
        )
        yield server


LONG = 30.0  # seconds: never waited for, only full or flushed requests leave


def test_calls_from_many_threads_share_requests(server, client):
    results = {}
    with client.batcher("double", max_wait=LONG) as batcher:

        def work(i):
            results[i] = batcher.infer_one(x=[i, 0])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [results[i]["y"].tolist() for i in range(16)] == [[2 * i, 0] for i in range(16)]
    assert {int(result["rows"]) for result in results.values()} == {8}
    assert len(server.infer_requests) == 2


async def test_calls_from_many_tasks_share_requests(server, async_client):
    async with async_client.batcher("double", max_wait=LONG) as batcher:
        results = await asyncio.gather(*(batcher.infer_one(x=[i, 0]) for i in range(16)))
    assert [result["y"].tolist() for result in results] == [[2 * i, 0] for i in range(16)]
    assert len(server.infer_requests) == 2


async def test_many_first_calls_ask_about_the_model_once(server, async_client):
    async with async_client.batcher("double", max_wait=LONG) as batcher:
        await asyncio.gather(*(batcher.infer_one(x=[i, 0]) for i in range(64)))
    paths = [request.path for request in server.requests]
    assert paths.count("/v2/models/double") == 1
    assert paths.count("/v2/models/double/config") == 1


def test_a_lonely_call_leaves_after_its_wait(client):
    with client.batcher("double", max_wait=0.001) as batcher:
        assert batcher.infer_one([1, 2])["y"].tolist() == [2, 4]


async def test_a_lonely_call_leaves_after_its_wait_in_tasks(async_client):
    async with async_client.batcher("double", max_wait=0.001) as batcher:
        assert (await batcher.infer_one([1, 2]))["y"].tolist() == [2, 4]


def test_a_refused_call_fails_alone(client):
    with client.batcher("double", max_wait=LONG) as batcher:
        futures = [batcher.submit(x=[-1 if i == 3 else i, 0]) for i in range(8)]
        for i, future in enumerate(futures):
            if i == 3:
                with pytest.raises(BadRequestError, match="negative"):
                    future.result()
            else:
                assert future.result()["y"].tolist() == [2 * i, 0]


async def test_a_refused_call_fails_alone_in_tasks(async_client):
    async with async_client.batcher("double", max_wait=LONG) as batcher:
        calls = (batcher.infer_one(x=[-1 if i == 3 else i, 0]) for i in range(8))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    failed = [i for i, o in enumerate(outcomes) if isinstance(o, BadRequestError)]
    assert failed == [3]


def test_a_wrong_shape_never_joins_the_others(server, client):
    with client.batcher("double", max_wait=LONG) as batcher:
        future = batcher.submit(x=[1, 2])
        with pytest.raises(ShapeError):
            batcher.infer_one(x=[1, 2, 3])
    assert future.result()["y"].tolist() == [2, 4]


def test_close_sends_what_waits_and_ends_the_threads(server, client):
    before = set(threading.enumerate())
    batcher = client.batcher("double", max_wait=LONG)
    futures = [batcher.submit(x=[i, 0]) for i in range(3)]
    batcher.close()
    assert [future.result()["y"][0] for future in futures] == [0, 2, 4]
    ours = {t for t in set(threading.enumerate()) - before if t.name.startswith("aiaas")}
    assert ours == set()
    with pytest.raises(ClientClosedError, match="the batcher of model 'double' is closed"):
        batcher.submit(x=[1, 2])
    batcher.close()


async def test_close_sends_what_waits_in_tasks(server, async_client):
    batcher = async_client.batcher("double", max_wait=LONG)
    futures = [await batcher.submit(x=[i, 0]) for i in range(3)]
    await batcher.close()
    assert [future.result()["y"][0] for future in futures] == [0, 2, 4]
    with pytest.raises(ClientClosedError):
        await batcher.submit(x=[1, 2])


def test_a_cancelled_call_leaves_the_others(server, client):
    with client.batcher("double", max_wait=LONG) as batcher:
        futures = [batcher.submit(x=[i, 0]) for i in range(3)]
        assert futures[1].cancel()
    assert futures[2].result()["y"].tolist() == [4, 0]
    (request,) = server.infer_requests
    assert request.infer.inputs["x"].shape == (2, 2)


async def test_a_cancelled_task_leaves_the_others(server, async_client):
    async with async_client.batcher("double", max_wait=LONG) as batcher:
        await batcher.submit(x=[9, 9])
        tasks = [asyncio.create_task(batcher.infer_one(x=[i, 0])) for i in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
    assert tasks[0].cancelled()
    assert (await tasks[1])["y"].tolist() == [2, 0]


async def test_a_request_nobody_waits_for_is_cancelled(server, async_client):
    async with async_client.batcher("double", max_wait=0.0) as batcher:
        await batcher.infer_one(x=[1, 2])
        with server.hold() as gate:
            tasks = [asyncio.create_task(batcher.infer_one(x=[i, 0])) for i in range(2)]
            await asyncio.to_thread(gate.wait_for, 1)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await batcher.close()  # returns although the gate is shut
            assert not gate.is_open


def test_while_all_requests_are_out_calls_gather(server, client):
    with client.batcher("double", max_wait=0.0, concurrency=1) as batcher:
        batcher.infer_one(x=[0, 0])
        with server.hold() as gate:
            first = batcher.submit(x=[1, 0])
            gate.wait_for(1)
            rest = [batcher.submit(x=[i, 0]) for i in range(5)]
            gate.release()
            assert first.result()["rows"] == 1
            assert {int(future.result()["rows"]) for future in rest} == {5}


async def test_while_all_requests_are_out_tasks_gather(server, async_client):
    batcher = async_client.batcher("double", max_wait=0.0, concurrency=1)
    await batcher.infer_one(x=[0, 0])
    with server.hold() as gate:
        first = await batcher.submit(x=[1, 0])
        await asyncio.to_thread(gate.wait_for, 1)
        rest = [await batcher.submit(x=[i, 0]) for i in range(20)]
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        gate.release()
        await closing
    assert first.result()["rows"] == 1
    assert [int(future.result()["rows"]) for future in rest] == [8] * 16 + [4] * 4


def test_a_failure_of_the_server_reaches_every_call(server, client):
    with client.batcher("double", max_wait=LONG) as batcher:
        futures = [batcher.submit(x=[i, 0]) for i in range(7)]
        server.fail(500, "broken", code="internal")
        futures.append(batcher.submit(x=[7, 0]))
        assert all(isinstance(f.exception(), InternalServerError) for f in futures)


def test_nothing_runs_before_the_first_call(server, client):
    before = threading.active_count()
    with client.batcher("double"):
        assert threading.active_count() == before
    assert server.requests == []


@pytest.mark.parametrize("options", [{"max_wait": -1.0}, {"concurrency": 0}, {"max_rows": 0}])
def test_senseless_options_are_refused(client, options):
    with pytest.raises(InputError, match=f"{next(iter(options))}: expected at least"):
        client.batcher("double", **options)


def test_a_model_without_batches_gets_single_requests(server, client):
    server.add(
        "plain",
        lambda x: {"y": x.sum()},
        inputs=[tensor("x", "FP32", [2])],
        outputs=[tensor("y", "FP32", [])],
    )
    with client.batcher("plain", max_wait=LONG) as batcher:
        futures = [batcher.submit([i, i]) for i in range(3)]
        assert [float(future.result()["y"]) for future in futures] == [0, 2, 4]
