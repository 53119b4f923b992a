"""What is remembered of JSON requests never changes what one means."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client.protocol.codec import decode_request
from aiaas_client.protocol.inference import CodecError, InferRequest
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.oip.json_plans import JsonPlans


def decode(plans: JsonPlans, body: bytes) -> InferRequest:
    """As the infer route reads JSON: remembered, or read and then remembered."""
    request = plans.recall(body)
    if request is None:
        request = decode_request(body, None, json=FAST_JSON)
        plans.learn(body, request)
    return request


AROUND = {
    "compact": (b'{"inputs":[{"name":"x","shape":[2],"datatype":"%b","data":', b"}]}"),
    "spaced": (b'{"inputs": [{"name": "x", "shape": [2], "datatype": "%b", "data": ', b"}]}\n"),
    "members behind": (
        b'{"inputs":[{"name":"x","data":',
        b',"shape":[2],"datatype":"%b"}],"outputs":[{"name":"y"}],"parameters":{"priority":1}}',
    ),
    "an id": (b'{"id":"a","inputs":[{"name":"x","shape":[2],"datatype":"%b","data":', b"}]}"),
}
MIDDLES = [
    b"[3,4]", b" [ 3 , 4 ] ", b"[-0.0,1e-40]", b"[3.5,4]", b"[300,4]", b"[1e39,4]", b"[NaN,4]",
    b"[Infinity,-Infinity]", b"[true,4]", b"[3,false]", b"[null,4]", b'["3",4]', b"[3]", b"[3,4,5]",
    b"[[3],[4]]", b"[[3,4]]", b"[]", b"{}", b'{"a":1,"b":2}', b"34", b'"34"', b"", b"[3,4", b"3,4]",
    b'[3,4],"data":[5,6]', b'[3,4],"shape":[1,2]', b'[3,4]}],"inputs":[{"name":"z"', b"[3,\xff]",
]  # fmt: skip


def outcome(read: Callable[[], InferRequest]) -> object:
    """What a request says, or the error that it is refused with."""
    try:
        found = read()
    except (CodecError, ValueError) as error:
        return type(error), str(error)
    tensors = [(n, a.dtype.str, a.shape, a.tobytes()) for n, a in found.inputs.items()]
    return tensors, found.outputs, found.parameters, found.binary_output, found.id


@pytest.mark.parametrize("datatype", [b"FP32", b"FP64", b"INT64", b"UINT8", b"BOOL", b"BYTES"])
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND.keys())
def test_numbers_between_known_texts_mean_what_they_mean_without_memory(
    around: tuple[bytes, bytes], datatype: bytes
) -> None:
    before, after = (text.replace(b"%b", datatype) for text in around)
    plans = JsonPlans(FAST_JSON)
    first = b'["1","2"]' if datatype == b"BYTES" else b"[1,0]"
    decode(plans, before + first + after)
    for middle in MIDDLES:
        body = before + middle + after
        expected = outcome(partial(decode_request, body, None, json=FAST_JSON))
        assert outcome(partial(decode, plans, body)) == expected, middle


@pytest.mark.parametrize(
    "second", [b'"data" :[9,9]', b'"d\\u0061ta":[9,9]', b'"data"\n:[9,9]'], ids=repr
)
def test_data_that_is_written_again_behind_still_counts(second: bytes) -> None:
    plans = JsonPlans(FAST_JSON)
    before = b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":'
    for middle in (b"[1,2]", b"[3,4]"):
        body = before + middle + b"," + second + b"}]}"
        assert decode(plans, body).inputs["x"].tolist() == [9, 9]


@given(st.lists(st.floats(width=32), min_size=3, max_size=3), st.integers(1, 3))
def test_every_number_survives_the_memory(numbers: list[float], capacity: int) -> None:
    plans = JsonPlans(FAST_JSON, capacity=capacity)
    for values in ([1.0, 2.0, 3.0], numbers):
        entry = {"name": "x", "datatype": "FP32", "shape": [3], "data": values}
        body = json.dumps({"inputs": [entry]}).encode()
        found = decode(plans, body).inputs["x"]
        np.testing.assert_array_equal(found, np.array(values, np.float32))


def test_a_plain_json_tensor_is_remembered() -> None:
    plans = JsonPlans(FAST_JSON)
    before, after = (text.replace(b"%b", b"FP32") for text in AROUND["spaced"])
    assert plans.recall(before + b"[1, 2]" + after) is None
    decode(plans, before + b"[1, 2]" + after)
    found = plans.recall(before + b"[3, 4]" + after)
    assert found is not None
    assert found.inputs["x"].tolist() == [3.0, 4.0]
