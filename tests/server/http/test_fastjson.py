"""orjson's speed, with the numbers that orjson loses."""

from __future__ import annotations

import json
import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_server.http.json import FAST_JSON


def test_non_finite_tokens_are_read() -> None:
    values = FAST_JSON.loads(b'{"x": [NaN, Infinity, -Infinity, 1]}')["x"]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 1]


def test_non_finite_elements_are_written_as_tokens_never_null() -> None:
    document = {"data": np.array([1.5, np.nan, np.inf, -np.inf], np.float32), "id": None}
    text = FAST_JSON.dumps(document)
    assert text == b'{"data":[1.5,NaN,Infinity,-Infinity],"id":null}'


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64)[::2],
        np.array(3.5, np.float32),
        np.array([1, 2], np.float16),
        np.array([1, 2], ml_dtypes.bfloat16),
        np.array([True, False]),
        np.empty(0, np.float32),
        np.array([2**64 - 1], np.uint64),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_any_array_is_written_as_its_list(array: np.ndarray) -> None:
    expected = array.astype(np.float32).tolist() if array.dtype.kind == "V" else array.tolist()
    assert json.loads(FAST_JSON.dumps({"data": array})) == {"data": expected}


def test_a_bfloat16_nan_survives() -> None:
    array = np.array([1, math.nan], ml_dtypes.bfloat16)
    assert FAST_JSON.dumps({"data": array, "x": None}) == b'{"data":[1.0,NaN],"x":null}'


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b'{"a":1}x', b"\xff", b"[" * 100_000, b'"\\ud800"', b"NaN]", b"Infinit"],
    ids=lambda t: repr(t[:20]),
)
def test_bad_text_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        FAST_JSON.loads(text)


@given(st.lists(st.floats(width=32)))
def test_float32_survives_the_round_trip_exactly(values: list[float]) -> None:
    array = np.array(values, np.float32)
    back = np.array(FAST_JSON.loads(FAST_JSON.dumps({"d": array}))["d"], np.float32)
    np.testing.assert_array_equal(back, array)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text(st.characters(codec="utf-8")),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner)
        ),
        max_leaves=10,
    )
)
def test_both_writers_mean_the_same(document: object) -> None:
    assert json.loads(FAST_JSON.dumps(document)) == json.loads(PYDANTIC_JSON.dumps(document))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[" + b"[1]," * 500_000 + b"[1]]", id="lists"),
        pytest.param(b"[" + b"{}," * 500_000 + b"{}]", id="objects"),
        pytest.param(b"{" + b",".join(b'"%d":1' % i for i in range(500_000)) + b"}", id="members"),
    ],
)
def test_texts_of_countless_parts_are_refused_unread(text: bytes) -> None:
    """Reading them would hold the interpreter, and with it every other request."""
    with pytest.raises(ValueError, match="more than 400,000 lists, objects and members"):
        FAST_JSON.loads(text)


def test_a_long_flat_list_is_read() -> None:
    assert len(FAST_JSON.loads(b"[" + b"1," * 999_999 + b"1]")) == 1_000_000
