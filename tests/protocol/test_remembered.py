"""Messages of a form that was seen before: the same bytes, the same arrays, the same errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol import codec
from aiaas_client.protocol.codec import decode_request, decode_response, encode_request
from aiaas_client.protocol.inference import CodecError, InferRequest, RequestedOutput


def test_what_was_written_before_is_written_alike() -> None:
    codec._requests.clear()
    asked = (
        InferRequest({"x": np.arange(6, dtype=np.float32).reshape(2, 3)}),
        InferRequest({"x": np.ones((2, 3), np.float32)}),
        InferRequest({"x": np.ones((2, 3), np.float32)}, [RequestedOutput("y")]),
        InferRequest({"x": np.ones((2, 3), np.float32)}, [RequestedOutput("y", False)]),
        InferRequest({"x": np.ones((3, 2), np.float32)}),
        InferRequest({"x": np.ones((2, 3), np.int32)}),
        InferRequest({"z": np.ones((2, 3), np.float32)}),
        InferRequest({"x": np.ones((0, 3), np.float32), "z": np.ones(2, np.float64)}),
        InferRequest({"x": np.ones((2, 3), ">f4")}),
    )
    first = [encode_request(request).join() for request in asked]
    assert len(codec._requests) == len(asked) - 1  # the first two are of one form
    for request, once in zip(asked, first, strict=True):
        again = encode_request(request)
        assert again.join() == once
        read = decode_request(again.join(), again.json_length).inputs
        assert {name: tensor.tolist() for name, tensor in read.items()} == {
            name: tensor.tolist() for name, tensor in request.inputs.items()
        }


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(InferRequest({"x": np.ones(2, np.int8)}, id="mine"), id="an id"),
        pytest.param(
            InferRequest({"x": np.ones(2, np.int8)}, parameters={"a": 1}), id="parameters"
        ),
        pytest.param(InferRequest({"x": np.array([b"a", b"bc"], object)}), id="BYTES"),
        pytest.param(InferRequest({}), id="no inputs"),
        pytest.param(InferRequest({"x" * 5000: np.ones(2, np.int8)}), id="a long text"),
    ],
)
def test_a_form_that_does_not_come_again_is_not_remembered(request_: InferRequest) -> None:
    codec._requests.clear()
    encode_request(request_)
    assert not codec._requests


def answered(*sizes: int, **changes: Any) -> tuple[bytes, int]:
    """An answer with INT8 outputs of these sizes, and the length of its JSON."""
    outputs = [
        {"name": f"y{i}", "datatype": "INT8", "shape": [n], "parameters": {"binary_data_size": n}}
        for i, n in enumerate(sizes)
    ]
    text = json.dumps({"model_name": "m", "model_version": "3", "outputs": outputs} | changes)
    return text.encode(), len(text.encode())


def test_an_answer_that_reads_as_before_is_read_alike() -> None:
    codec._answers.clear()
    text, length = answered(2, 0, 3)
    for tail in (b"\x01\x02\x03\x04\x05", b"\x05\x04\x03\x02\x01"):
        answer = decode_response(bytearray(text + tail), length)
        assert (answer.model_name, answer.model_version) == ("m", "3")
        assert [y.tolist() for y in answer.outputs.values()] == [[*tail[:2]], [], [*tail[2:]]]
        assert all(y.flags.writeable for y in answer.outputs.values())
        answer.parameters["mine"] = 1
    assert len(codec._answers) == 1
    assert decode_response(text + bytes(5), length).parameters == {}


def test_known_json_does_not_make_a_wrong_body_right() -> None:
    text, length = answered(2, 3)
    decode_response(text + bytes(5), length)
    for body, told in ((text + bytes(4), length), (text + bytes(6), length), (text, length + 1)):
        with pytest.raises(CodecError):
            decode_response(body, told)


@pytest.mark.parametrize(
    "changes", [{"id": "one"}, {"parameters": {"a": 1}}, {"model_name": "m" * 5000}]
)
def test_an_answer_that_does_not_come_again_is_not_remembered(changes: dict[str, Any]) -> None:
    codec._answers.clear()
    text, length = answered(1, **changes)
    assert decode_response(text + b"\x01", length).outputs["y0"].tolist() == [1]
    assert not codec._answers


def test_what_is_remembered_has_an_end() -> None:
    for number in range(600):
        text, length = answered(1, model_version=str(number))
        decode_response(text + b"\x01", length)
        encode_request(InferRequest({f"x{number}": np.ones(1, np.int8)}))
    assert len(codec._answers) <= 256
    assert len(codec._requests) <= 256
