"""Which batch sizes are timed before a model serves, and for how long."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.pool.sizes import learn_sizes
from aiaas_server.core.schedule.curve import BatchCurve
from aiaas_server.core.session import GraphFacts
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings

MS = 1_000_000


class Scripted:
    """A run of n rows takes what `took` says, in ms."""

    inputs = outputs = ()
    providers = ("CPUExecutionProvider",)
    graph = GraphFacts()
    metadata = {}

    def __init__(self, took):
        self.took = took
        self.ns = 0
        self.sizes = []

    def run(self, inputs, outputs, stop=None):
        rows = len(inputs["x"])
        self.sizes.append(rows)
        self.ns += round(self.took(rows) * MS)
        return [np.zeros((rows, 1), np.float32)]

    def close(self): ...


def timed(took, most=64):
    session, curve = Scripted(took), BatchCurve(most)
    signature = Signature("m", [TensorSpec("x", "FP32", (-1, 2))], [], most)
    learn_sizes(session, signature, curve, lambda: session.ns, {1: round(took(1) * MS)})
    return session, curve


@pytest.mark.parametrize(
    ("took", "sizes", "cap"),
    [
        (lambda n: 0.5, [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64, 64], 64),
        (lambda n: n**1.1, [1, 1, 2, 2, 4, 4], 1),
        (lambda n: {1: 1, 2: 2.2, 4: 3.4, 8: 8, 16: 16}[n], [1, 1, 2, 2, 4, 4, 8, 8, 16], 4),
        (lambda n: 9.0 * n, [1, 1, 2, 2, 4], 1),
        (lambda n: 1000.0 * n, [], 0),
    ],
    ids=["falling", "rising", "a bump", "time is short", "too slow to try"],
)
def test_sizes_are_timed_while_they_may_pay_and_there_is_time(took, sizes, cap):
    session, curve = timed(took)
    assert session.sizes == sizes
    assert curve.cap == cap


@pytest.mark.parametrize("row_ms", [0.001, 0.1, 1, 5, 20, 100, 240, 10_000])
@pytest.mark.parametrize("power", [0.0, 0.7, 1.0, 1.3])
def test_a_start_is_never_delayed_for_long(row_ms, power):
    session, _ = timed(lambda n: row_ms * n**power, 1024)
    assert session.ns <= 400 * MS


def test_the_most_need_not_be_a_power_of_two():
    session, curve = timed(lambda n: 0.5, 12)
    assert session.sizes[-1] == 12
    assert curve.cap == 12


def test_no_size_is_run_that_batches_are_not_filled_up_to():
    session, curve = Scripted(lambda n: 1.0), BatchCurve(16)
    signature = Signature("m", [TensorSpec("x", "FP32", (-1, 2))], [], 16)
    learn_sizes(session, signature, curve, lambda: session.ns, {1: MS}, (3, 16))
    assert session.sizes == [3, 3, 16, 16]
    assert curve.cap == 16


def test_a_model_that_refuses_zeros_is_left_to_what_comes():
    class Refusing(Scripted):
        def run(self, inputs, outputs, stop=None):
            raise InvalidInput("no zeros")

    session, curve = Refusing(lambda n: 1.0), BatchCurve(8)
    signature = Signature("m", [TensorSpec("x", "FP32", (-1, 2))], [], 8)
    learn_sizes(session, signature, curve, lambda: session.ns, {1: MS})
    assert curve.points() == {}


@pytest.mark.parametrize("known", [{}, {1: 5_000, 64: 70_000}], ids=["nothing", "a quick model"])
def test_no_more_is_run_where_warming_up_said_enough(known):
    session, curve = Scripted(lambda n: 1.0), BatchCurve(64)
    signature = Signature("m", [TensorSpec("x", "FP32", (-1, 2))], [], 64)
    learn_sizes(session, signature, curve, lambda: session.ns, known)
    assert session.sizes == []
    assert curve.points() == pytest.approx(known)


@pytest.mark.parametrize(
    ("config", "settings", "told"),
    [
        ({}, {}, True),
        ({"max_batch_size": 8, "dynamic_batching": {}}, {}, True),
        ({}, {"batch_cap": False}, False),
        ({"max_batch_size": 8}, {}, False),
        ({"max_batch_size": 8, "dynamic_batching": {"preferred_batch_size": [4]}}, {}, False),
    ],
    ids=["no configuration", "batches", "switched off", "no batches", "preferred sizes"],
)
async def test_a_loaded_model_tells_its_curve(make_repository, onnx_models, config, settings, told):
    root = make_repository({"m": onnx_models.scale()}, configs={"m": json.dumps(config)})
    pool = ModelPool(Repository(root), open_session, Settings(**settings))
    await pool.start()
    try:
        model = pool.resolve("m")
        curve = model.statistics.batch_curve
        assert bool(curve) is told
        if told:
            assert curve["unit"] == "rows"
            assert 1 <= curve["cap"] <= model.config.max_batch_size
            assert all(point["ns"] > 0 for point in curve["points"])
    finally:
        await pool.close()
