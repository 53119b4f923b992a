"""Inputs become exactly what the model declares, or are refused by name before anything is sent."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from aiaas_client._errors import (
    DtypeError,
    InputError,
    MissingInputError,
    ShapeError,
    UnknownInputError,
)
from aiaas_client._models.inputs import bind, prepare
from aiaas_client.protocol.messages import ModelMetadata
from aiaas_client.testing import tensor


def signature(*specs):
    return ModelMetadata(name="m", inputs=list(specs))


def one(value, datatype, shape):
    return prepare(signature(tensor("x", datatype, shape)), {"x": value}, model="m")["x"]


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "dtype"),
    [
        pytest.param([[1.5, 2.0]], "FP32", [-1, 2], "f4", id="lists of floats"),
        pytest.param([[1, 2]], "FP32", [-1, 2], "f4", id="integers as floats"),
        pytest.param([1, 2], "INT8", [2], "i1", id="small integers"),
        pytest.param(7, "INT64", [], "i8", id="a number for rank 0"),
        pytest.param([True, False], "BOOL", [-1], "?", id="booleans"),
        pytest.param([1, 0], "BOOL", [-1], "?", id="0 and 1 as booleans"),
        pytest.param(np.array([True]), "INT64", [-1], "i8", id="a mask as integers"),
        pytest.param(np.arange(3), "INT32", [3], "i4", id="an int64 array in range"),
        pytest.param(np.arange(3.0), "FP16", [3], "f2", id="a float64 array is rounded"),
        pytest.param(np.arange(3, dtype=">f4"), "FP32", [3], "f4", id="big-endian"),
        pytest.param(np.arange(6.0)[::2], "FP64", [3], "f8", id="strided"),
        pytest.param(np.arange(6).reshape(2, 3).T, "INT64", [3, 2], "i8", id="transposed"),
        pytest.param([], "FP32", [-1], "f4", id="an empty list"),
        pytest.param([], "INT64", [-1], "i8", id="an empty list of integers"),
        pytest.param(pd.Series([1, 2, 3]), "INT64", [-1], "i8", id="a pandas column"),
        pytest.param(pd.DataFrame({"a": [1.0], "b": [2.0]}), "FP32", [-1, 2], "f4", id="a frame"),
        pytest.param(pd.Series([1, 2], dtype="Int64"), "INT32", [-1], "i4", id="nullable column"),
        pytest.param(Image.new("RGB", (4, 3)), "UINT8", [3, 4, 3], "u1", id="a picture"),
        pytest.param(memoryview(b"abc"), "UINT8", [3], "u1", id="a buffer"),
    ],
)
def test_values_become_arrays_of_the_declared_type(value, datatype, shape, dtype):
    array = one(value, datatype, shape)
    assert array.dtype == np.dtype(dtype)
    assert array.flags.c_contiguous
    source = value.to_numpy() if hasattr(value, "to_numpy") else np.asarray(value)
    assert np.array_equal(array, source.astype(array.dtype))


def test_an_array_that_fits_is_not_copied():
    array = np.zeros((2, 2), np.float32)
    assert one(array, "FP32", [-1, 2]) is array


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        pytest.param(np.array([1.0]), "INT64", id="a float array for integers"),
        pytest.param([1.0], "INT32", id="floats in a list for integers"),
        pytest.param([300], "UINT8", id="too large"),
        pytest.param([-1], "UINT64", id="negative for unsigned"),
        pytest.param([2**64], "INT64", id="larger than any integer type"),
        pytest.param([2**24 + 1], "FP32", id="an integer that FP32 would round"),
        pytest.param([1e39], "FP32", id="a number that FP32 would make infinite"),
        pytest.param([70000], "FP16", id="an integer that FP16 would make infinite"),
        pytest.param([2], "BOOL", id="2 is no boolean"),
        pytest.param(["1"], "INT64", id="text for integers"),
        pytest.param([None], "FP32", id="None"),
        pytest.param([1 + 2j], "FP32", id="complex"),
        pytest.param(np.array(["2020-01-01"], "M8[D]"), "INT64", id="dates"),
        pytest.param([1], "BYTES", id="numbers for text"),
        pytest.param([object()], "FP32", id="an object"),
    ],
)
def test_what_cannot_be_told_exactly_is_refused(value, datatype):
    with pytest.raises(DtypeError, match=f"input 'x': expected {datatype}|input 'x': ") as caught:
        one(value, datatype, [-1])
    assert caught.value.tensor == "x"
    assert caught.value.model == "m"


def test_the_message_names_tensor_expected_and_got():
    with pytest.raises(ShapeError) as caught:
        one(np.zeros((1, 224, 224, 3), np.float32), "FP32", [-1, 3, 224, 224])
    text = "input 'x': expected shape (-1, 3, 224, 224), got (1, 224, 224, 3)"
    assert str(caught.value) == text
    assert (caught.value.expected, caught.value.got) == ("(-1, 3, 224, 224)", "(1, 224, 224, 3)")


def test_ragged_lists_are_a_shape_error():
    with pytest.raises(ShapeError, match="input 'x': expected lists of equal length"):
        one([[1, 2], [3]], "FP32", [-1, 2])
    with pytest.raises(ShapeError, match="input 'x'"):
        one([["a"], ["b", "c"]], "BYTES", [-1, 1])


@pytest.mark.parametrize(
    "value",
    [
        ["a", "ü"],
        [b"a", "ü"],
        np.array(["a", "ü"]),
        pd.Series(["a", "ü"]),
        np.array([b"a", bytearray("ü".encode())], dtype=object),
    ],
    ids=["text", "mixed", "numpy text", "pandas", "objects"],
)
def test_text_becomes_bytes(value):
    assert one(value, "BYTES", [-1]).tolist() == [b"a", "ü".encode()]


def test_trailing_zero_bytes_survive():
    assert one([b"a\0", b"\0\0"], "BYTES", [2]).tolist() == [b"a\0", b"\0\0"]


def test_names_are_checked_with_a_hint():
    model = signature(tensor("pixels", "FP32", [-1]), tensor("mask", "FP32", [-1]))
    with pytest.raises(UnknownInputError, match="unknown input 'pixel'; did you mean 'pixels'"):
        prepare(model, {"pixel": [1.0], "mask": [1.0]}, model="m")
    with pytest.raises(MissingInputError, match="missing input 'mask'; expected 'pixels', 'mask'"):
        prepare(model, {"pixels": [1.0]}, model="m")
    assert list(prepare(model, {"pixels": [1.0]}, optional={"mask"})) == ["pixels"]


def test_inputs_come_out_in_the_model_s_order():
    model = signature(tensor("a", "FP32", [-1]), tensor("b", "FP32", [-1]))
    assert list(prepare(model, {"b": [1], "a": [2]})) == ["a", "b"]


def test_an_item_gets_the_batch_dimension_where_the_model_has_one():
    batched = signature(tensor("x", "FP32", [-1, 2]))
    assert prepare(batched, {"x": [1, 2]}, item=True)["x"].shape == (1, 2)
    plain = signature(tensor("x", "FP32", [2]))
    assert prepare(plain, {"x": [1, 2]}, item=True)["x"].shape == (2,)
    with pytest.raises(ShapeError, match=r"expected shape \(2,\), got \(3,\)"):
        prepare(batched, {"x": [1, 2, 3]}, item=True)


def test_without_metadata_values_go_as_they_are():
    sent = prepare(None, {"x": np.arange(3, dtype=np.int16), "t": ["a"]})
    assert sent["x"].dtype == np.int16
    assert sent["t"].tolist() == [b"a"]
    with pytest.raises(DtypeError, match="input 'x': dtype complex128"):
        prepare(None, {"x": np.zeros(1, complex)})


def test_a_lone_value_goes_to_the_only_input():
    assert bind(signature(tensor("x", "FP32", [1])), [1.0]) == {"x": [1.0]}
    two = signature(tensor("a", "FP32", [-1, 1]), tensor("b", "BYTES", [-1, 1]))
    with pytest.raises(InputError, match="expected a mapping of 'a', 'b'"):
        bind(two, [1.0])
    with pytest.raises(InputError, match="name the inputs"):
        bind(None, [1.0])


def test_a_frame_is_spread_over_inputs_named_like_its_columns():
    two = signature(tensor("a", "FP32", [-1, 1]), tensor("b", "BYTES", [-1, 1]))
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]})
    tensors = prepare(two, bind(two, frame))
    assert tensors["a"].tolist() == [[1.0], [2.0]]
    assert tensors["b"].tolist() == [[b"u"], [b"v"]]


class OnADevice:
    """Stands for a torch tensor that needs gradients: it must be detached and fetched first."""

    def __init__(self, array, detached=False):
        self.array, self.detached = array, detached

    def detach(self):
        return OnADevice(self.array, True)

    def cpu(self):
        return self

    def __array__(self, dtype=None, copy=None):
        if not self.detached:
            raise RuntimeError("call detach first")
        return self.array


class OnlyDlpack:
    """Stands for an array library that speaks nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("wrap", [OnADevice, OnlyDlpack])
def test_foreign_tensors_are_taken(wrap):
    array = np.arange(4, dtype=np.float32)
    assert one(wrap(array), "FP32", [-1]).tolist() == [0, 1, 2, 3]


@given(
    hnp.arrays(
        st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]),
        st.integers(0, 5),
        elements=None,
    ),
    st.sampled_from(["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT64", "FP16", "FP32", "BOOL"]),
)
def test_an_integer_cast_is_exact_or_refused(array, datatype):
    try:
        cast = one(array, datatype, [-1])
    except DtypeError:
        assert array.size
        return
    assert [int(value) for value in cast] == [int(value) for value in array]


LOW, HIGH = 12_345, 2**64 - 59


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([[LOW, HIGH]], id="list"),
        pytest.param(np.array([[LOW, HIGH]], object), id="object array"),
        pytest.param([[np.int64(LOW), np.uint64(HIGH)]], id="numpy numbers"),
        pytest.param(pd.DataFrame({"a": [LOW], "b": [HIGH]}), id="pandas frame"),
        pytest.param(
            pl.DataFrame({"a": [LOW], "b": pl.Series([HIGH], dtype=pl.UInt64)}), id="polars"
        ),
        pytest.param(((LOW, HIGH),), id="tuples"),
    ],
)
def test_integers_below_and_above_two_to_63_stay_exact(value):
    array = one(value, "UINT64", [-1, 2])
    assert (array.dtype, array.tolist()) == (np.dtype("<u8"), [[LOW, HIGH]])
    with pytest.raises(DtypeError, match="which do not all fit exactly"):
        one(value, "FP64", [-1, 2])
    with pytest.raises(DtypeError, match="which do not all fit exactly"):
        one(value, "INT64", [-1, 2])


def test_exact_integers_go_wherever_they_fit():
    frame = pd.DataFrame({"a": np.array([1], np.int64), "b": np.array([2], np.uint64)})
    assert one(frame, "INT8", [-1, 2]).tolist() == [[1, 2]]
    assert one([[1, 2**63]], "FP32", [-1, 2]).tolist() == [[1.0, 2.0**63]]
    assert one([2**64], "FP64", [-1]).tolist() == [2.0**64]
    assert one([-1, 2**63], "FP64", [-1]).tolist() == [-1.0, 2.0**63]
    for datatype in ("INT64", "UINT64"):
        with pytest.raises(DtypeError, match="integers with values from -1 to 9223372036854775808"):
            one([-1, 2**63], datatype, [-1])


def test_large_floats_stay_floats():
    assert one([1e300, 0.5], "FP64", [-1]).tolist() == [1e300, 0.5]
    assert one([float("inf"), float("nan"), 1.0], "FP32", [-1])[0] == np.inf
    with pytest.raises(DtypeError, match="expected INT64, got float64"):
        one([1e300, 1.0], "INT64", [-1])
    sent = prepare(None, {"x": [1e300, 0.5], "y": [LOW, HIGH]}, model="m")
    assert sent["x"].tolist() == [1e300, 0.5]
    assert sent["y"].tolist() == [LOW, HIGH]


MASKED = np.ma.masked_array(np.float32([1, -9999]), mask=[False, True])


@pytest.mark.parametrize(
    ("value", "count"),
    [
        pytest.param(MASKED, 1, id="an array"),
        pytest.param([MASKED, MASKED], 2, id="a list of arrays"),
        pytest.param([[MASKED], [np.zeros(2, np.float32)]], 1, id="lists of lists of arrays"),
        pytest.param(np.ma.masked_all((2, 3)), 6, id="all of it"),
        pytest.param(np.ma.masked, 1, id="the constant"),
        pytest.param(np.ma.masked_array(["a", "b"], mask=[True, False]), 1, id="texts"),
    ],
)
def test_what_lies_under_a_mask_is_never_sent(value, count):
    with pytest.raises(DtypeError, match=f"input 'x': {count} values are masked"):
        one(value, "FP32", [-1])
    with pytest.raises(DtypeError, match=f"input 'x': {count} values are masked"):
        prepare(None, {"x": value}, model="m")


def test_a_masked_array_with_nothing_masked_is_an_array():
    array = one(np.ma.masked_array([1.0, 2.0], mask=False), "FP32", [-1])
    assert type(array) is np.ndarray
    assert array.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        pytest.param(pd.Series([1, None], dtype="Int64"), "INT64", id="a nullable gap"),
        pytest.param(pd.Series([True, None], dtype="boolean"), "BOOL", id="a nullable boolean gap"),
        pytest.param(pl.Series([1, None]), "INT64", id="a polars gap"),
        pytest.param(pd.Series(["a", "b"], dtype="category"), "FP32", id="categories"),
        pytest.param(pd.Series(pd.to_datetime(["2020-01-01"])), "INT64", id="dates"),
        pytest.param(
            pd.Series(pd.to_datetime(["2020-01-01"]).tz_localize("UTC")), "INT64", id="zoned dates"
        ),
        pytest.param(pd.Series(pd.to_timedelta([1], "s")), "INT64", id="spans of time"),
        pytest.param(np.zeros(2, [("a", "f4")]), "FP32", id="a structured array"),
        pytest.param({"a": 1}, "FP32", id="a mapping"),
        pytest.param({1, 2}, "FP32", id="a set"),
        pytest.param("text", "FP32", id="a text"),
        pytest.param([b"1"], "FP32", id="bytes"),
    ],
)
def test_what_has_no_number_is_refused_by_name(value, datatype):
    with pytest.raises(InputError, match="input 'x'"):
        one(value, datatype, [-1])


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(pd.Series(["a\0b", "\u00fc"], dtype="string"), id="nullable texts"),
        pytest.param(pd.Series(["a\0b", "\u00fc"], dtype="category"), id="categories"),
        pytest.param(pl.Series(["a\0b", "\u00fc"]), id="polars"),
        pytest.param(np.array(["a\0b", "\u00fc"], np.dtypes.StringDType()), id="variable strings"),
    ],
)
def test_texts_of_every_library_keep_every_character(value):
    expected = [b"a\0b", "\u00fc".encode()]
    assert one(value, "BYTES", [-1]).tolist() == expected
    assert prepare(None, {"x": value}, model="m")["x"].tolist() == expected


def test_empty_arrays_of_every_kind_have_the_declared_type():
    for value in (np.zeros((0, 2)), np.zeros((0, 2), np.int64), pd.DataFrame({"a": [], "b": []})):
        array = one(value, "FP32", [-1, 2])
        assert (array.dtype, array.shape) == (np.dtype("<f4"), (0, 2))
