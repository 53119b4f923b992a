"""Rows cut into requests and joined: every row once, in order, as it is, within the limits."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aiaas_client import BlockError, BulkError, DtypeError, InputError
from aiaas_client._api.inference import InferResult
from aiaas_client._bulk.array_core import ArrayCore
from aiaas_client._bulk.batches import size_of
from aiaas_client._bulk.blocks import Cutter
from aiaas_client._bulk.plan import BulkPlan
from aiaas_client._bulk.progress import Silent
from aiaas_client._bulk.stack import Stack
from aiaas_client._errors import BadRequestError, PayloadTooLargeError
from aiaas_client._models.bulk import Tensorizer
from aiaas_client.protocol.messages import ModelMetadata, TensorMetadata

DTYPES = ["bool", "u1", "i8", "f2", "f4", "f8", "O"]


def plan(max_rows=4, max_bytes=2**20, batched=True, metadata=None):
    return BulkPlan(
        "m", Tensorizer("m", metadata, frozenset()), batched, max_rows, max_bytes, metadata
    )


def rows_like(dtype, count, width, seed=0):
    """Rows that differ; text of different lengths for objects."""
    numbers = np.random.default_rng(seed).integers(0, 9, (count, width))
    if dtype != "O":
        return numbers.astype(dtype)
    texts = [b"x" * number for number in numbers.reshape(-1).tolist()]
    array = np.empty(count * width, object)
    array[:] = texts
    return array.reshape(count, width)


def joined(blocks):
    return np.concatenate([block.inputs()["x"] for block in blocks])


@settings(deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    width=st.integers(1, 5),
    max_rows=st.integers(1, 12),
    max_bytes=st.integers(1, 200),
)
def test_every_row_travels_once_in_order_and_within_the_limits(
    dtype, sizes, width, max_rows, max_bytes
):
    whole = rows_like(dtype, sum(sizes), width)
    edges = np.cumsum([0, *sizes])
    cutter = Cutter(plan(max_rows, max_bytes))
    blocks = [block for a, b in pairwise(edges) for block in cutter.cut({"x": whole[a:b]})] + list(
        cutter.flush()
    )
    assert cutter.taken == len(whole)
    starts = [block.start for block in blocks]
    assert starts == list(np.cumsum([0, *(block.rows for block in blocks)])[:-1])
    assert all(0 < block.rows <= max_rows for block in blocks)
    if dtype != "O":  # an array of text is cut by its mean
        assert all(b.rows == 1 or size_of(b.inputs()) <= max_bytes for b in blocks)
    if len(whole):
        assert joined(blocks).dtype == whole.dtype
        assert joined(blocks).tolist() == whole.tolist()


@settings(deadline=None)
@given(
    array=arrays.arrays(
        st.sampled_from(["i2", "f4"]), arrays.array_shapes(max_dims=4, min_side=0, max_side=6)
    ),
    max_rows=st.integers(1, 4),
)
def test_rows_of_any_shape_keep_it(array, max_rows):
    cutter = Cutter(plan(max_rows))
    blocks = [*cutter.cut({"x": array}), *cutter.flush()]
    assert sum(block.rows for block in blocks) == len(array)
    if len(array):
        assert np.array_equal(joined(blocks), array, equal_nan=array.dtype.kind == "f")


def test_a_block_of_the_right_type_is_a_view():
    whole = np.zeros((10, 3), np.float32)
    blocks = list(Cutter(plan(5)).cut({"x": whole}))
    assert [np.shares_memory(block.inputs()["x"], whole) for block in blocks] == [True, True]


def test_small_blocks_share_a_request_and_other_shapes_do_not():
    cutter = Cutter(plan(8))
    blocks = [*cutter.cut({"x": np.zeros((1, 2))}), *cutter.cut({"x": np.zeros((2, 2))})]
    blocks += [*cutter.cut({"x": np.zeros((1, 3))}), *cutter.flush()]
    assert [(block.start, block.rows) for block in blocks] == [(0, 3), (3, 1)]


def test_a_model_without_batches_gets_its_rows_one_by_one():
    metadata = ModelMetadata(
        name="m",
        versions=["1"],
        platform="",
        inputs=[TensorMetadata(name="x", datatype="FP32", shape=[2])],
        outputs=[TensorMetadata(name="y", datatype="FP32", shape=[])],
    )
    cutter = Cutter(plan(8, batched=False, metadata=metadata))
    blocks = [*cutter.cut({"x": np.ones((3, 2))}), *cutter.flush()]
    assert [(block.start, block.rows) for block in blocks] == [(0, 1), (1, 1), (2, 1)]
    assert blocks[0].inputs()["x"].shape == (2,)


def test_columns_of_unequal_length_are_refused():
    columns = {"a": np.zeros(3), "b": np.zeros(2)}
    with pytest.raises(InputError, match="as many rows in every input, got 'a' 3, 'b' 2"):
        list(Cutter(plan()).cut(columns))


# --- the core: what goes out next, what a failure means -------------------------------------------


def drive(core, values, order, refuse=lambda block: None):
    """Play the part of the loops, with answers in an order that `order` chooses."""
    source, flying = iter(values), []
    while core.hopeless is None:
        if (block := core.take()) is not None:
            flying.append(block)
        elif core.wants_input:
            value = next(source, None)
            core.end() if value is None else core.add(value)
        elif flying:
            block = flying.pop(order(len(flying)))
            error = refuse(block)
            if error is None:
                answer = InferResult({"y": block.inputs()["x"] * 2}, model_version="3")
                core.succeeded(block, answer)
            else:
                core.failed(block, error)
        else:
            return
        assert core.in_flight == len(flying)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20), max_size=8),
    max_rows=st.integers(1, 7),
    concurrency=st.integers(1, 4),
    how=st.sampled_from(["known", "unknown", "out", "larger out"]),
    refused_above=st.integers(1, 8),
    data=st.data(),
)
def test_answers_find_their_rows_in_whatever_order_they_come(
    sizes, max_rows, concurrency, how, refused_above, data
):
    count = sum(sizes)
    whole = np.arange(count * 2, dtype=np.float32).reshape(count, 2)
    edges = np.cumsum([0, *sizes])
    blocks = [{"x": whole[a:b]} for a, b in pairwise(edges)]
    known = plan(max_rows)
    room = np.zeros((count + 5, 4), np.float32)[: count + 5 * (how == "larger out"), ::2]
    out = {"y": room} if "out" in how else None
    stack = Stack(known, count if how in ("known", "out") else None, out)
    core = ArrayCore(known, stack, concurrency, Silent())
    too_large = PayloadTooLargeError("too large", status_code=413)
    drive(
        core,
        blocks,
        lambda n: data.draw(st.integers(0, n - 1)),
        lambda block: too_large if block.rows > refused_above else None,
    )
    result = core.facts.result(stack.arrays(core.rows))
    if count:
        assert result["y"].tolist() == (whole * 2).tolist()
        assert result.model_version == "3"
        assert np.shares_memory(result["y"], room) == ("out" in how)


def test_the_first_failure_names_its_rows_and_ends_the_work():
    known = plan(4)
    core = ArrayCore(known, Stack(known, 20), 2, Silent())
    refused = BadRequestError("no", status_code=400)
    drive(core, [{"x": np.zeros((20, 2))}], lambda n: 0, lambda b: refused if b.start else None)
    assert isinstance(core.hopeless, BlockError)
    assert isinstance(core.hopeless, BulkError)
    assert (core.hopeless.start, core.hopeless.stop, core.hopeless.count) == (4, 8, 4)
    assert core.hopeless.failures == {4: refused}
    assert core.hopeless.__cause__ is refused
    assert str(core.hopeless) == "model 'm': rows 4 to 7 failed: no"


def test_a_block_that_does_not_fit_is_told_with_its_rows():
    metadata = ModelMetadata(
        name="m",
        versions=["1"],
        platform="",
        inputs=[TensorMetadata(name="x", datatype="INT8", shape=[-1, 1])],
        outputs=[],
    )
    rows = np.arange(130).reshape(-1, 1)
    blocks = list(Cutter(plan(64, metadata=metadata)).cut({"x": rows[:128]}))
    assert [block.inputs()["x"].dtype for block in blocks] == [np.int8] * 2
    with pytest.raises(BlockError, match=r"rows 128 to 129 failed: input 'x': expected INT8"):
        list(Cutter(plan(64, metadata=metadata)).cut({"x": rows}))
    with pytest.raises(DtypeError):  # nothing was sent yet: what is wrong is the input
        list(Cutter(plan(64, metadata=metadata)).cut({"x": rows[::-1]}))


# --- where answers go ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "told"),
    [
        ({"y": np.zeros((2, 4))}, r"output 'y': expected rows of shape \(3,\), got \(4,\)"),
        ({"y": np.zeros((2, 3), np.int8)}, "output 'y': expected dtype float64, got int8"),
        ({"y": np.zeros((1, 3))}, "output 'y': expected 2 rows for 2 sent"),
        ({"z": np.zeros((2, 3))}, r"expected outputs \['y'\], got \['z'\]"),
    ],
)
@pytest.mark.parametrize("total", [4, None])
def test_answers_that_differ_cannot_be_one_array(total, later, told):
    known = plan(2)
    stack = Stack(known, total)
    core = ArrayCore(known, stack, 1, Silent())
    core.add({"x": np.zeros((4, 1))})
    first = core.take()
    core.succeeded(first, InferResult({"y": np.zeros((2, 3))}))
    assert core.hopeless is None
    core.succeeded(core.take(), InferResult(later))
    with pytest.raises(BlockError, match="rows 2 to 3 failed: " + told):
        raise core.hopeless


def test_out_that_is_too_short_for_what_comes_is_told():
    known = plan(2)
    stack = Stack(known, None, {"y": np.zeros((3, 1))})
    core = ArrayCore(known, stack, 1, Silent())
    core.add({"x": np.zeros((4, 1))})
    for _ in range(2):
        core.succeeded(core.take(), InferResult({"y": np.zeros((2, 1))}))
    with pytest.raises(BlockError, match=r"out 'y': expected at least 4 rows, got shape \(3, 1\)"):
        raise core.hopeless
