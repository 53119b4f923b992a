"""The builders of calls: what goes out, and how answers are read or refused."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client import AiaasError, InputError, ProtocolError
from aiaas_client._api import oip as calls
from aiaas_client._api.call import Call, Headers, Response
from aiaas_client._api.inference import infer
from aiaas_client.protocol.codec import encode_response
from aiaas_client.protocol.inference import InferRequest, InferResponse, RequestedOutput

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def response(body: bytes, status: int = 200, **headers: str) -> Response:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Response(status, Headers(raw), bytearray(body))


@pytest.mark.parametrize(
    ("call", "method", "path"),
    [
        (calls.health(), "GET", "/v2/health/live"),
        (calls.ready(), "GET", "/v2/health/ready"),
        (calls.ready("m"), "GET", "/v2/models/m/ready"),
        (calls.ready("m", "2"), "GET", "/v2/models/m/versions/2/ready"),
        (calls.server_metadata(), "GET", "/v2"),
        (calls.metadata("m"), "GET", "/v2/models/m"),
        (calls.model_metadata("m", 3), "GET", "/v2/models/m/versions/3"),
        (calls.config("m", "1"), "GET", "/v2/models/m/versions/1/config"),
        (calls.statistics(), "GET", "/v2/models/stats"),
        (calls.statistics("m"), "GET", "/v2/models/m/stats"),
        (calls.index(), "POST", "/v2/repository/index"),
        (calls.load("m"), "POST", "/v2/repository/models/m/load"),
        (calls.unload("m"), "POST", "/v2/repository/models/m/unload"),
        (infer("m", None, InferRequest({"x": X})), "POST", "/v2/models/m/infer"),
        (calls.config("a b/ü", "v0.1"), "GET", "/v2/models/a%20b%2F%C3%BC/versions/v0.1/config"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_endpoint_has_its_method_and_path(call: Call[Any], method: str, path: str) -> None:
    assert (call.method, call.path) == (method, path)


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="model name"):
        calls.config("")


def test_only_loading_and_unloading_are_not_safe_to_repeat() -> None:
    assert not calls.load("m").retryable
    assert not calls.unload("m").retryable
    assert calls.index().retryable
    assert infer("m", None, InferRequest({"x": X})).retryable


def test_an_inference_is_binary_with_its_length_told() -> None:
    call = infer("m", None, InferRequest({"x": X}))
    headers = dict(call.headers)
    body = b"".join(call.content or [])
    length = int(headers[b"Inference-Header-Content-Length"])
    assert headers[b"Content-Type"] == b"application/octet-stream"
    assert body[length:] == X.tobytes()
    assert len(body) == call.content_length


def test_an_inference_may_be_json() -> None:
    call = infer("m", None, InferRequest({"x": X}), binary=False)
    document = json.loads(b"".join(call.content or []))
    assert dict(call.headers) == {b"Content-Type": b"application/json"}
    assert document["inputs"][0]["data"] == X.reshape(-1).tolist()


def answer_of(response_: InferResponse, request: InferRequest) -> Response:
    encoded = encode_response(response_, request)
    told = (
        {}
        if encoded.json_length is None
        else {"Inference_Header_Content_Length": str(encoded.json_length)}
    )
    return response(encoded.join(), **told)


def test_an_inference_answer_becomes_a_result() -> None:
    request = InferRequest({"x": X}, id="r7", binary_output=True)
    call = infer("m", None, request)
    answer = answer_of(InferResponse("m", "3", {"y": X * 2}, id="r7"), request)
    answer.attempts, answer.elapsed = 2, 0.25
    result = call.parse(answer)
    assert (result["y"] == X * 2).all()
    assert result["y"].flags.writeable
    assert (result.model_version, result.request_id, result.attempts) == ("3", "r7", 2)
    assert result.timing.total == 0.25


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(InferResponse("m", "1", {"z": X}), "expected outputs", id="other output"),
        pytest.param(
            InferResponse("m", "1", {"y": X, "z": X}), "expected outputs", id="one too many"
        ),
        pytest.param(InferResponse("m", "1", {}), "expected outputs", id="none"),
        pytest.param(
            InferResponse("m", "1", {"y": X}, id="r8"), "the answer to request 'r7'", id="other id"
        ),
    ],
)
def test_an_answer_to_something_else_is_never_a_result(answer: InferResponse, message: str) -> None:
    request = InferRequest({"x": X}, [RequestedOutput("y")], id="r7")
    sent = InferRequest({"x": X}, id="r7", binary_output=True)
    with pytest.raises(ProtocolError, match=message):
        infer("m", None, request).parse(answer_of(answer, sent))


@pytest.mark.parametrize("length", ["-1", "x", "9999999", ""])
def test_a_wrong_header_length_is_never_a_result(length: str) -> None:
    request = InferRequest({"x": X}, binary_output=True)
    encoded = encode_response(InferResponse("m", "1", {"y": X}), request)
    answer = response(encoded.join(), Inference_Header_Content_Length=length)
    with pytest.raises(ProtocolError, match="model 'm'"):
        infer("m", None, request).parse(answer)


READERS: list[Callable[[], Call[Any]]] = [
    calls.server_metadata,
    calls.index,
    calls.statistics,
    lambda: calls.model_metadata("m"),
    lambda: calls.metadata("m"),
    lambda: calls.config("m"),
    lambda: infer("m", None, InferRequest({"x": X})),
]


@pytest.mark.parametrize("reader", range(len(READERS)))
@given(body=st.binary(max_size=80))
def test_no_bytes_at_all_raise_anything_but_ours(reader: int, body: bytes) -> None:
    with contextlib.suppress(AiaasError):
        READERS[reader]().parse(response(body))


@pytest.mark.parametrize(
    "body", [b"[1]", b'"x"', b"null", b"{}x", b"[" * 100_000], ids=lambda body: body[:4].decode()
)
@pytest.mark.parametrize(
    "call",
    [calls.model_metadata("m"), calls.statistics(), calls.index(), calls.config("m")],
    ids=lambda call: call.path,
)
def test_a_document_of_another_shape_is_refused(call: Call[Any], body: bytes) -> None:
    with pytest.raises(ProtocolError):
        call.parse(response(body))


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (calls.statistics(), b'{"model_stats": 3}'),
        (calls.model_metadata("m"), b'{"inputs": {}}'),
        (calls.model_metadata("m"), b'{"inputs": [{"name": "x", "shape": ["a"]}]}'),
        (calls.server_metadata(), b'{"extensions": [1]}'),
        (calls.index(), b'[{"version": "1"}]'),
    ],
    ids=["statistics", "metadata", "shape", "server", "index"],
)
def test_a_field_of_another_type_is_refused(call: Call[Any], body: bytes) -> None:
    with pytest.raises(ProtocolError):
        call.parse(response(body))


def test_metadata_comes_with_its_etag_and_is_not_sent_twice() -> None:
    first = calls.metadata("m").parse(response(b'{"name": "m"}', ETag='"1"'))
    assert (first.metadata and first.metadata.name, first.etag) == ("m", '"1"')
    again = calls.metadata("m", etag='"1"')
    assert again.headers == ((b"If-None-Match", b'"1"'),)
    assert again.parse(response(b"", 304)) == (None, '"1"')


def test_what_to_load_is_written_as_the_protocol_wants(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x00\x01")
    files = calls.load_files({"1/model.onnx": tmp_path / "model.onnx", "1/labels.txt": b"cat"})
    call = calls.load("m", calls.load_config({"max_batch_size": 4}), files, force=True)
    parameters = json.loads(b"".join(call.content or []))["parameters"]
    assert json.loads(parameters["config"]) == {"max_batch_size": 4}
    assert base64.b64decode(parameters["file:1/model.onnx"]) == b"\x00\x01"
    assert base64.b64decode(parameters["file:1/labels.txt"]) == b"cat"
    assert parameters["force"] is True
    assert calls.load_config('{"a": 1}') == '{"a": 1}'
    assert calls.load("m").content is None


def test_headers_are_found_without_regard_to_case() -> None:
    headers = Headers([(b"X-One", b"1"), (b"x-one", b"2"), (b"ETag", b"e")])
    assert headers["X-ONE"] == "1, 2"
    assert headers.get("etag") == "e"
    assert headers.get("missing") is None
    assert "e-tag" not in headers
    assert dict(headers) == {"x-one": "1, 2", "etag": "e"}


@pytest.mark.parametrize(
    ("told", "queue", "compute"),
    [
        ("queue;dur=85587e-6, compute;dur=2.5", 85.587e-6, 0.0025),
        ("queue;dur=0e-6, compute;dur=20", 0.0, 0.02),
        ("queue;dur=1.2.3, compute;dur=20", None, 0.02),
        ("queue;dur=-1, compute;dur=20", -0.001, 0.02),
        ("queue;dur=1,compute;dur=20", 0.001, 0.02),
    ],
)
def test_every_spelling_of_the_times_is_read(
    told: str, queue: float | None, compute: float
) -> None:
    timing = response(b"", Server_Timing=told).timing
    assert timing.server_queue == (queue if queue is None else pytest.approx(queue))
    assert timing.server_compute == pytest.approx(compute)


def test_the_server_tells_its_own_times() -> None:
    answer = response(b"", Server_Timing="queue;dur=1.5, compute;desc=x;dur=20, odd, bad;dur=x")
    answer.elapsed = 0.5
    assert answer.timing.total == 0.5
    assert answer.timing.server_queue == pytest.approx(0.0015)
    assert answer.timing.server_compute == pytest.approx(0.02)
