"""A request is checked by name, datatype, rank, dimension and batch before it queues."""

from __future__ import annotations

import numpy as np
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.signature import Signature, TensorSpec

F4, I8 = np.float32, np.int64
BATCHED = Signature(
    "m",
    [
        TensorSpec("pixels", "FP32", (-1, 3, -1)),
        TensorSpec("ids", "INT64", (-1, 2)),
        TensorSpec("mask", "FP32", (-1, 2), optional=True),
    ],
    [TensorSpec("y", "FP32", (-1, 5)), TensorSpec("z", "FP32", (-1, 5))],
    max_batch_size=4,
)


def inputs(**changes):
    arrays = {"pixels": np.zeros((2, 3, 9), F4), "ids": np.zeros((2, 2), I8)}
    arrays.update(changes)
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, 2),
        ({"mask": np.zeros((2, 2), F4)}, 2),
        ({"pixels": np.zeros((2, 3, 0), F4)}, 2),
        ({"pixels": np.zeros((0, 3, 1), F4), "ids": np.zeros((0, 2), I8)}, 0),
        ({"pixels": np.zeros((4, 3, 1), F4), "ids": np.zeros((4, 2), I8)}, 4),
    ],
    ids=["all required", "optional too", "zero-size", "no rows", "largest batch"],
)
def test_what_fits_is_counted_in_rows(changes, rows):
    assert BATCHED.check(inputs(**changes)) == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": np.zeros((2, 4, 9), F4)},
         r"input 'pixels' of model 'm': expected shape \(-1, 3, -1\), got \(2, 4, 9\)"),
        ({"pixels": np.zeros((2, 3), F4)}, r"expected shape \(-1, 3, -1\), got \(2, 3\)"),
        ({"pixels": np.zeros((), F4)}, r"expected shape \(-1, 3, -1\), got \(\)"),
        ({"pixels": np.zeros((2, 3, 9), np.float64)},
         "input 'pixels' of model 'm': expected datatype FP32, got FP64"),
        ({"pixels": np.full((2, 3, 9), b"", object)}, "expected datatype FP32, got BYTES"),
        ({"pixels": np.zeros((2, 3, 9), complex)}, "expected datatype FP32, got complex128"),
        ({"pixels": np.zeros((3, 3, 9), F4)}, "'pixels' has 3, 'ids' has 2"),
        ({"pixels": np.zeros((5, 3, 9), F4), "ids": np.zeros((5, 2), I8)},
         "batch-size must be <= 4 for model 'm', got 5"),
        ({"ids": None}, "expected 2 inputs but got 1 inputs for model 'm'; missing 'ids'"),
        ({"wrong": np.zeros(1)}, "unexpected inference input 'wrong' for model 'm'"),
        ({"w" * 1000: np.zeros(1)}, rf"unexpected inference input '{'w' * 64}\.\.\.'"),
    ],
    ids=[
        "dimension", "rank", "rank 0", "datatype", "bytes", "no protocol datatype",
        "batches differ", "batch too large", "missing", "unknown", "unknown and long",
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_what_was_expected_and_what_came(changes, message):
    with pytest.raises(InvalidInput, match=message):
        BATCHED.check(inputs(**changes))


def test_a_model_that_does_not_batch_counts_one_and_checks_every_dimension():
    plain = Signature("m", [TensorSpec("x", "FP32", (1, -1))], [], 0)
    assert plain.check({"x": np.zeros((1, 7), F4)}) == 1
    with pytest.raises(InvalidInput, match=r"expected shape \(1, -1\), got \(2, 7\)"):
        plain.check({"x": np.zeros((2, 7), F4)})


def test_a_scalar_input_is_rank_0():
    scalar = Signature("m", [TensorSpec("x", "FP32", ())], [], 0)
    assert scalar.check({"x": np.array(1, F4)}) == 1


def test_outputs_are_selected_in_the_order_asked_for():
    assert BATCHED.select([]) == ("y", "z")
    assert BATCHED.select(["z", "y"]) == ("z", "y")


@pytest.mark.parametrize(
    ("names", "message"),
    [(["q"], "unexpected inference output 'q' for model 'm'"), (["y", "y"], "requested twice")],
)
def test_outputs_that_do_not_exist_or_come_twice_are_refused(names, message):
    with pytest.raises(InvalidInput, match=message):
        BATCHED.select(names)
