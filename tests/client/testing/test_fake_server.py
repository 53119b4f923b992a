"""FakeServer behaves as a real server does, and as a broken one when asked to."""

from __future__ import annotations

import http.client
import json
import threading
import zlib
from urllib.parse import urlsplit

import numpy as np
import pytest

from aiaas_client import (
    APIConnectionError,
    AsyncClient,
    BadRequestError,
    Classification,
    Client,
    ModelNotFoundError,
    QueueFullError,
)
from aiaas_client.protocol.codec import decode_response, encode_request
from aiaas_client.protocol.inference import InferRequest, RequestedOutput
from aiaas_client.testing import FakeError, FakeServer, tensor


def scores(x):
    if (x == 418).any():
        raise FakeError(422, "a teapot")
    if (x == 500).any():
        raise RuntimeError("broken model")
    return {"y": x * 2, "z": x + 1}


@pytest.fixture
def server():
    with FakeServer() as server:
        server.add(
            "m",
            scores,
            inputs=[tensor("x", "FP32", [-1, 2])],
            outputs=[tensor("y", "FP32", [-1, 2]), tensor("z", "FP32", [-1, 2])],
            max_batch_size=4,
            versions=["1", "2"],
        )
        yield server


def call(server, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def infer(server, array, *, binary=True, outputs=(), path="/v2/models/m/infer"):
    request = InferRequest({"x": np.asarray(array, np.float32)}, list(outputs), id="7")
    encoded = encode_request(request, binary=binary)
    headers = {}
    if encoded.json_length is not None:
        headers["Inference-Header-Content-Length"] = str(encoded.json_length)
    status, answered, body = call(server, "POST", path, encoded.join(), headers)
    if status != 200:
        return status, json.loads(body)
    length = answered.get("Inference-Header-Content-Length")
    return status, decode_response(bytearray(body), None if length is None else int(length))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_it_runs_the_function(server, binary):
    status, answer = infer(server, [[1, 2]], binary=binary)
    assert status == 200
    assert answer.outputs["y"].tolist() == [[2, 4]]
    assert answer.outputs["z"].tolist() == [[2, 3]]
    assert (answer.id, answer.model_name, answer.model_version) == ("7", "m", "2")
    assert server.infer_requests[0].binary is binary
    assert server.infer_requests[0].infer.inputs["x"].tolist() == [[1, 2]]


def test_outputs_and_classification_can_be_chosen(server):
    _, answer = infer(server, [[1, 5]], outputs=[RequestedOutput("z", classification=1)])
    assert {name: array.tolist() for name, array in answer.outputs.items()} == {"z": [[b"6.0:1"]]}


@pytest.mark.parametrize(
    ("array", "status", "text"),
    [
        pytest.param(np.zeros((1, 3)), 400, "expected shape (-1, 2), got (1, 3)", id="shape"),
        pytest.param(np.zeros((5, 2)), 400, "at most 4 rows", id="batch"),
        pytest.param([[418, 0]], 422, "a teapot", id="a chosen status"),
        pytest.param([[500, 0]], 500, "RuntimeError: broken model", id="a broken model"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(server, array, status, text):
    got, body = infer(server, array)
    assert got == status
    assert text in body["error"]
    assert body["code"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("GET", "/v2/models/m", 200),
        ("GET", "/v2/models/m/versions/1", 200),
        ("GET", "/v2/models/m/versions/9", 404),
        ("GET", "/v2/models/m/config", 200),
        ("GET", "/v2/models/m/ready", 200),
        ("GET", "/v2/models/m/stats", 200),
        ("GET", "/v2/models/stats", 200),
        ("POST", "/v2/repository/index", 200),
        ("POST", "/v2/repository/models/m/unload", 200),
        ("POST", "/v2/repository/models/x/load", 404),
        ("GET", "/v2/models/x", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("GET", "/nothing", 404),
    ],
)
def test_routes(server, method, path, status):
    assert call(server, method, path)[0] == status


def test_metadata_config_and_statistics_agree_with_the_signature(server):
    infer(server, np.zeros((3, 2)))
    metadata = json.loads(call(server, "GET", "/v2/models/m")[2])
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    config = json.loads(call(server, "GET", "/v2/models/m/config")[2])
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (4, [2])
    (entry,) = json.loads(call(server, "GET", "/v2/models/m/stats")[2])["model_stats"]
    assert (entry["inference_count"], entry["execution_count"]) == (3, 1)


def test_an_unloaded_model_is_gone_until_it_is_loaded(server):
    call(server, "POST", "/v2/repository/models/m/unload")
    assert infer(server, [[1, 2]])[0] == 404
    call(server, "POST", "/v2/repository/models/m/load")
    assert infer(server, [[1, 2]])[0] == 200


def test_a_server_without_the_binary_extension_refuses_binary():
    with FakeServer({"m": lambda x: x}, binary=False) as server:
        assert infer(server, [[1, 2]])[0] == 400
        assert infer(server, [[1, 2]], binary=False)[1].outputs["output"].tolist() == [[1, 2]]


def test_a_key_is_asked_for_when_there_is_one():
    with FakeServer(api_key="secret") as server:
        assert call(server, "GET", "/v2")[0] == 401
        assert call(server, "GET", "/v2/health/live")[0] == 200
        assert call(server, "GET", "/v2", headers={"Authorization": "Bearer secret"})[0] == 200


def test_compressed_and_chunked_bodies_are_read(server):
    body = encode_request(InferRequest({"x": np.ones((1, 2), np.float32)}), binary=False).join()
    packed = {"Content-Encoding": "deflate"}
    assert call(server, "POST", "/v2/models/m/infer", zlib.compress(body), packed)[0] == 200
    assert call(server, "POST", "/v2/models/m/infer", iter([body[:9], body[9:]]))[0] == 200


def test_a_failure_is_told_as_asked_and_then_over(server):
    server.fail(503, "busy", times=2, retry_after=1.5, code="queue_full", retryable=True)
    status, headers, body = call(server, "POST", "/v2/models/m/infer")
    assert (status, headers["Retry-After"]) == (503, "1.5")
    assert json.loads(body) == {"error": "busy", "code": "queue_full", "retryable": True}
    assert call(server, "GET", "/v2")[0] == 200  # another path is left alone
    assert infer(server, [[1, 2]])[0] == 503
    assert infer(server, [[1, 2]])[0] == 200


def test_broken_answers(server):
    server.drop()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        infer(server, [[1, 2]])
    server.truncate(5)
    with pytest.raises(http.client.IncompleteRead):
        infer(server, [[1, 2]])
    server.garbage(b"?")
    assert call(server, "POST", "/v2/models/m/infer")[2] == b"?"
    server.wrong_shape()
    with pytest.raises(ValueError, match="y"):
        infer(server, [[1, 2]])


def test_a_gate_holds_requests_until_released(server):
    answers = []
    with server.hold() as gate:
        threads = [
            threading.Thread(target=lambda: answers.append(infer(server, [[1, 2]])[0]))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        gate.wait_for(3)
        assert answers == []
        gate.release()
        for thread in threads:
            thread.join()
    assert answers == [200, 200, 200]
    assert infer(server, [[1, 2]])[0] == 200


def test_waiting_for_requests_ends_with_a_clear_error(server):
    infer(server, [[1, 2]])
    server.wait_for(1)
    with pytest.raises(TimeoutError, match="expected 2 inference requests, got 1"):
        server.wait_for(2, timeout=0.01)


def test_a_signature_that_does_not_fit_the_function_is_told(server):
    with pytest.raises(ValueError, match="model 'n': its function has no argument 'y'"):
        server.add("n", lambda x: x, inputs=[tensor("y", "FP32", [1])])


def test_closing_ends_idle_connections_and_threads():
    before = set(threading.enumerate())
    server = FakeServer()
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120)
    connection.request("GET", "/v2")
    connection.getresponse().read()
    server.close()
    server.close()
    connection.close()
    assert set(threading.enumerate()) <= before


def moods(text, top_k=None):
    if not text:
        raise ValueError("text is empty")
    label = "positive" if "good" in text else "negative"
    return Classification(label=label, score=0.9, scores={label: 0.9})


def test_tasks_are_functions_of_one_payload():
    with FakeServer() as server, Client(server.url) as client:
        server.add_task("moods", moods, task="text-classification")
        model = client.text_classification("moods")
        assert model.predict("good film", top_k=1) == moods("good film")
        found = list(model.predict_many(["good", "", "bad"], on_error="return"))
        assert [type(one).__name__ for one in found] == [
            "Classification",
            "BadRequestError",
            "Classification",
        ]
        with pytest.raises(BadRequestError, match="text is empty"):
            model.predict("")
        assert model.card()["task"] == "text-classification"
        with pytest.raises(ModelNotFoundError):
            client.model("none").predict("a")


def test_files_reach_a_task_as_bytes():
    with FakeServer() as server, Client(server.url) as client:
        server.add_task("size", lambda data: {"value": len(data)}, task="tabular-regression")
        assert client.model("size").predict(b"12345").value == 5.0


def test_faults_hit_predictions_too():
    with FakeServer() as server, Client(server.url) as client:
        server.add_task("moods", moods, task="text-classification")
        server.fail(503, path=":predict", retry_after=0.0)
        assert client.model("moods").predict("good").label == "positive"
        assert len(server.requests) == 2


def words(prompt, max_tokens=3, fail_at=None):
    for place, word in enumerate(prompt.split()[:max_tokens]):
        if place == fail_at:
            raise FakeError(503, "no more words", code="queue_full")
        yield {"text": f"{word} ", "place": place}


@pytest.fixture
def story():
    with FakeServer() as server, Client(server.url) as client:
        server.add_generator("story", words)
        yield server, client.model("story")


def test_a_generator_function_is_a_model_that_streams(story):
    server, model = story
    events = model.generate_stream(prompt="once upon a time", parameters={"max_tokens": 2})
    assert list(events) == [{"text": "once ", "place": 0}, {"text": "upon ", "place": 1}]
    assert model.generate(prompt="once upon") == {"text": "once upon ", "place": 1}
    assert [request.path.rpartition("/")[2] for request in server.requests] == [
        "generate_stream",
        "generate",
    ]


async def test_a_generator_answers_tasks_of_an_event_loop_and_versions_as_well():
    with FakeServer() as server:
        server.add_generator("story", words)
        async with AsyncClient(server.url) as client:
            events = client.model("story", 1).generate_stream(prompt="once upon")
            assert [event["text"] async for event in events] == ["once ", "upon "]


def test_an_error_before_the_first_event_is_the_answer_and_a_later_one_an_event(story):
    server, model = story
    with pytest.raises(BadRequestError, match="missing a required argument: 'prompt'"):
        next(model.generate_stream(text="once"))
    with Client(server.url, max_retries=0) as client:
        early = client.model("story").generate_stream(prompt="a b", fail_at=0)
        with pytest.raises(QueueFullError, match="no more words") as refused:
            next(early)
        assert refused.value.status_code == 503
        with pytest.raises(ModelNotFoundError):
            client.model("none").generate(prompt="a")
    events = model.generate_stream(prompt="a b", fail_at=1)
    assert next(events)["text"] == "a "
    with pytest.raises(QueueFullError, match="no more words") as late:
        next(events)
    assert late.value.status_code == 200


def test_a_stream_that_is_left_closes_its_generator():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield {"text": "x" * 65536}
        finally:
            closed.set()

    with FakeServer() as server, Client(server.url) as client:
        server.add_generator("endless", endless)
        with client.model("endless").generate_stream() as events:
            next(events)
        assert closed.wait(20)


def test_faults_hit_streams_too(story):
    server, model = story
    server.fail(429, path="/generate_stream", retry_after=0.0)
    assert len(list(model.generate_stream(prompt="a b"))) == 2  # the retry
    server.truncate(1, path="/generate_stream")
    events = model.generate_stream(prompt="a b")
    assert next(events)["text"] == "a "
    with pytest.raises(APIConnectionError):
        next(events)
    server.alter(lambda event: event.replace(b"a ", b"b "), path="/generate_stream")
    assert next(model.generate_stream(prompt="a"))["text"] == "b "
