"""What goes wrong, and what takes long, on a connection: the same with and without the lane."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from aiaas_server.app import create_app
from aiaas_server.core.events import InferenceRecord
from aiaas_server.settings import Settings
from tests.server.http.edge_caller import EdgeCaller, Pipe, whole_answer, wire_form
from tests.server.http.serving import Answer
from tests.waiting import until

TRACES = [f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333{number}-01" for number in range(9)]
ONE_AT_A_TIME = json.dumps({"instance_group": [{"count": 1}]})
BATCHING = json.dumps({"max_batch_size": 8, "dynamic_batching": {}})


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def steps(count: int) -> Any:
    """For `busy`: so many steps of work."""
    return {"inputs": [tensor("steps", "INT64", [1], [count])]}


def row(value: float = 1.0, rows: int = 1) -> Any:
    """For `scale`."""
    return {"inputs": [tensor("x", "FP32", [rows, 4], [value] * 4 * rows)]}


def index(value: int) -> Any:
    """For `lookup`, which fails above 9."""
    return {"inputs": [tensor("index", "INT64", [1, 1], [value])]}


def sent_to(model: str, document: Any, **headers: str) -> bytes:
    """A whole request."""
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return b"".join(wire_form("POST", f"/v2/models/{model}/infer", document, lines))


@pytest.fixture(params=[True, False], ids=["lane", "asgi"])
def lane(request: pytest.FixtureRequest) -> bool:
    """Whether the connection answers hot requests itself."""
    return bool(request.param)


Open = Callable[..., Awaitable[EdgeCaller]]


@pytest_asyncio.fixture
async def open_edge(lane: bool, make_repository: Any, onnx_models: Any) -> AsyncIterator[Open]:
    """`caller = await open_edge(**settings)`: an application with four models behind the edge."""
    async with AsyncExitStack() as stack:

        async def make(observers: Any = (), **settings: Any) -> EdgeCaller:
            root = make_repository(
                {
                    "busy": onnx_models.busy(),
                    "scale": onnx_models.scale(),
                    "batched": onnx_models.scale(),
                    "lookup": onnx_models.lookup(),
                    "joined": onnx_models.lookup(),
                },
                configs={
                    "busy": ONE_AT_A_TIME,
                    "lookup": json.dumps({"max_batch_size": 0}),
                    "batched": BATCHING,
                    "joined": BATCHING,
                },
            )
            app = create_app(Settings(models=root, **settings), observers=observers)
            return EdgeCaller(await stack.enter_async_context(app), lane=lane)

        yield make


async def asked(caller: EdgeCaller, *sent: bytes) -> list[Answer]:
    """Send all in one piece on one connection, and wait for an answer to each."""
    _, pipe = caller.connect()
    pipe.send(b"".join(sent))
    answers = [await whole_answer(pipe) for _ in sent]
    await closed(pipe)
    return answers


async def closed(*pipes: Pipe) -> None:
    for pipe in pipes:
        pipe.close()
    await asyncio.sleep(0)


async def on_a_thread(caller: EdgeCaller) -> Any:
    """Show the server that `busy` is slow; its statistics."""
    (answer,) = await asked(caller, sent_to("busy", steps(3000)))
    assert answer.status == 200
    return caller.app.pool.resolve("busy").statistics


# Clients that leave


async def test_a_client_that_leaves_takes_its_run_and_its_place_in_the_queue_along(
    open_edge: Open,
) -> None:
    caller = await open_edge(instances=1)
    statistics = await on_a_thread(caller)
    running, queued = caller.connect()[1], caller.connect()[1]
    for pipe in (running, queued):
        pipe.send(sent_to("busy", steps(10**8)))
    await until(lambda: statistics.pending == 2)
    await closed(queued)
    await until(lambda: statistics.pending == 1)
    await closed(running)
    await until(lambda: statistics.pending == 0)
    await until(lambda: caller.app.pool.resolve("busy").scheduler.pending == 0)
    assert statistics.failures["CANCELED"] == 2
    (answer,) = await asked(caller, sent_to("busy", steps(1)))
    assert answer.status == 200


@pytest.mark.parametrize("offload", [1 << 14, 1 << 20], ids=["later", "at once"])
async def test_a_client_that_leaves_while_a_large_answer_is_written_harms_nobody(
    open_edge: Open, offload: int
) -> None:
    caller = await open_edge(offload_json_bytes=offload)
    for turns in range(12):
        _, pipe = caller.connect()
        pipe.send(sent_to("busy", steps(1)))
        for _ in range(turns):
            await asyncio.sleep(0)
        await closed(pipe)
    await until(lambda: not caller.state.connections and not caller.state.tasks)
    (answer,) = await asked(caller, sent_to("busy", steps(1)))
    assert answer.json()["outputs"][0]["shape"] == [128, 128]


# Answers


@pytest.mark.parametrize("offload", [1 << 14, 1 << 20], ids=["later", "at once"])
async def test_answers_of_every_size_come_whole_and_in_order(open_edge: Open, offload: int) -> None:
    caller = await open_edge(offload_json_bytes=offload)
    binary = {"parameters": {"binary_data_output": True}}
    asking = [
        sent_to("scale", row(3.0, 20)),
        sent_to("busy", steps(1)),
        sent_to("busy", steps(2) | binary),
        sent_to("scale", row(3.0, 800)),
        sent_to("scale", row(3.0, 800) | binary),
    ]
    for _ in range(2):
        for count, square, tail, rows, rows_tail in [await asked(caller, *asking)]:
            assert count.json()["outputs"][0]["data"] == [6.0] * 80
            assert np.array_equal(square.json()["outputs"][0]["data"], np.eye(128).reshape(-1))
            assert np.array_equal(binary_of(tail), np.eye(128).reshape(-1))
            assert rows.json()["outputs"][0]["data"] == [6.0] * 3200
            assert np.array_equal(binary_of(rows_tail), [6.0] * 3200)


def binary_of(answer: Answer) -> Any:
    """The one tensor of an answer in binary."""
    length = int(answer.headers["inference-header-content-length"])
    return np.frombuffer(answer.body[length:], np.float32)


async def test_an_answer_is_compressed_for_whoever_wants_it(open_edge: Open) -> None:
    caller = await open_edge()
    document = row(1.0, 500)
    answers = await asked(
        caller, sent_to("scale", document), sent_to("scale", document, accept_encoding="gzip")
    )
    assert [answer.headers.get("content-encoding") for answer in answers] == [None, "gzip"]
    assert gzip.decompress(answers[1].body) == answers[0].body


# Failures


@pytest.mark.parametrize("model", ["lookup", "joined"])
@pytest.mark.parametrize("traced", [True, False], ids=["traced", "plain"])
async def test_a_model_that_fails_tells_each_who_asked(
    open_edge: Open, model: str, traced: bool
) -> None:
    records: list[InferenceRecord] = []
    caller = await open_edge(observers=[records.append] if traced else ())
    asking = [
        sent_to(model, index(value), **({"traceparent": TRACES[number]} if traced else {}))
        for number, value in enumerate((1, 99, 2, 98))
    ]
    pipes = [caller.connect()[1] for _ in asking]
    for _ in range(3):
        for pipe, sent in zip(pipes, asking, strict=True):
            pipe.send(sent)
        answers = [await whole_answer(pipe) for pipe in pipes]
        assert [answer.status for answer in answers] == [200, 400, 200, 400]
        assert answers[0].json()["outputs"][0]["data"] == [10.0]
    if traced:
        failed = {record.caller.traceparent for record in records if record.failure}
        assert failed == {TRACES[1], TRACES[3]}
        assert len(records) == 12
    await closed(*pipes)


async def test_observers_learn_who_asked_and_never_of_the_one_before(open_edge: Open) -> None:
    records: list[InferenceRecord] = []
    caller = await open_edge(observers=[records.append])
    for _ in range(2):
        asking = [
            sent_to("scale", row(), traceparent=TRACES[0], x_request_id="one"),
            sent_to("scale", row()),
            sent_to("batched", row(), traceparent=TRACES[1], x_request_id="three"),
            sent_to("batched", row()),
            sent_to("scale", row(), accept_encoding="gzip"),
            sent_to("nobody", row()),
        ]
        answers = await asked(caller, *asking)
        ids = [answer.headers["x-request-id"] for answer in answers]
        assert ids[0] == "one"
        assert ids[2] == "three"
        assert [record.caller.request_id for record in records] == ids[:-1]
        traces = [record.caller.traceparent for record in records]
        assert traces == [TRACES[0], "", TRACES[1], "", ""]
        records.clear()


async def test_a_trace_known_to_nobody_else_goes_no_further(open_edge: Open) -> None:
    """Many connections whose requests run in one batch: each is told by its own id alone."""
    records: list[InferenceRecord] = []
    caller = await open_edge(observers=[records.append])
    pipes = [caller.connect()[1] for _ in range(8)]
    for number, pipe in enumerate(pipes):
        headers = {"traceparent": TRACES[number]} if number % 2 else {}
        pipe.send(sent_to("batched", row(), x_request_id=f"r{number}", **headers))
    for number, pipe in enumerate(pipes):
        assert (await whole_answer(pipe)).headers["x-request-id"] == f"r{number}"
    told = {record.caller.request_id: record.caller.traceparent for record in records}
    assert told == {f"r{n}": TRACES[n] if n % 2 else "" for n in range(8)}
    await closed(*pipes)


# Time


async def test_a_deadline_passes_in_the_queue_and_in_the_run(open_edge: Open) -> None:
    caller = await open_edge(instances=1)
    statistics = await on_a_thread(caller)
    pipes = [caller.connect()[1] for _ in range(2)]
    for pipe, limit in zip(pipes, ("300", "200"), strict=True):
        pipe.send(sent_to("busy", steps(10**8), x_request_timeout_ms=limit))
    for pipe in pipes:
        answer = await whole_answer(pipe)
        assert (answer.status, answer.json()["code"]) in {
            (504, "deadline_exceeded"), (503, "queue_full"),
        }  # fmt: skip
    await until(lambda: statistics.pending == 0)
    pipes[0].send(sent_to("busy", steps(1)))  # the connection goes on
    assert (await whole_answer(pipes[0])).status == 200
    await closed(*pipes)


async def test_the_health_of_the_server_is_told_while_a_model_runs(open_edge: Open) -> None:
    caller = await open_edge(instances=1)
    statistics = await on_a_thread(caller)
    _, pipe = caller.connect()
    pipe.send(sent_to("busy", steps(10**8)))
    await until(lambda: statistics.pending == 1)
    for _ in range(3):
        assert (await caller("GET", "/v2/health/live")).body == b'{"live":true}'
        assert (await caller("GET", "/v2/health/ready")).body == b'{"ready":true}'
    await closed(pipe)
    await until(lambda: statistics.pending == 0)


# Models that come and go


async def test_a_model_unloaded_between_queue_and_run_answers_what_it_took(
    open_edge: Open,
) -> None:
    caller = await open_edge(instances=1)
    statistics = await on_a_thread(caller)
    pipes = [caller.connect()[1] for _ in range(3)]
    for pipe in pipes:
        pipe.send(sent_to("busy", steps(2000)))
    await until(lambda: statistics.pending == 3)
    unloading = asyncio.create_task(caller.app.pool.unload("busy"))
    for pipe in pipes:
        assert (await whole_answer(pipe)).status == 200
    await unloading
    pipes[0].send(sent_to("busy", steps(1)))  # a head that is known
    answer = await whole_answer(pipes[0])
    assert answer.status in (404, 503)
    await closed(*pipes)


async def test_known_heads_run_the_model_that_is_loaded_now(
    open_edge: Open, make_repository: Any, onnx_models: Any
) -> None:
    caller = await open_edge()
    _, pipe = caller.connect()
    for factor in (2, 3):
        if factor == 3:
            root = caller.app.settings.models
            make_repository({"scale": onnx_models.scale(3)}, root=root)
            force = {"parameters": {"force": True}}
            load = await caller("POST", "/v2/repository/models/scale/load", force)
            assert load.status == 200
        for _ in range(3):
            pipe.send(sent_to("scale", row()))
            assert (await whole_answer(pipe)).json()["outputs"][0]["data"] == [factor] * 4
    await closed(pipe)


async def test_what_comes_while_the_server_stops_is_refused_and_what_was_taken_answered(
    open_edge: Open,
) -> None:
    caller = await open_edge(instances=1)
    statistics = await on_a_thread(caller)
    _, pipe = caller.connect()
    pipe.send(sent_to("busy", steps(2000)))
    await until(lambda: statistics.pending == 1)
    caller.app.pool.begin_drain()
    answer = await caller("GET", "/v2/health/ready")
    assert (answer.status, answer.json()["code"]) == (503, "draining")
    assert (await caller("GET", "/v2/health/live")).status == 200
    caller.protocol.edge.draining = True
    (refused,) = await asked(caller, sent_to("scale", row()))
    assert (refused.status, refused.json()["code"]) == (503, "draining")
    assert (await whole_answer(pipe)).status == 200
    await closed(pipe)


# Memory


@pytest.mark.parametrize(
    "kind", ["binary", "json", "health", "error", "unknown", "batched", "failing", "traced"]
)
async def test_a_thousand_requests_leave_nothing_to_the_collector(
    open_edge: Open, kind: str
) -> None:
    caller = await open_edge()
    binary = row() | {"parameters": {"binary_data_output": True}}
    sent = {
        "binary": sent_to("scale", binary),
        "json": sent_to("scale", row()),
        "health": b"".join(wire_form("GET", "/v2/health/ready", b"", {})),
        "error": sent_to("scale", {"inputs": []}),
        "unknown": sent_to("nobody", row()),
        "batched": sent_to("batched", row()),
        "failing": sent_to("lookup", index(99)),
        "traced": sent_to("scale", row(), traceparent=TRACES[0]),
    }[kind]
    _, pipe = caller.connect()
    for _ in range(20):
        pipe.send(sent)
        await whole_answer(pipe)
    gc.collect()
    gc.disable()
    try:
        for _ in range(1000 if caller.protocol.edge.hot else 100):
            pipe.send(sent)
            await whole_answer(pipe)
        assert gc.collect() < 50
    finally:
        gc.enable()
    await closed(pipe)


async def test_a_connection_is_freed_when_it_ends(open_edge: Open) -> None:
    caller = await open_edge()
    gc.disable()
    try:
        gone = []
        for sent in (sent_to("scale", row()), sent_to("nobody", row()), b"GET / HTTP/1.1\r\nHo"):
            connection, pipe = caller.connect()
            pipe.send(sent * 2)
            if sent.endswith(b"}"):
                assert (await whole_answer(pipe)).headers
                assert (await whole_answer(pipe)).headers
            gone.append(weakref.ref(connection))
            await closed(pipe)
            pipe.forget()
            del connection, pipe
        await until(lambda: all(reference() is None for reference in gone))
    finally:
        gc.enable()
