"""The codec carries every tensor unchanged and answers every other body with its own error."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aiaas_client.protocol.codec import (
    Encoded,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    parse_header_length,
)
from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import (
    CodecError,
    InferRequest,
    InferResponse,
    RequestedOutput,
    SharedInput,
    SharedMemory,
)
from aiaas_client.protocol.raw import decode_raw_request
from aiaas_client.protocol.tensors import DATATYPES, Array, object_array

NUMERIC = sorted(set(DATATYPES) - {"BYTES"})


def sample(datatype: str, shape: tuple[int, ...] = (2, 3)) -> Array:
    """A tensor of `datatype` whose elements differ."""
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return object_array([f"текст {i}".encode() for i in range(count)]).reshape(shape)
    return (
        (np.arange(count) % 2 if datatype == "BOOL" else np.arange(count))
        .astype(DATATYPES[datatype].dtype)
        .reshape(shape)
    )


def assert_same(left: Array, right: Array) -> None:
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    assert left.tolist() == right.tolist() or np.array_equal(left, right, equal_nan=True)


def through_request(encoded: Encoded, kind: type[bytes] | type[bytearray] = bytes) -> InferRequest:
    return decode_request(kind(encoded.join()), encoded.json_length)


@st.composite
def tensors(draw: st.DrawFn) -> Array:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    if datatype == "BYTES":
        count = int(np.prod(shape))
        items = draw(st.lists(st.binary(max_size=20), min_size=count, max_size=count))
        return object_array(items).reshape(shape)
    if datatype == "BF16":
        wide = draw(hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=16)))
        return wide.astype(DATATYPES["BF16"].dtype)
    return draw(hnp.arrays(DATATYPES[datatype].dtype, shape))


@given(inputs=st.dictionaries(st.text(min_size=1, max_size=8), tensors(), min_size=1, max_size=4))
def test_binary_request_round_trip(inputs: dict[str, Array]) -> None:
    decoded = through_request(encode_request(InferRequest(inputs, id="7")))
    assert list(decoded.inputs) == list(inputs)
    for name, tensor in inputs.items():
        assert_same(decoded.inputs[name], tensor)
    assert decoded.id == "7"
    assert decoded.binary_output


@given(tensor=tensors())
def test_json_request_round_trip_unless_bytes_are_not_text(tensor: Array) -> None:
    request = InferRequest({"x": tensor})
    if _has_raw_bytes(tensor):
        with pytest.raises(CodecError, match="not valid UTF-8"):
            encode_request(request, binary=False)
        return
    encoded = encode_request(request, binary=False)
    assert encoded.json_length is None
    assert_same(through_request(encoded).inputs["x"], tensor)


def _has_raw_bytes(tensor: Array) -> bool:
    return tensor.dtype == object and not all(_is_text(item) for item in tensor.reshape(-1))


def _is_text(item: bytes) -> bool:
    try:
        item.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(
    outputs=st.dictionaries(st.text(min_size=1, max_size=8), tensors(), min_size=1, max_size=4),
    binary=st.booleans(),
)
def test_response_round_trip(outputs: dict[str, Array], binary: bool) -> None:
    response = InferResponse("m", "3", outputs, id="abc", parameters={"k": 1})
    request = InferRequest({}, binary_output=binary)
    if not binary and any(_has_raw_bytes(tensor) for tensor in outputs.values()):
        with pytest.raises(CodecError, match="UTF-8"):
            encode_response(response, request)
        return
    encoded = encode_response(response, request)
    decoded = decode_response(bytearray(encoded.join()), encoded.json_length)
    assert (decoded.model_name, decoded.model_version, decoded.id) == ("m", "3", "abc")
    assert decoded.parameters == {"k": 1}
    for name, tensor in outputs.items():
        assert_same(decoded.outputs[name], tensor)
        assert decoded.outputs[name].flags.writeable


@given(body=st.binary(max_size=300), length=st.none() | st.integers(0, 320))
def test_arbitrary_bytes_raise_only_the_codecs_error(body: bytes, length: int | None) -> None:
    if length is not None and length > len(body):
        length = len(body)
    for decode in (decode_request, decode_response):
        with suppress(CodecError):
            decode(body, length)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
junk = st.recursive(scalars, lambda s: st.lists(s, max_size=4), max_leaves=12)


@given(
    entry=st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("x") | junk,
            "datatype": st.sampled_from([*sorted(DATATYPES), "FP8"]) | junk,
            "shape": st.lists(st.integers(-1, 5), max_size=4) | junk,
            "data": junk,
            "parameters": st.fixed_dictionaries(
                {}, optional={"binary_data_size": junk, "shared_memory_region": junk}
            )
            | junk,
        },
    ),
    tail=st.binary(max_size=40),
)
def test_structured_junk_raises_only_the_codecs_error(entry: dict[str, Any], tail: bytes) -> None:
    text = json.dumps({"inputs": [entry], "outputs": [entry]}).encode()
    for decode in (decode_request, decode_response):
        with suppress(CodecError):
            decode(text + tail, len(text))


@given(cut=st.integers(1, 400), tensor=tensors())
def test_truncated_binary_body_is_refused(cut: int, tensor: Array) -> None:
    encoded = encode_request(InferRequest({"x": tensor}))
    body = encoded.join()
    assert encoded.json_length is not None
    short = body[: max(encoded.json_length, len(body) - cut)]
    if len(short) == len(body):
        return
    with pytest.raises(CodecError):
        decode_request(short, encoded.json_length)


def test_views_share_the_body_and_large_tensors_are_not_copied_out() -> None:
    tensor = np.arange(100_000, dtype=np.float32)
    encoded = encode_request(InferRequest({"x": tensor}))
    assert np.shares_memory(np.frombuffer(encoded.chunks[1], np.float32), tensor)
    body = bytearray(encoded.join())
    view = decode_request(body, encoded.json_length).inputs["x"]
    assert np.shares_memory(view, np.frombuffer(body, np.uint8))


def test_unaligned_tensors_are_copied_to_an_aligned_place() -> None:
    entry = _input(datatype="FP64", shape=[1], data=..., parameters={"binary_data_size": 8})
    text = json.dumps({"inputs": [entry]}).encode()
    text += b" " * (-len(text) % 8 + 1)
    view = decode_request(text + np.float64(2.5).tobytes(), len(text)).inputs["x"]
    assert view.flags.aligned
    assert view.tolist() == [2.5]


def test_mixed_json_and_binary_inputs() -> None:
    head = {
        "inputs": [
            {"name": "a", "datatype": "INT32", "shape": [2], "data": [1, 2]},
            {"name": "b", "datatype": "FP32", "shape": [1], "parameters": {"binary_data_size": 4}},
            {"name": "c", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}},
        ]
    }
    text = json.dumps(head).encode()
    decoded = decode_request(text + np.float32(1.5).tobytes() + b"\x01\xff", len(text))
    assert {name: t.tolist() for name, t in decoded.inputs.items()} == {
        "a": [1, 2],
        "b": [1.5],
        "c": [1, -1],
    }


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_mixed_output_forms(datatype: str) -> None:
    outputs = {"a": sample(datatype), "b": sample(datatype), "c": sample(datatype)}
    request = InferRequest(
        {},
        outputs=[
            RequestedOutput("a", binary=True),
            RequestedOutput("b", binary=False),
            RequestedOutput("c"),
        ],
        binary_output=True,
    )
    encoded = encode_response(InferResponse("m", "1", outputs), request)
    assert encoded.json_length is not None
    document = json.loads(encoded.join()[: encoded.json_length])
    assert ["data" in entry for entry in document["outputs"]] == [False, True, False]
    assert "parameters" not in document["outputs"][1]
    decoded = decode_response(encoded.join(), encoded.json_length)
    for name, tensor in outputs.items():
        assert_same(decoded.outputs[name], tensor)


def test_empty_binary_outputs_have_no_inference_header() -> None:
    response = InferResponse("m", "1", {"y": np.empty((0, 3), np.float32)})
    encoded = encode_response(response, InferRequest({}, binary_output=True))
    assert encoded.json_length is None
    entry = json.loads(encoded.join())["outputs"][0]
    assert entry["parameters"] == {"binary_data_size": 0}
    assert decode_response(encoded.join(), None).outputs["y"].shape == (0, 3)


def test_listed_outputs_always_say_their_form() -> None:
    request = InferRequest({"x": sample("FP32")}, outputs=[RequestedOutput("y")])
    text = encode_request(request).join()
    assert b'"binary_data":true' in text
    assert b"binary_data_output" not in text


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_non_finite_numbers_survive_json(datatype: str) -> None:
    tensor = np.array([np.nan, np.inf, -np.inf, 1.5]).astype(DATATYPES[datatype].dtype)
    encoded = encode_request(InferRequest({"x": tensor}), binary=False)
    assert b"[NaN,Infinity,-Infinity,1.5]" in encoded.join()
    assert_same(through_request(encoded).inputs["x"], tensor)


def _input(**changes: object) -> dict[str, object]:
    entry = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]} | changes
    return {key: value for key, value in entry.items() if value is not ...}


BAD_REQUESTS: dict[str, tuple[object, str]] = {
    "not an object": ([1], "JSON object"),
    "no inputs": ({}, "'inputs'"),
    "inputs not an array": ({"inputs": {}}, "'inputs'"),
    "no input at all": ({"inputs": []}, "1 to 1024"),
    "too many inputs": ({"inputs": [_input(name=str(i)) for i in range(1025)]}, "1 to 1024"),
    "input not an object": ({"inputs": [3]}, "object"),
    "no name": ({"inputs": [_input(name=...)]}, "'name'"),
    "name not text": ({"inputs": [_input(name=3)]}, "'name'"),
    "no datatype": ({"inputs": [_input(datatype=...)]}, "'datatype'"),
    "unknown datatype": ({"inputs": [_input(datatype="FP8")]}, "unknown datatype 'FP8'"),
    "no shape": ({"inputs": [_input(shape=...)]}, "shape"),
    "boolean in shape": ({"inputs": [_input(shape=[True, 2])]}, "dimensions"),
    "negative dimension": ({"inputs": [_input(shape=[-1])]}, "dimensions"),
    "huge dimension": ({"inputs": [_input(shape=[2**31])]}, "dimensions"),
    "rank 17": ({"inputs": [_input(shape=[1] * 17)]}, "at most 16"),
    "huge product": ({"inputs": [_input(shape=[2**31 - 1] * 16)]}, "elements"),
    "too few elements": ({"inputs": [_input(data=[1])]}, "expected 2 elements"),
    "too many elements": ({"inputs": [_input(data=[1, 2, 3])]}, "expected 2 elements"),
    "text for a number": ({"inputs": [_input(data=["1", "2"])]}, "a string"),
    "boolean for a number": ({"inputs": [_input(data=[True, 2])]}, "a boolean"),
    "null for a number": ({"inputs": [_input(data=[None, 2])]}, "null"),
    "object for a number": ({"inputs": [_input(data=[{}, 2])]}, "an object"),
    "ragged nesting": ({"inputs": [_input(data=[[1], 2])]}, "mixes"),
    "too deep": ({"inputs": [_input(data=json.loads("[" * 150 + "]" * 150))]}, "deeper"),
    "FP32 overflow": ({"inputs": [_input(data=[1e39, 2])]}, "out of range for FP32"),
    "fraction for INT32": ({"inputs": [_input(datatype="INT32", data=[1.0, 2])]}, "a fraction"),
    "boolean for INT32": ({"inputs": [_input(datatype="INT32", data=[True, 2])]}, "a boolean"),
    "INT8 range": ({"inputs": [_input(datatype="INT8", data=[128, 2])]}, "128 is out of range"),
    "UINT8 below 0": ({"inputs": [_input(datatype="UINT8", data=[-1, 2])]}, "-1 is out of range"),
    "INT64 range": ({"inputs": [_input(datatype="INT64", data=[2**63, 2])]}, "out of range"),
    "UINT64 below 0": ({"inputs": [_input(datatype="UINT64", data=[-1, 2])]}, "out of range"),
    "number for BYTES": ({"inputs": [_input(datatype="BYTES", data=[1, "a"])]}, "an integer"),
    "2 for BOOL": ({"inputs": [_input(datatype="BOOL", data=[2, 1])]}, "another integer"),
    "text for BOOL": ({"inputs": [_input(datatype="BOOL", data=["a", True])]}, "a string"),
    "no data source": ({"inputs": [_input(data=...)]}, "exactly one"),
    "two data sources": (
        {"inputs": [_input(parameters={"binary_data_size": 8})]},
        "exactly one",
    ),
    "duplicate input": ({"inputs": [_input(), _input()]}, "'x' already exists"),
    "binary size negative": (
        {"inputs": [_input(data=..., parameters={"binary_data_size": -1})]},
        "binary_data_size",
    ),
    "binary size text": (
        {"inputs": [_input(data=..., parameters={"binary_data_size": "8"})]},
        "binary_data_size",
    ),
    "binary size boolean": (
        {"inputs": [_input(data=..., parameters={"binary_data_size": True})]},
        "binary_data_size",
    ),
    "binary size huge": (
        {"inputs": [_input(data=..., parameters={"binary_data_size": 10**30})]},
        "are left",
    ),
    "parameters not an object": ({"inputs": [_input(parameters=[])]}, "'parameters'"),
    "id a number": ({"inputs": [_input()], "id": 4}, "'id'"),
    "id too long": ({"inputs": [_input()], "id": "a" * 129}, "128"),
    "outputs an object": ({"inputs": [_input()], "outputs": {}}, "'outputs'"),
    "output without a name": ({"inputs": [_input()], "outputs": [{}]}, "'name'"),
    "duplicate output": (
        {"inputs": [_input()], "outputs": [{"name": "y"}, {"name": "y"}]},
        "'y' already exists",
    ),
    "binary_data not boolean": (
        {"inputs": [_input()], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        "binary_data",
    ),
    "classification negative": (
        {"inputs": [_input()], "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
        "classification",
    ),
    "request parameter a list": ({"inputs": [_input()], "parameters": {"a": [1]}}, "'a'"),
    "binary_data_output text": (
        {"inputs": [_input()], "parameters": {"binary_data_output": "yes"}},
        "binary_data_output",
    ),
    "shared memory with classification": (
        {
            "inputs": [_input()],
            "outputs": [
                {
                    "name": "y",
                    "parameters": {
                        "classification": 2,
                        "shared_memory_region": "r",
                        "shared_memory_byte_size": 8,
                    },
                }
            ],
        },
        "excludes",
    ),
    "shared memory size text": (
        {
            "inputs": [
                _input(
                    data=...,
                    parameters={"shared_memory_region": "r", "shared_memory_byte_size": "8"},
                )
            ]
        },
        "shared_memory_byte_size",
    ),
}


@pytest.mark.parametrize(("document", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_request_is_refused_with_its_reason(document: object, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_request(json.dumps(document).encode(), None)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff", b"{} {}", b"[" * 1000 + b"]" * 1000, b'{"a": "\\ud800"}', b"nul"],
    ids=["empty", "cut", "not utf-8", "trailing", "deep", "lone surrogate", "word"],
)
def test_text_that_is_not_json_says_so(text: bytes) -> None:
    with pytest.raises(CodecError) as caught:
        decode_request(text, None)
    assert caught.value.code == ErrorCode.INVALID_JSON


@pytest.mark.parametrize(
    ("size", "tail", "message"),
    [
        (8, b"1234", "4 are left"),
        (4, b"1234", "takes 8 bytes, got 4"),
        (8, b"123456789", "1 bytes"),
    ],
    ids=["too few", "size differs from shape", "left over"],
)
def test_binary_lengths_must_agree(size: int, tail: bytes, message: str) -> None:
    entry = _input(data=..., parameters={"binary_data_size": size})
    text = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(CodecError, match=message):
        decode_request(text + tail, len(text))


def test_bool_bytes_must_be_0_or_1() -> None:
    entry = _input(datatype="BOOL", data=..., parameters={"binary_data_size": 2})
    text = json.dumps({"inputs": [entry]}).encode()
    with pytest.raises(CodecError, match="0 or 1"):
        decode_request(text + b"\x01\x02", len(text))


def test_json_part_has_its_own_limit() -> None:
    with pytest.raises(CodecError) as caught:
        decode_request(json.dumps({"inputs": [_input()]}).encode(), None, max_json_bytes=10)
    assert caught.value.code == ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", " 1", "12345678901", "٣", "0x1"])
def test_header_length_must_be_plain_digits(value: str) -> None:
    with pytest.raises(CodecError, match="digits"):
        parse_header_length(value, 10**12)


def test_header_length_must_fit_the_body() -> None:
    assert parse_header_length(b"10", 10) == 10
    with pytest.raises(CodecError, match="11 but the body has 10"):
        parse_header_length("11", 10)


def test_empty_id_and_unknown_keys_are_as_if_absent() -> None:
    document = {"id": "", "inputs": [_input(extra=1)], "later": {"x": [1]}}
    assert decode_request(json.dumps(document).encode(), None).id == ""


@pytest.mark.parametrize(
    "data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]], ids=["flat", "2", "3"]
)
def test_nesting_does_not_matter_only_the_count(data: object) -> None:
    text = json.dumps({"inputs": [_input(shape=[2, 2], data=data)]}).encode()
    assert decode_request(text, None).inputs["x"].tolist() == [[1, 2], [3, 4]]


def test_rank_0_holds_one_element() -> None:
    text = json.dumps({"inputs": [_input(shape=[], data=[3])]}).encode()
    assert decode_request(text, None).inputs["x"].shape == ()


def test_shared_memory_is_read_but_holds_no_array() -> None:
    parameters = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    text = json.dumps({"inputs": [_input(data=..., parameters=parameters)]}).encode()
    decoded = decode_request(text, None)
    assert decoded.shared_inputs == {"x": SharedInput(SharedMemory("r", 8), "FP32", (2,))}


@pytest.mark.parametrize(
    ("shape", "batched", "size", "expected"),
    [
        ((-1, 4), True, 16, (1, 4)),
        ((-1, -1), True, 12, (1, 3)),
        ((2, 2), False, 16, (2, 2)),
        ((-1, 2), False, 16, (2, 2)),
        ((), False, 4, ()),
    ],
)
def test_raw_form_solves_the_variable_dimension(
    shape: tuple[int, ...], batched: bool, size: int, expected: tuple[int, ...]
) -> None:
    request = decode_raw_request(bytes(size), "x", "FP32", shape, batched=batched)
    assert request.inputs["x"].shape == expected
    assert request.binary_output


@pytest.mark.parametrize(
    ("datatype", "shape", "size"),
    [("FP32", (-1, -1), 16), ("FP32", (-1, 3), 16), ("FP32", (2,), 7), ("BYTES", (2,), 5)],
    ids=["two variables", "no multiple", "odd size", "two BYTES"],
)
def test_raw_form_refuses_what_it_cannot_solve(
    datatype: str, shape: tuple[int, ...], size: int
) -> None:
    with pytest.raises(CodecError):
        decode_raw_request(bytes(size), "x", datatype, shape, batched=False)


def test_raw_bytes_element_has_no_length_prefix() -> None:
    request = decode_raw_request(b"hello", "x", "BYTES", (-1, 1), batched=True)
    assert request.inputs["x"].tolist() == [[b"hello"]]


BAD_ANSWERS: dict[str, object] = {
    "no outputs": {"model_name": "m"},
    "duplicate output": {"outputs": [_input(), _input()]},
    "no data": {"outputs": [_input(data=...)]},
    "wrong count": {"outputs": [_input(data=[1])]},
    "binary past the end": {
        "outputs": [_input(data=..., parameters={"binary_data_size": 8})],
    },
}


@pytest.mark.parametrize("document", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_bad_answer_never_becomes_an_array(document: object) -> None:
    with pytest.raises(CodecError):
        decode_response(json.dumps(document).encode(), None)


def test_answers_of_other_servers_are_read() -> None:
    document = {
        "model_name": "m",
        "id": None,
        "parameters": None,
        "outputs": [_input(shape=[1, 2], data=[[1, 2]], parameters={"content_type": "np"})],
    }
    decoded = decode_response(json.dumps(document).encode(), None)
    assert decoded.model_version == ""
    assert decoded.outputs["x"].tolist() == [[1.0, 2.0]]


def test_an_array_without_datatype_is_refused() -> None:
    with pytest.raises(CodecError, match="complex128"):
        encode_request(InferRequest({"x": np.zeros(2, np.complex128)}))


@pytest.mark.parametrize("datatype", NUMERIC)
def test_big_endian_and_strided_arrays_arrive_as_they_were(datatype: str) -> None:
    tensor = sample(datatype, (4, 6))[::2, ::3]
    swapped = tensor if datatype in {"BOOL", "BF16"} else tensor.astype(tensor.dtype.newbyteorder())
    decoded = through_request(encode_request(InferRequest({"x": swapped})))
    assert_same(decoded.inputs["x"], tensor)


def test_a_table_may_have_an_input_a_column() -> None:
    columns = {f"column_{index}": np.ones((3, 1), np.float32) for index in range(1000)}
    assert list(through_request(encode_request(InferRequest(columns))).inputs) == list(columns)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_body_may_be_any_kind_of_bytes(kind: Any, binary: bool) -> None:
    encoded = encode_request(InferRequest({"x": sample("FP32")}), binary=binary)
    request = decode_request(kind(encoded.join()), encoded.json_length)
    assert request.inputs["x"].tolist() == sample("FP32").tolist()
