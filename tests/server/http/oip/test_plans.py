"""The decoder's memory never changes what a request means."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aiaas_client.protocol.codec import decode_request, encode_request
from aiaas_client.protocol.inference import CodecError, InferRequest, RequestedOutput
from aiaas_client.protocol.tensors import Array, object_array
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.oip.plans import LONGEST_TEXT, RequestPlans


def decode(plans: RequestPlans, body: bytes, length: int | None) -> InferRequest:
    """As the infer route reads a request: remembered, or read and then remembered."""
    request = plans.recall(body, length)
    if request is None:
        request = decode_request(body, length, json=FAST_JSON)
        plans.learn(body, length, request)
    return request


@given(
    tensors=st.lists(
        hnp.arrays(
            st.sampled_from([np.float32, np.int64, np.bool_, np.uint8]),
            st.sampled_from([(1, 3), (2, 3), (0, 3), ()]),
        ),
        min_size=2,
        max_size=12,
    ),
    capacity=st.integers(1, 3),
)
def test_each_request_decodes_as_without_memory(tensors: list[Array], capacity: int) -> None:
    plans = RequestPlans(capacity=capacity)
    for tensor in tensors:
        request = InferRequest({"x": tensor}, outputs=[RequestedOutput("y")])
        encoded = encode_request(request)
        expected = decode_request(encoded.join(), encoded.json_length)
        actual = decode(plans, encoded.join(), encoded.json_length)
        assert actual.outputs == expected.outputs
        assert actual.binary_output == expected.binary_output
        assert actual.inputs["x"].dtype == tensor.dtype
        assert actual.inputs["x"].tobytes() == expected.inputs["x"].tobytes()
        assert actual.inputs["x"].shape == tensor.shape


def _known(plans: RequestPlans) -> tuple[bytes, int]:
    encoded = encode_request(InferRequest({"x": np.ones((1, 3), np.float32)}))
    assert encoded.json_length is not None
    decode(plans, encoded.join(), encoded.json_length)
    return encoded.join(), encoded.json_length


@pytest.mark.parametrize("change", [-1, 1], ids=["cut", "left over"])
def test_a_remembered_text_with_another_tail_is_refused(change: int) -> None:
    plans = RequestPlans()
    body, length = _known(plans)
    wrong = body[:-1] if change < 0 else body + b"x"
    with pytest.raises(CodecError):
        decode(plans, wrong, length)


def test_wrong_bool_bytes_are_refused_the_second_time_too() -> None:
    plans = RequestPlans()
    encoded = encode_request(InferRequest({"x": np.ones(1, np.bool_)}))
    decode(plans, encoded.join(), encoded.json_length)
    with pytest.raises(CodecError, match="0 or 1"):
        decode(plans, encoded.join()[:-1] + b"\x02", encoded.json_length)


def test_malformed_bytes_elements_are_refused_the_second_time_too() -> None:
    plans = RequestPlans()
    encoded = encode_request(InferRequest({"x": object_array([b"ab"])}))
    decode(plans, encoded.join(), encoded.json_length)
    with pytest.raises(CodecError):
        decode(plans, encoded.join()[:-6] + b"\xff\x00\x00\x00ab", encoded.json_length)


def test_ids_are_each_requests_own() -> None:
    plans = RequestPlans()
    for name in ("a", "b", "a"):
        request = InferRequest({"x": np.ones(2, np.float32)}, id=name)
        encoded = encode_request(request)
        assert decode(plans, encoded.join(), encoded.json_length).id == name


def test_long_texts_and_json_tensors_are_decoded_too() -> None:
    plans = RequestPlans()
    many = {f"input{i}": np.ones(2, np.float32) for i in range(60)}
    encoded = encode_request(InferRequest(many))
    assert encoded.json_length is not None
    assert encoded.json_length > LONGEST_TEXT
    for _ in range(2):
        assert len(decode(plans, encoded.join(), encoded.json_length).inputs) == 60
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    text = json.dumps({"inputs": [entry]}).encode()
    for _ in range(2):
        assert decode(plans, text, len(text)).inputs["x"].tolist() == [1.0]


def test_what_was_decoded_elsewhere_is_recalled() -> None:
    plans = RequestPlans()
    encoded = encode_request(InferRequest({"x": np.ones((1, 3), np.float32)}))
    body, length = encoded.join(), encoded.json_length
    assert plans.recall(body, length) is None
    plans.learn(body, length, decode_request(body, length))
    found = plans.recall(body, length)
    assert found is not None
    assert found.inputs["x"].tolist() == [[1.0, 1.0, 1.0]]
    assert plans.recall(body + b"x", length) is None
    assert plans.recall(body, None) is None
