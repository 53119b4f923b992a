"""Pure functions: what goes into a batch, and that splitting undoes joining."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.schedule.batching import (
    NotBatched,
    Take,
    concat,
    shape_key,
    split,
    take,
    varying_inputs,
)
from aiaas_server.core.signature import Signature, TensorSpec


@pytest.mark.parametrize(
    ("rows", "limit", "preferred", "expected"),
    [
        ([1], 4, (), Take(1, False)),
        ([1, 1, 1, 1], 4, (), Take(4, True)),
        ([1, 1, 1, 1, 1], 4, (), Take(4, True)),
        ([3, 2], 4, (), Take(1, True)),
        ([2, 1], 4, (), Take(2, False)),
        ([4], 4, (), Take(1, True)),
        ([9], 4, (), Take(1, True)),
        ([0, 0, 1], 4, (), Take(3, False)),
        ([1, 1, 1], 8, (2,), Take(2, True)),
        ([1] * 7, 8, (2, 4), Take(4, True)),
        ([1, 2], 8, (2,), Take(2, False)),
        ([1] * 9, 8, (4, 8), Take(8, True)),
    ],
    ids=[
        "one waits", "exactly full", "more than full", "next does not fit", "room left",
        "one fills it", "one is larger", "empty requests ride along", "largest preferred prefix",
        "of two preferred sizes the larger", "preferred size is jumped over", "preferred and full",
    ],
)  # fmt: skip
def test_how_many_requests_make_the_next_batch(rows, limit, preferred, expected):
    assert take(rows, limit, frozenset(preferred)) == expected


requests = st.lists(st.integers(0, 5), min_size=1, max_size=6).flatmap(
    lambda rows: st.tuples(st.just(rows), st.integers(0, 4), st.sampled_from(["f4", "i8", "O"]))
)


@given(requests)
def test_split_undoes_concat(case):
    rows, width, kind = case
    arrays = [
        np.array([[f"{i}.{r}.{c}".encode() if kind == "O" else 100 * i + 10 * r + c
                   for c in range(width)] for r in range(n)], dtype=kind).reshape(n, width)
        for i, n in enumerate(rows)
    ]  # fmt: skip
    joined = concat([{"x": array} for array in arrays])
    parts = split([joined["x"]], rows)
    assert len(parts) == len(arrays)
    for (part,), array in zip(parts, arrays, strict=True):
        assert part.dtype == array.dtype
        assert part.shape == array.shape
        assert part.tolist() == array.tolist()


@pytest.mark.parametrize("width", [1, 100_000], ids=["small", "large"])
def test_parts_are_writable_and_do_not_overlap(width):
    batch = np.zeros((3, width), np.float32)
    (one,), (two,) = split([batch], [1, 2])
    one[:] = 1
    assert not two.any()
    assert not np.shares_memory(one, two)


def test_parts_of_a_large_output_do_not_hold_on_to_the_batch():
    batch = np.zeros((64, 1000), np.float32)
    assert not any(np.shares_memory(part, batch) for (part,) in split([batch], [32, 32]))


@pytest.mark.parametrize("shape", [(), (3,), (1, 2)], ids=["rank 0", "too long", "too short"])
def test_an_output_that_does_not_begin_with_the_batch_is_not_split(shape):
    with pytest.raises(NotBatched, match="output 1 has shape"):
        split([np.zeros((2, 5)), np.zeros(shape)], [1, 1])


def test_one_key_for_all_where_nothing_but_the_batch_varies():
    varying = varying_inputs(Signature("m", [TensorSpec("x", "FP32", (-1, 4))], [], 8))
    key = partial(shape_key, varying=varying)
    assert key({"x": np.zeros((1, 4))}) == key({"x": np.zeros((7, 4))})


def test_keys_tell_shapes_and_optional_inputs_apart():
    inputs = [TensorSpec("x", "FP32", (-1, -1)), TensorSpec("m", "FP32", (-1, 2), optional=True)]
    key = partial(shape_key, varying=varying_inputs(Signature("m", inputs, [], 8)))
    x3, x4, m = np.zeros((1, 3)), np.zeros((1, 4)), np.zeros((1, 2))
    assert key({"x": x3}) == key({"x": np.zeros((5, 3))})
    assert len({key({"x": x3}), key({"x": x4}), key({"x": x3, "m": m})}) == 3
