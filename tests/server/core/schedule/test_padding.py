"""Requests of different lengths share a batch and get what they would have got alone."""

from __future__ import annotations

import asyncio
import json
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.schedule.padding import Declaration, Padding, declared, verify
from aiaas_server.core.schedule.requests import Batch, Request
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings

DIMS = 8
RULES = {
    "pad": {"ids": {"axis": 1, "value": 7}, "mask": {"axis": 1}},
    "slice": {"tokens": 1},
}


def masked_mean() -> bytes:
    """`ids`, `mask` int64 `[batch, n]` -> `mean` `[batch, 8]` of looked-up rows, and `tokens`."""
    table = np.random.default_rng(0).normal(size=(64, DIMS)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["found"]),
        helper.make_node("Cast", ["mask"], ["flat"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["flat", "last"], ["weight"]),
        helper.make_node("Mul", ["found", "weight"], ["tokens"]),
        helper.make_node("ReduceSum", ["tokens", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weight", "middle"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["mean"]),
    ]
    info = helper.make_tensor_value_info
    inputs = [info(name, TensorProto.INT64, ["batch", "n"]) for name in ("ids", "mask")]
    outputs = [
        info("mean", TensorProto.FLOAT, ["batch", DIMS]),
        info("tokens", TensorProto.FLOAT, ["batch", "n", DIMS]),
    ]
    constants = {"table": table, "last": np.array([-1]), "middle": np.array([1])}
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


SESSION = open_session(masked_mean())
SIGNATURE = Signature("m", SESSION.inputs, SESSION.outputs, 16)
PADDING = Padding(Declaration.model_validate(RULES), SIGNATURE)


def asked(length, rows=1, seed=0):
    ids = np.random.default_rng(seed).integers(0, 64, (rows, length))
    return {"ids": ids, "mask": np.ones((rows, length), np.int64)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 3)), min_size=2, max_size=6))
def test_joining_and_cutting_never_change_a_result(sizes):
    requests = [asked(length, rows, seed) for seed, (length, rows) in enumerate(sizes)]
    longest = max(length for length, _ in sizes)
    whole = SESSION.run(PADDING.join(requests, longest), SIGNATURE.output_names)
    start = 0
    for request, (length, rows) in zip(requests, sizes, strict=True):
        part = [array[start : start + rows] for array in whole]
        mine = PADDING.cut(part, SIGNATURE.output_names, length)
        alone = SESSION.run(request, SIGNATURE.output_names)
        for got, expected in zip(mine, alone, strict=True):
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        start += rows


@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(1, 8)), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    st.integers(1, 400) | st.just(inf),
)
def test_a_selection_keeps_to_its_bounds_wherever_it_is_cut_off(sizes, max_waste, most):
    padding = Padding(Declaration.model_validate({**RULES, "max_waste": max_waste}), SIGNATURE)
    lengths, rows = [s[0] for s in sizes], [s[1] for s in sizes]
    chosen = padding.select(lengths, rows, 16, most=most)
    assert chosen[0] == 0
    assert len(set(chosen)) == len(chosen)
    for count in range(1, len(chosen) + 1):
        part = chosen[:count]
        items = sum(rows[i] for i in part)
        filled = sum(rows[i] * lengths[i] for i in part)
        assert items <= 16
        assert count == 1 or items * max(lengths[i] for i in part) <= most
        assert filled >= (1 - max_waste) * items * max(lengths[i] for i in part) - 1e-9


def test_the_nearest_lengths_go_together():
    lengths = [10, 100, 11, 9, 12, 50]
    assert PADDING.select(lengths, [1] * 6, 16) == [0, 3, 2, 4]
    assert PADDING.select(lengths, [1] * 6, 16, worth=2) == [0, 3, 2]
    assert PADDING.select([5, 5, 5], [8, 16, 8], 16) == [0, 2]
    assert PADDING.select([5, 5, 6, 5, 5], [1] * 5, 16, most=15) == [0, 1, 3]
    assert PADDING.select([5, 5], [1, 1], 16, most=4) == [0]


@pytest.mark.parametrize(
    ("inputs", "length"),
    [
        (asked(4), 4),
        ({"ids": np.zeros((1, 4)), "mask": np.zeros((1, 5))}, 0),
        ({"ids": np.zeros((1, 0)), "mask": np.zeros((1, 0))}, 0),
    ],
    ids=["one length", "two lengths", "empty"],
)
def test_only_requests_of_one_length_of_their_own_are_padded(inputs, length):
    assert PADDING.place(inputs)[1] == length


async def served(make_repository, parameters, **options):
    config = {"max_batch_size": 16, "dynamic_batching": {}, **options}
    config["parameters"] = {"batching": {"string_value": json.dumps(parameters)}}
    root = make_repository({"m": masked_mean()}, configs={"m": json.dumps(config)})
    pool = ModelPool(Repository(root), open_session, Settings(queue_size=1000))
    await pool.start()
    return pool


async def test_concurrent_sentences_share_batches_and_keep_their_answers(make_repository):
    pool = await served(make_repository, RULES)
    model = pool.resolve("m")
    requests = [asked(5 + seed * 7 % 116, 1 + seed % 2, seed) for seed in range(200)]
    outcomes = await asyncio.gather(*[model.infer(request) for request in requests])
    for request, outcome in zip(requests, outcomes, strict=True):
        alone = SESSION.run(request, SIGNATURE.output_names)
        for got, expected in zip(outcome.outputs.values(), alone, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    shapes = len({request["ids"].shape[1] for request in requests})
    assert model.statistics.execution_count < shapes
    await pool.close()


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"pad": {"no": {"axis": 1}}}, "no input 'no', only ids, mask"),
        ({"pad": {"ids": {"axis": 2}}}, "axis 2 is not variable"),
        ({"pad": {"ids": {"axis": 0}}}, "greater than or equal to 1"),
        ({"pad": RULES["pad"], "slice": {"mean": 1}}, "axis 1 is not variable"),
        ({"pad": RULES["pad"]}, "output 'tokens' follows the padded length along axes [1]"),
        ({"pad": RULES["pad"], "cut": {}}, "unknown key 'cut'"),
        ([1], "batching"),
    ],
    ids=["name", "rank", "batch axis", "fixed output", "slice missing", "unknown key", "form"],
)
async def test_a_wrong_declaration_is_told_at_load(make_repository, rules, reason):
    pool = await served(make_repository, rules)
    (entry,) = pool.index()
    assert entry["state"] == "UNAVAILABLE"
    assert reason in entry["reason"]
    await pool.close()


def test_a_card_may_declare_it_and_the_configuration_stands_above_it():
    text = json.dumps(RULES | {"max_waste": 0.5})
    config = ModelConfig.parse({"parameters": {"batching": {"string_value": text}}})
    assert declared(ModelConfig(), {}) is None
    assert declared(ModelConfig(), RULES) == Declaration.model_validate(RULES)
    found = declared(config, RULES)
    assert found is not None
    assert found.max_waste == 0.5
    broken = ModelConfig.parse({"parameters": {"batching": {"string_value": "{"}}})
    with pytest.raises(LoadFailed, match="it is not JSON"):
        declared(broken, None)


def test_text_and_models_that_do_not_batch_cannot_be_padded():
    spec = TensorSpec("x", "BYTES", (-1, -1))
    rules = Declaration.model_validate({"pad": {"x": {"axis": 1}}})
    with pytest.raises(LoadFailed, match="is text"):
        Padding(rules, Signature("m", [spec], [], 4))
    with pytest.raises(LoadFailed, match="a model that batches"):
        Padding(rules, Signature("m", [spec], [], 0))


async def test_a_thousand_interleaved_shapes_never_wait_for_each_other(bench):
    """Requests of a shape are joined across all that came between; no batch ends at another's."""
    one = bench({"max_batch_size": 8}, queue_size=2000)
    one.budget.max_count = 2000
    first = await one.occupy()
    widths = [width for _ in range(2) for width in range(1, 1001)]
    tasks = [one.ask(float(width), width=width) for width in widths]
    await asyncio.sleep(0)
    one.session.release(2000)
    await first
    outcomes = await asyncio.gather(*tasks)
    assert len(one.session.batches) == 1 + 1000
    assert all(outcome.batch_rows == 2 for outcome in outcomes)
    for width, outcome in zip(widths, outcomes, strict=True):
        assert outcome.outputs["y"].shape == (1, width)
    # A shape that comes last among a thousand is served after those before it, not after all.
    assert one.done.index(1.0) < one.done.index(1000.0)


@pytest.mark.parametrize(
    ("lengths", "size"), [([4, 4], 64), ([4, 2], 64), ([8, 1, 1], 192)], ids=str
)
async def test_a_batch_is_as_large_as_what_is_run_padding_included(lengths, size):
    """What decides between the event loop and a thread is the run's own size."""
    signature = Signature("m", [TensorSpec("x", "INT64", (-1, -1))], [], 8)
    padding = Padding(Declaration.model_validate({"pad": {"x": {"axis": 1}}}), signature)
    members = []
    for length in lengths:
        x = {"x": np.ones((1, length), np.int64)}
        future = asyncio.get_running_loop().create_future()
        members.append(Request(x, (), 1, x["x"].nbytes, "key", future, 0, length))
    assert Batch(members, (), padding).size == size


async def test_padded_requests_are_kept_by_their_own_shape(make_repository):
    text = {"response_cache": {"enable": True}}
    pool = await served(make_repository, RULES, **text)
    model = pool.resolve("m")
    sentences = [asked(length, seed=length) for length in (3, 4, 3, 5)]
    first = await asyncio.gather(*[model.infer(sentence) for sentence in sentences])
    again = await asyncio.gather(*[model.infer(sentence) for sentence in sentences])
    for sentence, one, two in zip(sentences, first, again, strict=True):
        assert one.outputs["tokens"].shape[1] == sentence["ids"].shape[1]
        for name, array in one.outputs.items():
            np.testing.assert_array_equal(array, two.outputs[name])
    assert model.statistics.cache_hit_count >= len(sentences)
    await pool.close()


def test_inputs_too_large_to_make_up_say_nothing_against_padding():
    large = TensorSpec("x", "FP32", (-1, -1, 2**40))
    rules = Declaration.model_validate({"pad": {"x": {"axis": 1}}})
    signature = Signature("m", [large], SIGNATURE.outputs, 16)
    verify(rules, SESSION, signature)  # runs nothing, refuses nothing
