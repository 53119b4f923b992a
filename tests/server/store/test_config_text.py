"""`config.pbtxt` as Triton's users write it."""

from __future__ import annotations

import pytest

from aiaas_server.core.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.store.config_text import parse_config_text

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
