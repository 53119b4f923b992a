"""The classification extension's text form."""

from __future__ import annotations

import numpy as np
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.http.oip.classification import classify


def test_the_best_k_come_first_with_labels() -> None:
    array = np.array([[0.25, 0.5, 0.125]], np.float32)
    texts = classify(array, 2, ["cat", "dog"], batched=True, name="y")
    assert texts.shape == (1, 2)
    assert texts.tolist() == [[b"0.500000:1:dog", b"0.250000:0:cat"]]


def test_an_index_without_a_label_has_two_parts() -> None:
    texts = classify(np.array([1, 3, 2], np.int32), 5, ["a"], batched=False, name="y")
    assert texts.tolist() == [b"3:1", b"2:2", b"1:0:a"]


def test_equal_values_keep_their_order_and_nan_comes_last() -> None:
    array = np.array([[np.nan, 1.0, 1.0, np.inf]])
    texts = classify(array, 4, (), batched=True, name="y")
    assert [text.split(b":")[1] for text in texts[0]] == [b"3", b"1", b"2", b"0"]


def test_large_unsigned_integers_are_ordered_exactly() -> None:
    array = np.array([[2**64 - 2, 2**64 - 1, 0]], np.uint64)
    texts = classify(array, 1, (), batched=True, name="y")
    assert texts.tolist() == [[f"{2**64 - 1}:1".encode()]]


def test_items_of_more_dimensions_are_flattened() -> None:
    texts = classify(np.arange(12).reshape(2, 2, 3), 1, (), batched=True, name="y")
    assert texts.tolist() == [[b"5:5"], [b"11:5"]]


@pytest.mark.parametrize("shape", [(0, 10), (3, 0), (0,)], ids=str)
def test_nothing_to_classify_gives_nothing(shape: tuple[int, ...]) -> None:
    texts = classify(np.empty(shape, np.float32), 2, (), batched=True, name="y")
    assert texts.size == 0
    assert texts.shape[0] == shape[0]


@pytest.mark.parametrize("dtype", [np.bool_, np.float16, object], ids=lambda d: d.__name__)
def test_datatypes_without_a_text_form_are_refused(dtype: type) -> None:
    with pytest.raises(InvalidInput, match="output 'y'"):
        classify(np.zeros((1, 2), dtype), 1, (), batched=True, name="y")
