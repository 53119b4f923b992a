"""Many at once: right numbers for everyone, no request lost in a reload, none left by a leaver."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import closing
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests.waiting import until, wait_until

LENGTH = "inference-header-content-length"


def binary(name: str, array: np.ndarray) -> tuple[bytes, dict[str, str]]:
    one = {
        "name": name,
        "datatype": "FP32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    head = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    return head + array.tobytes(), {LENGTH: str(len(head))}


def only_output(answer: Any) -> np.ndarray:
    assert answer.status == 200, answer.body
    length = int(answer.headers[LENGTH])
    (output,) = json.loads(answer.body[:length])["outputs"]
    return np.frombuffer(answer.body[length:], "<f4").reshape(output["shape"])


async def test_64_mixed_requests_at_once_equal_onnxruntime_itself(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    config = "max_batch_size: 16\ndynamic_batching {}\n"
    models = {"sum": onnx_models.row_sum(), "mlp": onnx_models.mlp()}
    root = make_repository(models, configs=dict.fromkeys(models, config))
    call = await open_app(root)
    sessions = {name: ort.InferenceSession(model) for name, model in models.items()}
    rng = np.random.default_rng(7)

    async def one(number: int) -> None:
        rows = 1 + number % 5
        if number % 2:
            name, tensor, shape = "mlp", "image", (rows, 784)
        else:
            name, tensor, shape = "sum", "x", (rows, 1 + number % 7, 1 + number % 3)
        array = rng.standard_normal(shape).astype(np.float32)
        body, headers = binary(tensor, array)
        got = only_output(await call("POST", f"/v2/models/{name}/infer", body, headers))
        (expected,) = sessions[name].run(None, {tensor: array})
        # Another batch size may choose another matrix kernel: the last bits may differ.
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)

    await asyncio.gather(*(one(number) for number in range(64)))
    entries = (await call("GET", "/v2/models/stats")).json()["model_stats"]
    counts = {entry["name"]: entry for entry in entries}
    for entry in counts.values():
        assert entry["inference_stats"]["success"]["count"] == 32
        assert entry["execution_count"] < 32  # they were batched


async def test_exact_models_are_bit_for_bit_whatever_the_batch(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(make_repository({"scale": onnx_models.scale(3.0)}))

    async def one(number: int) -> None:
        array = np.random.default_rng(number).standard_normal((1 + number % 4, 4))
        array = array.astype(np.float32)
        body, headers = binary("x", array)
        got = only_output(await call("POST", "/v2/models/scale/infer", body, headers))
        assert got.tobytes() == (array * np.float32(3.0)).tobytes()

    await asyncio.gather(*(one(number) for number in range(64)))


async def test_a_reload_under_load_loses_no_request(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(make_repository({"scale": onnx_models.scale()}))
    body, headers = binary("x", np.ones((1, 4), np.float32))
    reloaded = asyncio.Event()
    answered = 0

    async def caller() -> None:
        nonlocal answered
        while not reloaded.is_set():
            got = only_output(await call("POST", "/v2/models/scale/infer", body, headers))
            assert got.tolist() == [[2, 2, 2, 2]]
            answered += 1
            await asyncio.sleep(0)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    force = {"parameters": {"force": True}}
    for _ in range(10):
        reload = await call("POST", "/v2/repository/models/scale/load", force)
        assert reload.status == 200
    reloaded.set()
    await asyncio.gather(*callers)
    entry = (await call("GET", "/v2/models/scale/stats")).json()["model_stats"][0]
    assert entry["inference_stats"]["success"]["count"] == answered > 10
    assert entry["inference_stats"]["fail"]["count"] == 0


async def test_a_full_queue_is_503_with_retry_after(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    root = make_repository({"busy": onnx_models.busy()})
    call = await open_app(root, queue_size=1, instances=1)
    path = "/v2/models/busy/infer"
    steps = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [2000]}
    await call("POST", path, {"inputs": [steps]})  # shows that the model is slow
    answers = await asyncio.gather(*(call("POST", path, {"inputs": [steps]}) for _ in range(8)))
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    for answer in refused:
        assert (answer.status, answer.json()["code"]) == (503, "queue_full")
        assert answer.json()["retryable"]
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_full_server_refuses_a_body_before_it_is_read(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(make_repository({"scale": onnx_models.scale()}))
    budget = call.app.pool.budget
    budget.count = budget.max_count
    answer = await call("POST", "/v2/models/scale/infer", (b"{", b"not read"))
    budget.count = 0
    assert (answer.status, answer.json()["code"]) == (503, "queue_full")
    assert int(answer.headers["retry-after"]) >= 1


async def test_an_expected_body_is_not_asked_for_when_it_cannot_be_served(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(make_repository({"scale": onnx_models.scale()}))
    app = call.app
    asked = []

    async def spying(scope: Any, receive: Any, send: Any) -> None:
        async def receiving() -> Any:
            asked.append(scope["path"])
            return await receive()

        await app(scope, receiving, send)

    spy: Any = type(call)(spying)
    expect = {"expect": "100-continue"}
    assert (await spy("POST", "/v2/models/nope/infer", b"{}", expect)).status == 404
    assert not asked
    assert (await spy("POST", "/v2/models/scale/infer", b"{}", expect)).status == 400
    assert asked


async def test_a_full_model_refuses_a_body_before_it_is_read(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    root = make_repository({"busy": onnx_models.busy(), "scale": onnx_models.scale()})
    call = await open_app(root, queue_size=1, instances=1)
    path = "/v2/models/busy/infer"
    steps = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [3000]}
    await call("POST", path, {"inputs": [steps]})  # shows that the model is slow
    running = [asyncio.create_task(call("POST", path, {"inputs": [steps]})) for _ in range(2)]
    scheduler = call.app.pool.resolve("busy").scheduler
    await until(lambda: scheduler.pending >= 2)
    answer = await call("POST", path, (b"{", b"not read"))
    assert (answer.status, answer.json()["code"]) == (503, "queue_full")
    other = await call("POST", "/v2/models/scale/infer", (b"{", b"read"))
    assert other.status == 400
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_body_that_cannot_be_answered_in_time_is_refused_before_it_is_read(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    call = await open_app(make_repository({"busy": onnx_models.busy()}), instances=1)
    path = "/v2/models/busy/infer"
    steps = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [3000]}
    scheduler = call.app.pool.resolve("busy").scheduler
    for _ in range(3):  # a run takes an hour, as far as is known, and never runs on the loop
        scheduler._costs.measured(None, 1, 1, 8, 3600 * 10**9)
    running = asyncio.create_task(call("POST", path, {"inputs": [steps]}))
    await until(lambda: scheduler.pending >= 1)
    answer = await call("POST", path, (b"{", b"not read"))
    assert (answer.status, answer.json()["code"]) == (503, "queue_full")
    assert "overloaded" in answer.json()["error"]
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def request(steps: int) -> bytes:
    """A whole request for the `busy` model."""
    one = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [steps]}
    body = json.dumps({"inputs": [one]}).encode()
    head = f"POST /v2/models/busy/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def test_health_is_answered_while_a_model_that_was_quick_so_far_runs_for_long(
    serve: Any, make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    server = serve(make_repository({"busy": onnx_models.busy()}))
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        for _ in range(5):
            connection.sendall(request(1))
            assert connection.recv(1 << 20).startswith(b"HTTP/1.1 200")
    long = socket.create_connection(("127.0.0.1", server.port))
    health = HTTPConnection("127.0.0.1", server.port, timeout=120)
    with long, closing(health):
        long.sendall(request(10**8))  # an hour of work
        wait_for(server, lambda statistics: statistics.pending == 1)
        for _ in range(20):
            health.request("GET", "/v2/health/live")
            answer = health.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"live":true}')


@pytest.mark.parametrize(
    "way",
    [
        pytest.param({}, id="lane"),
        pytest.param({"lane": False}, id="own edge"),
        pytest.param({"edge": False}, id="plain uvicorn"),
    ],
)
def test_a_client_that_leaves_stops_its_run(
    serve: Any, make_repository: Any, onnx_models: SimpleNamespace, way: dict[str, bool]
) -> None:
    server = serve(make_repository({"busy": onnx_models.busy()}), **way, instances=1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request(2000))  # shows that the model is slow
        assert connection.recv(20).startswith(b"HTTP/1.1 200")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request(10**8))  # an hour of work
        wait_for(server, lambda statistics: statistics.pending == 1)
    wait_for(server, lambda statistics: statistics.pending == 0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as connection:
        connection.sendall(request(10))
        assert connection.recv(20).startswith(b"HTTP/1.1 200")


def wait_for(server: Any, holds: Any) -> None:
    """Wait until the model's statistics are as they should be."""
    statistics = server.app.pool.resolve("busy").statistics
    wait_until(lambda: holds(statistics))
