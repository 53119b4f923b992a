"""Configurations: read, held against the graph, completed, and written in the wire's shape."""

from __future__ import annotations

import json

import pytest

from aiaas_server.core.describe.config import ModelConfig, VersionPolicy
from aiaas_server.core.describe.derive import complete, signature_of
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.session import GraphFacts
from aiaas_server.core.signature import TensorSpec


class Graph:
    """A session that is nothing but its inputs and outputs."""

    providers = ("CPUExecutionProvider",)
    graph = GraphFacts()

    def __init__(self, inputs, outputs):
        self.inputs = tuple(self._spec(name, dims) for name, dims in inputs.items())
        self.outputs = tuple(self._spec(name, dims) for name, dims in outputs.items())

    @staticmethod
    def _spec(name, dims):
        shape = tuple(dim if isinstance(dim, int) else -1 for dim in dims)
        symbols = tuple(dim if isinstance(dim, str) else "" for dim in dims)
        return TensorSpec(name, "FP32", shape, symbols=symbols)


BATCHES = Graph({"x": ("N", 4)}, {"y": ("N", None)})


def completed(graph=BATCHES, **stored):
    config = ModelConfig.parse(json.dumps(stored))
    return complete("m", config, graph, default_max_batch_size=64, instances=2)


@pytest.mark.parametrize(
    ("graph", "size"),
    [
        (BATCHES, 64),
        (Graph({"x": (None, 4)}, {"y": ("N", 2)}), 1024),
        (Graph({"x": ("N", 3, 64, 64)}, {"y": ("N", 2)}), 64),
        (Graph({"x": ("N", 2, 1000)}, {"y": ("N", 2)}), 512),
        (Graph({"x": ("N", 4)}, {"y": ("M", 2)}), 0),
        (Graph({"x": (1, 4)}, {"y": (1, 2)}), 0),
        (Graph({"x": ("N", 4)}, {"y": ()}), 0),
        (Graph({"x": ("N",), "k": (1,)}, {"y": ("N",)}), 0),
    ],
    ids=[
        "same symbol, varies",
        "one unnamed, small items",
        "large items",
        "items between",
        "other symbol",
        "fixed",
        "scalar output",
        "fixed input",
    ],
)
def test_a_graph_batches_when_all_first_dimensions_vary_together(graph, size):
    config = completed(graph)
    assert config.max_batch_size == size
    assert (config.dynamic_batching is not None) == (size > 0)


def test_dims_leave_the_batch_out_and_the_metadata_shape_has_it():
    config = completed()
    assert [config.input[0].dims, config.output[0].dims] == [(4,), (-1,)]
    signature = signature_of(config)
    assert [signature.inputs[0].shape, signature.outputs[0].shape] == [(-1, 4), (-1, -1)]


def test_without_batching_dims_and_metadata_shape_are_the_same():
    config = completed(max_batch_size=0)
    assert config.input[0].dims == signature_of(config).inputs[0].shape == (-1, 4)


def test_an_explicit_batch_size_without_a_scheduler_joins_no_requests():
    assert completed(max_batch_size=8).dynamic_batching is None
    assert "dynamic_batching" not in completed(max_batch_size=8).as_json()


def test_listed_full_dims_without_a_batch_size_mean_no_batching():
    assert completed(input=[{"name": "x", "dims": [-1, 4]}]).max_batch_size == 0


def test_declared_dims_may_narrow_what_the_graph_leaves_open():
    config = completed(max_batch_size=8, output=[{"name": "y", "dims": [3]}])
    assert config.output[0].dims == (3,)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"input": [{"name": "q"}]}, "no input 'q', only x"),
        ({"output": [{"name": "q"}]}, "no output 'q', only y"),
        ({"input": [{"name": "x", "data_type": "TYPE_INT8"}]},
         "'x': expected data_type TYPE_FP32 as in the graph, got TYPE_INT8"),
        ({"input": [{"name": "x", "data_type": "TYPE_ODD"}]}, "unknown data_type 'TYPE_ODD'"),
        ({"max_batch_size": 8, "input": [{"name": "x", "dims": [5]}]},
         r"'x': expected dims \[4\] as in the graph without the batch, got \[5\]"),
        ({"max_batch_size": 8, "input": [{"name": "x", "dims": [-1, 4]}]}, "got \\[-1, 4\\]"),
        ({"backend": "python"}, "backend 'python' is not supported"),
        ({"platform": "tensorrt_plan"}, "platform 'tensorrt_plan' is not supported"),
        ({"sequence_batching": {}}, "sequence_batching is not supported"),
        ({"ensemble_scheduling": {"step": []}}, "ensemble_scheduling is not supported"),
        ({"model_transaction_policy": {"decoupled": True}}, "decoupled"),
        ({"input": [{"name": "x", "reshape": {"shape": [2, 2]}}]}, "'x': reshape is not supported"),
        ({"input": [{"name": "x", "allow_ragged_batch": True}]}, "allow_ragged_batch"),
        ({"max_batch_size": 4, "dynamic_batching": {"preferred_batch_size": [8]}},
         "preferred_batch_size 8 is larger than max_batch_size 4"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "-".join(value),
)  # fmt: skip
def test_a_configuration_that_contradicts_the_graph_or_asks_too_much_is_refused(stored, message):
    with pytest.raises(LoadFailed, match=message):
        completed(**stored)


def test_a_fixed_first_dimension_cannot_be_a_batch():
    with pytest.raises(LoadFailed, match="'x': max_batch_size is 8, but the first dimension"):
        completed(Graph({"x": (1, 4)}, {"y": (1, 4)}), max_batch_size=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "configuration: Invalid JSON"),
        ("[]", "configuration: "),
        ('{"max_batch_size": -1}', "configuration: max_batch_size: "),
        ('{"max_batch_size": "many"}', "configuration: max_batch_size: "),
        ('{"dynamic_batching": {"priority_levels": 2}}', "default_priority_level must be 1 to 2"),
        ('{"version_policy": {"latest": {}, "all": {}}}', "exactly one|needs one of"),
        ('{"default_model_filename": "../../etc/passwd"}', "must be a plain file name"),
        ('{"output": [{"name": "y", "label_filename": "/etc/passwd"}]}', "a plain file name"),
        ('{"instance_group": [{"count": 100000}]}', "instance_group.0.count"),
    ],
    ids=[
        "not JSON", "not an object", "negative", "not a number", "level missing", "two policies",
        "file name with a path", "label file with a path", "too many instances",
    ],
)  # fmt: skip
def test_an_unusable_configuration_is_refused_with_the_field_named(text, message):
    with pytest.raises(LoadFailed, match=message) as caught:
        ModelConfig.parse(text)
    assert "\n" not in caught.value.message


def test_digit_strings_and_unknown_fields_are_accepted():
    config = ModelConfig.parse('{"max_batch_size": "8", "optimization": {"cuda": {}}}')
    assert config.max_batch_size == 8


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        ({"latest": {"num_versions": 1}}, [10]),
        ({"latest": {"num_versions": 2}}, [9, 10]),
        ({"all": {}}, [1, 9, 10]),
        ({"specific": {"versions": [9, 7]}}, [9]),
    ],
    ids=["latest", "latest two", "all", "specific"],
)
def test_the_version_policy_chooses_by_number(policy, chosen):
    assert VersionPolicy.model_validate(policy).choose([10, 9, 1]) == chosen


def test_the_json_form_has_the_keys_that_clients_read():
    data = completed().as_json()
    assert data["name"] == "m"
    assert data["platform"] == "onnxruntime_onnx"
    assert data["version_policy"] == {"latest": {"num_versions": 1}}
    assert data["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [4],
         "is_shape_tensor": False, "allow_ragged_batch": False, "optional": False}
    ]  # fmt: skip
    assert data["model_transaction_policy"] == {"decoupled": False}
    assert data["response_cache"] == {"enable": False}
    assert data["instance_group"][0]["count"] == 2
    assert "sequence_batching" not in data
    assert ModelConfig.parse(json.dumps(data)).as_json() == data
