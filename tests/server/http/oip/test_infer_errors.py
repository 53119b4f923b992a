"""Every way to ask wrongly gets its status and a JSON error: protocol 5.5, security 3 and 4."""

from __future__ import annotations

import gzip
import json
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

INFER = "/v2/models/scale/infer"


@pytest.fixture(params=["bare", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways to the one function that answers."""
    return request.param


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input for `scale`, changed; None takes a member away."""
    good = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} | changes
    return {key: value for key, value in good.items() if value is not None}


def body(**changes: Any) -> dict[str, Any]:
    return {"inputs": [tensor(**changes)]}


def binary(document: Any, tail: bytes, length: int | str | None = None) -> tuple[bytes, Any]:
    text = json.dumps(document).encode()
    header = str(len(text) if length is None else length)
    return text + tail, {"inference-header-content-length": header}


ROW = np.ones(4, np.float32).tobytes()
BINARY = tensor(data=None, parameters={"binary_data_size": 16})


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    return make_repository(
        {
            "scale": onnx_models.scale(),
            "add": onnx_models.add(),
            "text": onnx_models.identity("BYTES"),
            "flags": onnx_models.identity("BOOL"),
            "whole": onnx_models.identity("INT8"),
            "lookup": onnx_models.lookup(),
        }
    )


JSON_CASES: dict[str, tuple[Any, int]] = {
    "empty body": (b"", 400),
    "not JSON": (b"{inputs", 400),
    "bytes after the JSON": (b'{"inputs": []} x', 400),
    "not UTF-8": (b'{"id": "\xff"}', 400),
    "an array": ([], 400),
    "a number": (b"1", 400),
    "inputs missing": ({}, 400),
    "inputs empty": ({"inputs": []}, 400),
    "inputs an object": ({"inputs": {}}, 400),
    "an input that is text": ({"inputs": ["x"]}, 400),
    "name missing": (body(name=None), 400),
    "name a number": (body(name=1), 400),
    "shape missing": (body(shape=None), 400),
    "shape a number": (body(shape=4), 400),
    "shape of texts": (body(shape=["1", "4"]), 400),
    "shape of booleans": (body(shape=[True, 4]), 400),
    "shape of fractions": (body(shape=[1.0, 4]), 400),
    "negative dimension": (body(shape=[-1, 4]), 400),
    "huge dimensions": (body(shape=[2**31 - 1] * 16), 400),
    "too large dimension": (body(shape=[2**31, 4]), 400),
    "integer beyond 64 bits": (body(shape=[2**80, 4]), 400),
    "rank 17": (body(shape=[1] * 17), 400),
    "datatype missing": (body(datatype=None), 400),
    "datatype a number": (body(datatype=1), 400),
    "unknown datatype": (body(datatype="FP31"), 400),
    "another datatype than the model's": (body(datatype="FP64"), 400),
    "another shape than the model's": (body(shape=[1, 5], data=[0] * 5), 400),
    "another rank than the model's": (body(shape=[4]), 400),
    "batch too large": (body(shape=[1025, 4], data=[0] * 4100), 400),
    "too few elements": (body(data=[1, 2, 3]), 400),
    "too many elements": (body(data=[1, 2, 3, 4, 5]), 400),
    "text for a number": (body(data=[1, 2, 3, "4"]), 400),
    "null for a number": (body(data=[1, 2, 3, None]), 400),
    "boolean for a number": (body(data=[1, 2, 3, True]), 400),
    "object for a number": (body(data=[1, 2, 3, {}]), 400),
    "number out of range": (body(data=[1, 2, 3, 1e300]), 400),
    "integer out of any range": (body(data=[1, 2, 3, 10**400]), 400),
    "no data": (body(data=None), 400),
    "two data sources": (body(parameters={"binary_data_size": 16}), 400),
    "parameters a list": (body(parameters=[1]), 400),
    "unknown input": (body(name="z"), 400),
    "duplicate input": ({"inputs": [tensor(), tensor()]}, 400),
    "one input too many": ({"inputs": [tensor(), tensor(name="z")]}, 400),
    "257 inputs": ({"inputs": [tensor(name=str(n)) for n in range(257)]}, 400),
    "unknown output": (body() | {"outputs": [{"name": "z"}]}, 400),
    "duplicate output": (body() | {"outputs": [{"name": "y"}, {"name": "y"}]}, 400),
    "outputs an object": (body() | {"outputs": {}}, 400),
    "output without a name": (body() | {"outputs": [{}]}, 400),
    "binary_data a text": (
        body() | {"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
        400,
    ),
    "classification negative": (
        body() | {"outputs": [{"name": "y", "parameters": {"classification": -1}}]},
        400,
    ),
    "output parameters a list": (body() | {"outputs": [{"name": "y", "parameters": []}]}, 400),
    "output parameters false": (body() | {"outputs": [{"name": "y", "parameters": False}]}, 400),
    "inputs written twice": (f'{{"inputs": [], "inputs": [{json.dumps(tensor())}]}}'.encode(), 400),
    "a shape written twice": (
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [4, 1], "shape": [1, 4], '
        b'"data": [1, 2, 3, 4]}]}',
        400,
    ),
    "a shape written twice, another missing": (
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [4, 1], "shape": [1, 4], '
        b'"data": [1, 2, 3, 4]}, {"name": "z"}]}',
        400,
    ),
    "id a number": (body() | {"id": 1}, 400),
    "id too long": (body() | {"id": "x" * 129}, 400),
    "request parameters a list": (body() | {"parameters": []}, 400),
    "a parameter that is an object": (body() | {"parameters": {"a": {}}}, 400),
    "a parameter that is null": (body() | {"parameters": {"a": None}}, 400),
    "a reserved parameter": (body() | {"parameters": {"triton_x": 1}}, 400),
    "65 parameters": (body() | {"parameters": {str(n): n for n in range(65)}}, 400),
    "a long parameter": (body() | {"parameters": {"a": "x" * 1025}}, 400),
    "priority a text": (body() | {"parameters": {"priority": "1"}}, 400),
    "priority negative": (body() | {"parameters": {"priority": -1}}, 400),
    "timeout a fraction": (body() | {"parameters": {"timeout": 0.5}}, 400),
    "timeout beyond 64 bits": (body() | {"parameters": {"timeout": 2**64}}, 400),
    "sequence_start a number": (body() | {"parameters": {"sequence_start": 1}}, 400),
    "binary_data_output a number": (body() | {"parameters": {"binary_data_output": 1}}, 400),
    "data 1000 deep": (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":'
        + b"[" * 1000
        + b"]" * 1000
        + b"}]}",
        400,
    ),
    "JSON 100,000 deep": (b"[" * 100_000, 400),
    "binary without the header": ({"inputs": [BINARY]}, 400),
    "shared memory": (
        body(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 16}),
        501,
    ),
    "shared memory for an output": (
        body()
        | {
            "outputs": [
                {
                    "name": "y",
                    "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 16},
                }
            ]
        },
        501,
    ),
}

BINARY_CASES: dict[str, tuple[tuple[bytes, Any], int]] = {
    "header length of text": (binary({"inputs": [BINARY]}, ROW, "x"), 400),
    "header length negative": (binary({"inputs": [BINARY]}, ROW, "-1"), 400),
    "header length empty": (binary({"inputs": [BINARY]}, ROW, ""), 400),
    "header length past the body": (binary({"inputs": [BINARY]}, ROW, 10_000), 400),
    "header length of 11 digits": (binary({"inputs": [BINARY]}, ROW, "0" * 11), 400),
    "header length one short": (
        binary({"inputs": [BINARY]}, ROW, len(json.dumps({"inputs": [BINARY]})) - 1),
        400,
    ),
    "header length one long": (
        binary({"inputs": [BINARY]}, ROW, len(json.dumps({"inputs": [BINARY]})) + 1),
        400,
    ),
    "too few bytes": (binary({"inputs": [BINARY]}, ROW[:-1]), 400),
    "bytes left over": (binary({"inputs": [BINARY]}, ROW + b"\0"), 400),
    "size of another shape": (
        binary({"inputs": [BINARY | {"parameters": {"binary_data_size": 12}}]}, ROW[:12]),
        400,
    ),
    "size negative": (
        binary({"inputs": [BINARY | {"parameters": {"binary_data_size": -1}}]}, ROW),
        400,
    ),
    "size huge": (
        binary({"inputs": [BINARY | {"parameters": {"binary_data_size": 2**62}}]}, ROW),
        400,
    ),
    "size a text": (
        binary({"inputs": [BINARY | {"parameters": {"binary_data_size": "16"}}]}, ROW),
        400,
    ),
    "size a boolean": (
        binary({"inputs": [BINARY | {"parameters": {"binary_data_size": True}}]}, ROW),
        400,
    ),
    "raw form of a wrong size": ((b"12345", {"inference-header-content-length": "0"}), 400),
    "raw form with nothing": ((b"", {"inference-header-content-length": "0"}), 400),
}


def is_told(answer: Any, status: int) -> bool:
    """Whether the answer is the given error in the protocol's form."""
    assert answer.status == status, answer.body
    document = answer.json()
    assert isinstance(document["error"], str)
    assert document["error"]
    assert document["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    return True


async def test_bad_json_requests(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for name, (sent, status) in JSON_CASES.items():
        assert is_told(await call("POST", INFER, sent), status), name


async def test_bad_binary_requests(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for name, ((sent, headers), status) in BINARY_CASES.items():
        assert is_told(await call("POST", INFER, sent, headers), status), name


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/nobody/infer", 404),
        ("/v2/models/scale/versions/9/infer", 404),
        ("/v2/models/scale/versions/x/infer", 404),
        ("/v2/models/scale/versions/-1/infer", 404),
        ("/v2/models/scale/versions/" + "9" * 5000 + "/infer", 404),
        ("/v2/models/scale/infer/", 404),
        ("/v2/models//infer", 404),
        ("/v2/models/a%2Fb/infer", {"bare": 404, "lane": 400}),  # no way in for such a path
        ("/v2/models/%00/infer", {"bare": 404, "lane": 400}),
        ("/v2/models/" + "n" * 3000 + "/infer", 404),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_addresses_that_name_nothing(
    open_app: Any, repository: Any, adapter: str, path: str, status: Any
) -> None:
    call = await open_app(repository)
    expected = status if isinstance(status, int) else status[adapter]
    assert is_told(await call("POST", path, body()), expected)


async def test_inputs_that_miss_or_differ_in_batch(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    one = tensor(name="a")
    assert is_told(await call("POST", "/v2/models/add/infer", {"inputs": [one]}), 400)
    two = tensor(name="b", shape=[2, 4], data=[0] * 8)
    answer = await call("POST", "/v2/models/add/infer", {"inputs": [one, two]})
    assert is_told(answer, 400)
    assert "'add'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT8", [200]),
        ("INT8", [-129]),
        ("INT8", [1.0]),
        ("INT8", [True]),
        ("BOOL", [2]),
        ("BOOL", ["true"]),
        ("BYTES", [1]),
        ("BYTES", [None]),
    ],
    ids=str,
)
async def test_elements_of_the_wrong_kind(
    open_app: Any, repository: Any, datatype: str, data: list[Any]
) -> None:
    call = await open_app(repository)
    model = {"INT8": "whole", "BOOL": "flags", "BYTES": "text"}[datatype]
    one = {"name": "x", "datatype": datatype, "shape": [1, 1], "data": data}
    assert is_told(await call("POST", f"/v2/models/{model}/infer", {"inputs": [one]}), 400)


@pytest.mark.parametrize(
    "tail",
    [
        b"\xff\xff\xff\xff" + b"a",
        b"\x02\0\0\0a",
        b"\x01\0\0\0ab",
        b"\x01\0\0",
        b"",
        b"\x01\0\0\0a\x01\0\0\0b",
    ],
    ids=repr,
)
async def test_malformed_bytes_tensors(open_app: Any, repository: Any, tail: bytes) -> None:
    call = await open_app(repository)
    one = {"name": "x", "datatype": "BYTES", "shape": [1, 1]}
    sent, headers = binary(
        {"inputs": [one | {"parameters": {"binary_data_size": len(tail)}}]}, tail
    )
    assert is_told(await call("POST", "/v2/models/text/infer", sent, headers), 400)


async def test_bytes_that_are_not_text(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    tail = b"\x01\0\0\0\xff"
    one = {"name": "x", "datatype": "BYTES", "shape": [1, 1]}
    sent, headers = binary({"inputs": [one | {"parameters": {"binary_data_size": 5}}]}, tail)
    assert is_told(await call("POST", "/v2/models/text/infer", sent, headers), 400)


@pytest.mark.parametrize(
    ("coding", "sent", "status"),
    [
        ("br", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"not gzip", 400),
        ("deflate", b"", 400),
        ("gzip", gzip.compress(json.dumps(body()).encode(), mtime=0)[:-9], 400),
        ("deflate", zlib.compress(json.dumps(body()).encode())[2:-4], 400),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_bad_codings(
    open_app: Any, repository: Any, coding: str, sent: bytes, status: int
) -> None:
    call = await open_app(repository)
    answer = await call("POST", INFER, sent, {"content-encoding": coding})
    assert is_told(answer, status)
    assert status != 415 or answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_bomb_is_413_and_is_not_inflated(
    open_app: Any, repository: Any, coding: str
) -> None:
    call = await open_app(repository, max_body_bytes=1 << 20, max_json_bytes=1 << 20)
    squeeze = gzip.compress if coding == "gzip" else zlib.compress
    bomb = squeeze(bytes(50 << 20))
    assert len(bomb) < 1 << 20
    assert is_told(await call("POST", INFER, bomb, {"content-encoding": coding}), 413)


async def test_bodies_over_the_limit(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, max_body_bytes=1000, max_json_bytes=500)
    answer = await call("POST", INFER, b"x", {"content-length": "1001"})
    assert is_told(answer, 413)
    assert answer.headers["connection"] == "close"
    assert is_told(await call("POST", INFER, b"x" * 1001), 413)
    assert is_told(await call("POST", INFER, (b"x" * 600, b"x" * 600)), 413)
    assert is_told(await call("POST", INFER, b" " * 501), 413)
    sent, headers = binary(body() | {"pad": "x" * 500}, b"")
    assert is_told(await call("POST", INFER, sent, headers), 413)


async def test_a_text_over_the_limit_is_refused_though_it_is_like_one_before(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository, max_json_bytes=500)
    text = json.dumps(body()).encode()
    assert (await call("POST", INFER, text)).status == 200
    longer = text.replace(b'"data": [', b'"data": [' + b" " * 500)
    assert longer != text
    assert is_told(await call("POST", INFER, longer), 413)


async def test_an_answer_over_the_limit(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, max_answer_bytes=100)
    answer = await call("POST", INFER, body())
    assert is_told(answer, 422)
    assert answer.json()["code"] == "output_too_large"


@pytest.mark.parametrize("text", ["0", "x", "300001", "-5"])
async def test_bad_deadlines(open_app: Any, repository: Any, text: str) -> None:
    call = await open_app(repository)
    assert is_told(await call("POST", INFER, body(), {"x-request-timeout-ms": text}), 400)


def needs_an_even_number() -> bytes:
    """`x` FP32 `[n]` -> `y` `[2, n / 2]`: the signature cannot tell that an odd n must fail."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, "m"])],
        [numpy_helper.from_array(np.array([2, -1], np.int64), "shape")],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def fails_on_every_input() -> bytes:
    """`x` FP32 `[2, 2]`, reshaped at run time to what it cannot be."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Add", ["shape", "one"], ["grown"]),
        helper.make_node("Reshape", ["x", "grown"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([1], np.int64), "one")],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


async def test_a_value_that_the_model_refuses_is_the_callers_mistake(
    open_app: Any, repository: Any, caplog: pytest.LogCaptureFixture
) -> None:
    call = await open_app(repository)
    one = {"name": "index", "datatype": "INT64", "shape": [1, 1], "data": [99]}
    answer = await call("POST", "/v2/models/lookup/infer", {"inputs": [one]})
    assert is_told(answer, 400)
    # In our words; the runtime's, which name nodes and source files, are for the log.
    assert answer.json()["error"].endswith(": an index: expected -10 to 9, got 99")
    assert "Gather" in caplog.text
    assert all(len(record.getMessage()) < 1200 for record in caplog.records)


async def test_a_shape_that_the_graph_cannot_take_is_the_callers_mistake(
    open_app: Any, repository: Any
) -> None:
    (repository / "picky" / "1").mkdir(parents=True)
    (repository / "picky" / "1" / "model.onnx").write_bytes(needs_an_even_number())
    call = await open_app(repository)
    one = {"name": "x", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]}
    answer = await call("POST", "/v2/models/picky/infer", {"inputs": [one]})
    assert is_told(answer, 400)
    assert "[3] does not fit the shape [2,-1]" in answer.json()["error"]


async def test_a_failure_inside_the_runtime_is_500_and_tells_no_internals(
    open_app: Any, repository: Any
) -> None:
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(fails_on_every_input())
    call = await open_app(repository)
    one = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
    answer = await call("POST", "/v2/models/broken/infer", {"inputs": [one]})
    assert is_told(answer, 500)
    assert answer.json()["code"] == "inference_failed"
    assert not answer.json()["retryable"]
    assert "reshape" not in answer.json()["error"].lower()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_the_infer_route_knows_only_post(open_app: Any, repository: Any, method: str) -> None:
    call = await open_app(repository)
    answer = await call(method, INFER)
    assert is_told(answer, 405)
    assert answer.headers["allow"] == "POST"


async def test_values_from_the_request_are_cut_in_messages(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    answer = await call("POST", INFER, body(name="n" * 5000))
    assert is_told(answer, 400)
    assert "n" * 100 not in answer.json()["error"]


@pytest.mark.parametrize("how", ["in order", "with such names", "deep inside"])
async def test_what_only_looks_written_twice_is_answered(
    open_app: Any, repository: Any, how: str
) -> None:
    """Names and parameters may be called as the keys are."""
    call = await open_app(repository)
    sent = body()
    if how == "with such names":
        sent |= {"id": "inputs", "parameters": {"inputs": "shape", "shape": "inputs"}}
    if how == "deep inside":
        sent |= {"outputs": [{"name": "y", "parameters": {"shape": 1, "inputs": {"a": [[]]}}}]}
    for _ in range(2):
        assert (await call("POST", INFER, sent)).status == 200


async def test_a_binary_request_with_a_key_twice_is_refused_each_time(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    text = json.dumps({"inputs": [BINARY]}).replace('"shape"', '"shape": [4, 1], "shape"')
    for _ in range(2):
        answer = await call(
            "POST", INFER, text.encode() + ROW, {"inference-header-content-length": str(len(text))}
        )
        assert answer.status == 400
        assert "'shape' is written twice" in answer.json()["error"]
