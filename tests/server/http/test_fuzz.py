"""Whatever the bytes are, the answer is a JSON error of the client's kind, never a 5xx."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import Answer, AsgiCaller

INFER = "/v2/models/scale/infer"
HEAD = json.dumps(
    {
        "id": "1",
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, 4],
                "parameters": {"binary_data_size": 16},
            }
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
).encode()
GOOD = HEAD + np.arange(4, dtype="<f4").tobytes()

NAMES = [
    "accept-encoding",
    "authorization",
    "content-encoding",
    "content-length",
    "traceparent",
    "x-request-id",
    "x-request-timeout-ms",
]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["x", "y", "FP32", "BYTES", "INT64", "data", 2**63, -1, 2**31])
)
documents = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "inputs",
                    "outputs",
                    "parameters",
                    "name",
                    "datatype",
                    "shape",
                    "data",
                    "binary_data_size",
                    "binary_data",
                    "classification",
                    "shared_memory_region",
                    "priority",
                    "timeout",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


class Server:
    """A started application and the loop it runs on, for synchronous properties."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: AsgiCaller) -> None:
        self._loop = loop
        self._call = call

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        return self._loop.run_until_complete(self._call("POST", path, body, headers))


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace
) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("models")
    (root / "scale.onnx").write_bytes(onnx_models.scale())
    (root / "text.onnx").write_bytes(onnx_models.identity("BYTES"))
    with asyncio.Runner() as runner:
        app = create_app(Settings(models=root, max_body_bytes=1 << 20, max_json_bytes=1 << 19))
        runner.run(app.start())
        yield Server(runner.get_loop(), AsgiCaller(app))
        runner.run(app.close())


def is_told(answer: Answer) -> None:
    """Success, or an error of the client's kind in the protocol's form; shared memory is 501."""
    assert answer.status == 200 or 400 <= answer.status < 500 or answer.status == 501
    if answer.status != 200:
        assert answer.json()["error"]
        assert answer.headers["content-type"] == "application/json"


@given(body=st.binary(max_size=300), length=st.none() | st.integers(-5, 400))
def test_arbitrary_bytes(server: Server, body: bytes, length: int | None) -> None:
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    is_told(server.post(INFER, body, headers))


@given(length=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12))
def test_arbitrary_header_lengths(server: Server, length: str) -> None:
    headers = {"inference-header-content-length": length}
    is_told(server.post(INFER, GOOD, headers))


@settings(max_examples=200)
@given(cut=st.integers(0, len(GOOD)), shift=st.integers(-20, 20))
def test_truncations_and_wrong_header_lengths_never_succeed(
    server: Server, cut: int, shift: int
) -> None:
    headers = {"inference-header-content-length": str(len(HEAD) + shift)}
    answer = server.post(INFER, GOOD[:cut], headers)
    is_told(answer)
    assert (answer.status == 200) == (cut == len(GOOD) and shift == 0)


@given(where=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte(server: Server, where: int, byte: int) -> None:
    body = GOOD[:where] + bytes([byte]) + GOOD[where + 1 :]
    is_told(server.post(INFER, body, {"inference-header-content-length": str(len(HEAD))}))


@settings(max_examples=60)
@given(document=documents)
@pytest.mark.parametrize(
    "path",
    [
        INFER,
        "/v2/models/scale/generate",
        "/v2/models/text/generate_stream",
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/models/scale/trace/setting",
        "/v2/repository/index",
    ],
)
def test_arbitrary_documents(server: Server, path: str, document: Any) -> None:
    is_told(server.post(path, json.dumps(document).encode(), {}))


@given(tail=st.binary(max_size=64), count=st.integers(0, 5))
def test_arbitrary_bytes_tensors(server: Server, tail: bytes, count: int) -> None:
    one = {
        "name": "x",
        "datatype": "BYTES",
        "shape": [1, count],
        "parameters": {"binary_data_size": len(tail)},
    }
    head = json.dumps({"inputs": [one]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    is_told(server.post("/v2/models/text/infer", head + tail, headers))


@given(body=st.binary(max_size=200), coding=st.sampled_from(["gzip", "deflate"]))
def test_arbitrary_compressed_bodies(server: Server, body: bytes, coding: str) -> None:
    is_told(server.post(INFER, body, {"content-encoding": coding}))


@given(
    value=st.text(st.characters(codec="latin-1"), max_size=30),
    name=st.sampled_from(NAMES),
)
def test_arbitrary_header_values(server: Server, name: str, value: str) -> None:
    headers = {"inference-header-content-length": str(len(HEAD)), name: value}
    is_told(server.post(INFER, GOOD, headers))
