"""`config.pbtxt` as Triton's users write it."""

from __future__ import annotations

import pytest

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.repository.config_text import parse_config_text

FULL = """
name: "resnet"  # a comment
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, 224 ] } ]
output [
  { name: "y" data_type: TYPE_STRING dims: [ 1000 ] label_filename: "labels.txt" },
  { name: "z" data_type: TYPE_BF16 dims: 4 dims: 5 }
]
version_policy: { specific: { versions: [1, 3] } }
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_CPU count: 1 } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  preserve_ordering: true
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 }
  priority_queue_policy { key: 1 value { max_queue_size: 7 } }
}
parameters { key: "intra_op_thread_count" value: { string_value: "3" } }
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
model_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value { dims: 3 zero_data: true } } } ]
default_model_filename: "net.onnx"
"""


def read(text):
    return ModelConfig.parse(parse_config_text(text))


def test_everything_that_matters_is_read_and_the_rest_is_skipped():
    config = read(FULL)
    assert config.model_warmup[0].inputs["x"].zero_data is True
    assert config.name == "resnet"
    assert config.max_batch_size == 8
    assert config.input[0].dims == (3, -1, 224)
    assert config.input[0].format == "FORMAT_NCHW"
    assert [(o.data_type, o.dims) for o in config.output] == [
        ("TYPE_STRING", (1000,)),
        ("TYPE_BF16", (4, 5)),
    ]
    assert config.output[0].label_filename == "labels.txt"
    assert config.version_policy.choose([1, 2, 3]) == [1, 3]
    assert config.instances == 3
    batching = config.dynamic_batching
    assert batching is not None
    assert batching.preferred_batch_size == (4, 8)
    assert batching.max_queue_delay_microseconds == 100
    assert batching.preserve_ordering
    assert batching.policy(1).max_queue_size == 7
    assert batching.policy(2).timeout_action == "DELAY"
    assert batching.policy(2).default_timeout_microseconds == 5
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert config.default_model_filename == "net.onnx"


@pytest.mark.parametrize(
    ("text", "size"), [("", None), ("max_batch_size: 0", 0), ("max_batch_size: 1", 1)]
)
def test_a_batch_size_of_zero_is_told_from_none(text, size):
    assert read(text).max_batch_size == size


def test_presence_of_an_empty_scheduler_is_kept():
    assert read("dynamic_batching { }").dynamic_batching is not None
    assert read("").dynamic_batching is None
    assert read("sequence_batching { direct { } }").sequence_batching == {}
    assert read('ensemble_scheduling { step [ { model_name: "a" } ] }').ensemble_scheduling
    assert read("version_policy: { all { } }").version_policy.choose([1, 2]) == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "optimization { cuda { graphs: true graph_spec [ { batch_size: 1 } ] } priority: HIGH }",
        'instance_group [ { rate_limiter { resources [ { name: "R" count: 4 } ] priority: 2 } } ]',
        'model_repository_agents { agents [ { name: "a" parameters { key: "k" value: "v" } } ] }',
        'cc_model_filenames { key: "7.5" value: "m" } metric_tags { key: "a" value: "b" }',
        'backend: "onnxruntime" model_operations { op_library_filename: [ "a.so", "b.so" ] }',
        "something_newer: [ 1, 2 ] and_more { deep { deeper: 1.5 } }",
    ],
)
def test_what_does_not_concern_us_is_skipped(text):
    assert read(text).max_batch_size is None


@pytest.mark.parametrize(
    "text",
    ["max_batch_size: many", "input {", "max_batch_size: 1 max_batch_size: 2", "\x00", "{}",
     "input [ { data_type: TYPE_ODD } ]"],
)  # fmt: skip
def test_what_is_not_a_configuration_is_refused_in_one_line(text):
    with pytest.raises(LoadFailed, match=r"config\.pbtxt: ") as caught:
        read(text)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "name", "near"),
    [
        ("max_batchsize: 8", "max_batchsize", "max_batch_size"),
        ("dynamic_batching { max_queue_delay_us: 5 preferred_batch_sizes: [ 4 ] }",
         "preferred_batch_sizes", "preferred_batch_size"),
        ('input [ { name: "x" }, { name: "y" dim: [ 1 ] datatype: TYPE_FP32 } ]',
         "dim", "dims"),
        ('parameters { key: "k" value { string_valeu: "v" } }', "string_valeu", "string_value"),
        ("instance_groups [ { count: 1 } ]", "instance_groups", "instance_group"),
        ('# max_batchsize\nname: "max_batchsize: 1" optimisation { }',
         "optimisation", "optimization"),
    ],
    ids=["batch size", "nested", "in a list", "in a map", "plural", "only fields are looked at"],
)  # fmt: skip
def test_a_misspelt_field_is_refused_with_the_nearest_name(text, name, near):
    said = f"unknown field '{name}'; the nearest known name is '{near}'"
    with pytest.raises(LoadFailed, match=said):
        read(text)


def test_a_field_that_resembles_none_is_told_in_the_metadata():
    config = read("something_newer: [ 1, 2 ] and_more { deep { deeper: 1.5 } }")
    assert config.parameters["unknown_fields"].string_value == "something_newer, and_more"
    assert "unknown_fields" not in read(FULL).parameters


@pytest.mark.parametrize(
    "data",
    ['{"max_batchsize": 8}', '{"dynamic_batching": {"max_queue_delay_microsecond": 1}}'],
    ids=["at the top", "nested"],
)
def test_a_misspelt_field_of_a_json_configuration_is_refused_too(data):
    with pytest.raises(LoadFailed, match="unknown field 'max_.*the nearest known name is 'max_"):
        ModelConfig.parse(data)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_batch_size: hunter2", "line 1, column 17: expected a whole number"),
        ("name: hunter2", "expected a text in quotes"),
        ('name: "hunter2', "a text has no closing quote"),
        ("input [ { data_type: hunter2 } ]", "no value of that name"),
        ("\n\ninput { hunter2", "line 3"),
        ("max_batch_size: 1 # hunter2\nmax_batch_size: 1", "line 2, column 17: .*given twice"),
        ('parameters { key: "password" value { string_value: hunter2 } }', "expected a text"),
    ],
)
def test_a_parse_error_says_where_and_repeats_nothing(text, said):
    with pytest.raises(LoadFailed, match=said) as caught:
        read(text)
    assert "hunter2" not in caught.value.message
    assert "password" not in caught.value.message
    assert caught.value.__cause__ is None
