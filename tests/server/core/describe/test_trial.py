"""A model is run on made-up rows before it serves: what it shows about batches and shapes."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.describe.derive import complete, signature_of
from aiaas_server.core.describe.samples import plans, sample
from aiaas_server.core.describe.trial import NOT_JOINED, Trial, _alike, _all_alike
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.session import GraphFacts
from aiaas_server.core.signature import TensorSpec
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests.server.runtimes.graphs import model, node

RNG = np.random.default_rng(0)
ROWS = {"x": ("FP32", ["n", 4])}
GIVEN = {"y": ("FP32", ["n", 4])}
AXIS = {"zero": np.int64(0), "first": np.int64([0])}


def weights(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def lstm():
    """As torch exports (time, features): the first axis is time, and nobody says so."""
    nodes = [
        node("Unsqueeze", ["x", "one"], ["steps"]),
        node("LSTM", ["steps", "w", "r"], ["all"], hidden_size=4),
        node("Squeeze", ["all", "both"], ["y"]),
    ]
    constants = {"one": np.int64([1]), "both": np.int64([1, 2]),
                 "w": weights(1, 16, 4), "r": weights(1, 16, 4)}  # fmt: skip
    return model(nodes, ROWS, GIVEN, constants)


def own(*nodes, constants=AXIS, inputs=ROWS, outputs=GIVEN):
    return model(list(nodes), inputs, outputs, constants)


DEPENDENT = {
    "running total": own(node("CumSum", ["x", "zero"], ["y"])),
    "time first": lstm(),
    "less the mean": own(
        node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["y"]),
    ),
    "softmax over rows": own(node("Softmax", ["x"], ["y"], axis=0)),
    "turned round": own(
        node("Slice", ["x", "end", "start", "first", "back"], ["y"]),
        constants={**AXIS, "end": np.int64([-1]), "start": np.int64([-(2**62)]),
                   "back": np.int64([-1])},
    ),
    "the number of rows": own(
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["rows"]),
        node("Cast", ["rows"], ["r"], to=1), node("Mul", ["x", "r"], ["y"]),
    ),
    "whole numbers": own(
        node("CumSum", ["x", "zero"], ["y"]),
        inputs={"x": ("INT64", ["n", 4])}, outputs={"y": ("INT64", ["n", 4])},
    ),
    "a little of the mean": own(
        node("ReduceMean", ["x"], ["m"], axes=[0]), node("Mul", ["m", "bit"], ["b"]),
        node("Add", ["x", "b"], ["y"]), constants={"bit": np.float32(0.01)},
    ),
    "whatever comes after the eighth row": own(
        node("Slice", ["x", "eight", "end", "first"], ["t"]),
        node("ReduceSum", ["t", "first"], ["s"]), node("Add", ["x", "s"], ["y"]),
        constants={**AXIS, "eight": np.int64([8]), "end": np.int64([2**62])},
    ),
    "a large number anywhere": own(
        node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "fifty"], ["g"]),
        node("Cast", ["g"], ["f"], to=1), node("Add", ["x", "f"], ["y"]),
        constants={"fifty": np.float32(50)},
    ),
    "a small number anywhere": own(
        node("ReduceMin", ["x"], ["m"], axes=[0]), node("Min", ["m", "limit"], ["b"]),
        node("Add", ["x", "b"], ["y"]), constants={"limit": np.float32(-10)},
    ),
    "no number at all": own(
        node("ReduceMax", ["x"], ["m"], axes=[0]), node("IsNaN", ["m"], ["nan"]),
        node("Where", ["nan", "m", "x"], ["y"]),
    ),
    "the longest mask": own(
        node("ReduceSum", ["attention_mask", "last"], ["length"]),
        node("ReduceMax", ["length"], ["longest"], keepdims=0),
        node("Cast", ["longest"], ["l"], to=1), node("Div", ["x", "l"], ["y"]),
        constants={"last": np.int64([1])},
        inputs={**ROWS, "attention_mask": ("INT64", ["n", 4])},
    ),
}  # fmt: skip


def embedding():
    """Ids within a table of twenty rows, a mask, and kinds of which there are two."""
    nodes = [
        node("Gather", ["table", "input_ids"], ["e"]),
        node("Gather", ["kinds", "token_type_ids"], ["k"]),
        node("Add", ["e", "k"], ["sum"]),
        node("Cast", ["attention_mask"], ["m"], to=1),
        node("Unsqueeze", ["m", "last"], ["m3"]),
        node("Mul", ["sum", "m3"], ["hidden"]),
        node("ReduceSum", ["hidden", "time"], ["total"], keepdims=0),
        node("ReduceSum", ["m", "time"], ["count"]),
        node("Div", ["total", "count"], ["y"]),
    ]
    names = ("input_ids", "token_type_ids", "attention_mask")
    constants = {"table": weights(20, 8), "kinds": weights(2, 8), "last": np.int64([-1]),
                 "time": np.int64([1])}  # fmt: skip
    inputs = {name: ("INT64", ["batch", "sequence"]) for name in names}
    return model(nodes, inputs, {"y": ("FP32", ["batch", 8])}, constants)


def picture():
    """Refuses pictures below 20 by 20."""
    nodes = [
        node("Conv", ["x", "k"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["y"]),
    ]
    inputs = {"x": ("FP32", ["n", 3, "height", "width"])}
    return model(nodes, inputs, {"y": ("FP32", ["n", 5])}, {"k": weights(5, 3, 20, 20)})


def categories():
    """Texts become columns; of a text that is not known all are 0."""
    nodes = [
        node("OneHotEncoder", ["x"], ["o"], domain="ai.onnx.ml",
             cats_strings=["blue", "green"], zeros=1),
        node("Flatten", ["o"], ["y"]),
    ]  # fmt: skip
    return model(nodes, {"x": ("BYTES", ["n", 1])}, {"y": ("FP32", ["n", 2])})


INDEPENDENT = {
    "one after another": own(node("Relu", ["x"], ["y"])),
    "over columns": own(node("Softmax", ["x"], ["y"], axis=1)),
    "ids and masks": embedding(),
    "a picture": picture(),
    "texts": own(
        node("Identity", ["x"], ["y"]),
        inputs={"x": ("BYTES", ["n", 1])}, outputs={"y": ("BYTES", ["n", 1])},
    ),
    "categories": categories(),
    "yes and no": own(
        node("Not", ["x"], ["y"]),
        inputs={"x": ("BOOL", ["n", 4])}, outputs={"y": ("BOOL", ["n", 4])},
    ),
    "wide products": own(
        node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"]),
        constants={"w": weights(4, 4096), "v": weights(4096, 4)},
    ),
    "logarithms": own(node("Log", ["x"], ["y"])),
}  # fmt: skip


def settled(content, stored="{}", batching=None):
    session = open_session(content)
    config = ModelConfig.parse(stored)
    trial = Trial(session, "m")
    whole = complete("m", config, trial, default_max_batch_size=8, instances=1)
    return trial.settle(whole, config, batching)


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_depend_on_rows_are_not_joined(name, caplog):
    config = settled(DEPENDENT[name])
    assert config.max_batch_size == 0
    assert config.dynamic_batching is None
    assert config.input[0].dims == (-1, 4)
    said = config.as_json()["parameters"][NOT_JOINED]["string_value"]
    assert "output 'y' of a row is another beside" in said
    assert f"model 'm': requests are not joined, since {said}" in caplog.text


def test_each_output_is_held_against_what_stands_beside_it():
    nodes = [
        node("ReduceMax", ["x"], ["m"], axes=[0, 1]), node("Greater", ["m", "five"], ["g"]),
        node("Cast", ["g"], ["f"], to=1), node("Mul", ["x", "nought"], ["z"]),
        node("Add", ["z", "f"], ["flag"]), node("Identity", ["x"], ["y"]),
    ]  # fmt: skip
    constants = {"five": np.float32(5), "nought": np.float32(0)}
    config = settled(own(*nodes, constants=constants, outputs={**GIVEN, "flag": GIVEN["y"]}))
    assert config.max_batch_size == 0
    assert "output 'flag' of a row is another beside other rows" in str(config.parameters)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_of_their_own_are_joined(name, caplog):
    config = settled(INDEPENDENT[name])
    assert (config.max_batch_size or 0) >= 8
    assert config.dynamic_batching is not None
    assert NOT_JOINED not in config.parameters
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", [*DEPENDENT, *INDEPENDENT])
def test_every_trial_ends_alike(name):
    content = {**DEPENDENT, **INDEPENDENT}[name]
    assert settled(content) == settled(content)


@pytest.mark.parametrize(
    ("stored", "batching"),
    [
        ('{"max_batch_size": 4, "dynamic_batching": {}}', None),
        ('{"dynamic_batching": {}}', None),
        ("{}", {"pad": {"x": {"axis": 1}}}),
    ],
    ids=["batch size", "batching", "card"],
)
def test_who_sets_a_model_up_may_have_its_rows_joined_all_the_same(stored, batching, caplog):
    config = settled(DEPENDENT["running total"], stored, batching)
    assert config.dynamic_batching is not None
    assert "requests are joined as it is set up, although output 'y'" in caplog.text


class Own:
    """A session of a Python function of the rows."""

    providers = ("CPUExecutionProvider",)
    metadata = {}
    graph = GraphFacts()

    def __init__(self, function, dims=(-1, 2), datatype="FP32"):
        self.inputs = (TensorSpec("x", datatype, dims),)
        self.outputs = (TensorSpec("y", "FP32", (-1, 2)),)
        self.runs = 0
        self._function = function

    def run(self, inputs, outputs, stop=None):
        assert stop is not None
        assert stop.tries
        self.runs += 1
        return [self._function(inputs["x"])]

    def close(self): ...


def settled_by(function, stored="{}", **options):
    session = Own(function, **options)
    trial = Trial(session, "m")
    asked = ModelConfig.parse(stored)
    config = complete("m", asked, trial, default_max_batch_size=8, instances=1)
    return trial.settle(config, asked, None), session


def refuse(x):
    raise InvalidInput("not these")


def alone_only(x):
    if len(x) > 1:
        raise InvalidInput("one at a time")
    return x


NOISE = np.random.default_rng(3)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (refuse, "cannot be run on made-up inputs"),
        (alone_only, "it refuses 2 rows together"),
        (np.zeros_like, "answers to different made-up rows are the same"),
        (lambda x: np.full_like(x, np.nan), "answers to different made-up rows are the same"),
        (lambda x: x + NOISE.normal(size=x.shape).astype(x.dtype), "differ from run to run"),
        (lambda x: x.sum(axis=0, keepdims=True), "'y' does not begin with the batch"),
    ],
    ids=["refuses", "refuses two", "constant", "not a number", "random", "a sum"],
)
def test_without_evidence_requests_are_not_joined(function, said):
    config, _ = settled_by(function)
    assert config.max_batch_size == 0
    assert config.dynamic_batching is None
    assert said in config.parameters[NOT_JOINED].string_value


def test_outputs_that_do_not_begin_with_the_batch_are_joined_for_nobody():
    asked = '{"max_batch_size": 4, "dynamic_batching": {}}'
    config, _ = settled_by(lambda x: x.sum(axis=0, keepdims=True), asked)
    assert (config.max_batch_size, config.dynamic_batching) == (4, None)
    assert "'y' does not begin" in config.parameters[NOT_JOINED].string_value


@pytest.mark.parametrize("dims", [(-1, 2), (-1, -1, -1)])
def test_the_noise_of_floating_point_is_no_dependence(dims):
    config, session = settled_by(lambda x: x * np.float32(1 + 1e-6 * len(x)), dims=dims)
    assert config.dynamic_batching is not None
    assert session.runs < 20


def test_a_slow_model_is_tried_the_least():
    def slow(x):
        time.sleep(0.31)
        return x * 2

    config, session = settled_by(slow)
    assert config.dynamic_batching is not None
    assert session.runs <= 4


def test_made_up_inputs_are_the_same_at_every_load_and_within_bounds():
    specs = [
        TensorSpec("ids", "INT64", (-1, -1)),
        TensorSpec("attention_mask", "INT64", (-1, -1)),
        TensorSpec("x", "FP16", (-1, 3)),
        TensorSpec("t", "BYTES", (-1,)),
    ]
    for plan in plans(specs, cautious=False):
        one, other = sample(specs, plan, 5), sample(specs, plan, 5)
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert 0 <= one["ids"].min() <= one["ids"].max() < plan.most
        assert (one["attention_mask"] == 1).all()
        assert one["x"].dtype == np.float16
        assert one["t"].shape == (5,)
    assert all(plan.most <= 3 and plan.length <= 16 for plan in plans(specs, cautious=True))


# Shapes that are declared wrong


def declared(dims, *nodes, constants=AXIS, inputs=ROWS):
    return own(*nodes, outputs={"y": ("FP32", dims)}, constants=constants, inputs=inputs)


EYE = {"w": np.eye(4, dtype=np.float32)}


@pytest.mark.parametrize(
    ("content", "shape", "size"),
    [
        (declared([1, 4], node("MatMul", ["x", "w"], ["y"]), constants=EYE), (-1, 4), 8),
        (declared(["n"], node("MatMul", ["x", "w"], ["y"]), constants=EYE), (-1, 4), 8),
        (declared(["n", 9], node("MatMul", ["x", "w"], ["y"]), constants=EYE), (-1, -1), 8),
        (declared(["n", 4], node("MatMul", ["x", "w"], ["y"]), constants=EYE), (-1, 4), 8),
        (declared(["n", "m"], node("MatMul", ["x", "w"], ["y"]), constants=EYE), (-1, 4), 8),
        (declared(None, node("MatMul", ["x", "w"], ["y"]), constants=EYE), (-1, 4), 8),
        (declared([1, 1], node("ReduceSum", ["x"], ["y"], keepdims=0)), (), 0),
        (
            declared(
                ["n", 5, 5], node("Relu", ["x"], ["y"]), inputs={"x": ("FP32", ["n", 5, "t"])}
            ),
            (-1, 5, -1), 8,
        ),
    ],
    ids=["fixed batch", "rank too low", "too wide", "right", "free", "unknown", "scalar", "length"],
)  # fmt: skip
def test_the_shapes_that_a_model_gives_are_told(content, shape, size):
    session = open_session(content)
    config = ModelConfig()
    trial = Trial(session, "m")
    whole = complete("m", config, trial, default_max_batch_size=8, instances=1)
    whole = trial.settle(whole, config, None)
    assert signature_of(whole).outputs[0].shape == shape
    assert bool(whole.max_batch_size) == bool(size)


def test_a_wrong_shape_is_told_once_in_the_log(caplog):
    content = declared([1, 4], node("MatMul", ["x", "w"], ["y"]), constants=EYE)
    settled(content)
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert told == [
        "model 'm': output 'y' is declared as (1, 4) and is given as (-1, 4), which is told"
    ]


def test_a_size_that_lies_in_values_is_not_taken_for_fixed():
    nodes = [node("NonZero", ["x"], ["y"])]
    content = model(nodes, ROWS, {"y": ("INT64", [2, 7])})
    assert Trial(open_session(content), "m").outputs[0].shape in ((2, -1), (-1, -1))


async def test_answers_are_those_of_a_lone_run_and_the_config_route_says_why(
    make_repository, onnx_models
):
    """The whole way: requests at the same moment, over a pool."""
    root = make_repository({"total": DEPENDENT["running total"]})
    pool = ModelPool(Repository(root), open_session, Settings())
    await pool.start()
    try:
        loaded = pool.resolve("total")
        rows = RNG.normal(size=(24, 3, 4)).astype(np.float32)
        found = await asyncio.gather(*(loaded.infer({"x": x}) for x in rows))
        for x, outcome in zip(rows, found, strict=True):
            np.testing.assert_allclose(outcome.outputs["y"], x.cumsum(0), rtol=1e-5)
        assert NOT_JOINED in json.dumps(loaded.config.as_json())
    finally:
        await pool.close()


def test_a_lone_text_is_tried():
    content = model([node("Identity", ["x"], ["y"])], {"x": ("BYTES", [])}, {"y": ("BYTES", [])})
    assert settled(content).output[0].dims == ()


@given(
    hnp.arrays(st.sampled_from([np.float32, np.float16, np.int8, np.int64]), (3, 2)),
    hnp.arrays(
        np.float64, (3, 2), elements=st.sampled_from([0.0, 1e-7, 1e-3, 0.5, np.nan, np.inf])
    ),
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_looked_at_together_are_alike_only_if_each_is(rows, noise):
    others = rows.copy()
    if rows.dtype.kind == "f":
        others += noise.astype(rows.dtype)
    if _all_alike(others, rows):
        assert all(_alike(others[i : i + 1], rows[i : i + 1]) for i in range(3))
    assert _all_alike(rows, rows) or not np.isfinite(rows).all()
