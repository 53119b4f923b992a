"""Reads `config.pbtxt`: protobuf text format over a descriptor built when first needed.

Only the fields this server looks at are described, and those that hold lists of messages, which
the parser cannot skip; it skips the rest. The message's JSON form is the shape that
`core.describe.config.ModelConfig` reads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf import text_format as text
from google.protobuf.message import Message

from aiaas_server.core.errors import LoadFailed
from aiaas_server.repository.field_names import unknown_fields

_PACKAGE = "aiaas.config"
_MAX_TOLD = 16
# What Triton has besides and this server leaves alone.
_ELSEWHERE = ("cc_model_filenames", "metric_tags", "model_operations", "runtime")
# A mark in the parser's message, and what is said instead.
_REASONS = (
    ("multiple", "a field that may stand once is given twice"),
    ("has no value named", "an enumeration has no value of that name"),
    ("parse integer", "expected a whole number"),
    ("xpected string", "expected a text in quotes"),
    ("String missing", "a text has no closing quote"),
    ('"true" or "false"', "expected true or false"),
    ("identifier", "expected the name of a field"),
    ("Expected", "a brace, a bracket or a colon is missing"),
    ("out of range", "a number is out of range"),
)
_SCALARS = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "int64": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    "uint32": descriptor_pb2.FieldDescriptorProto.TYPE_UINT32,
    "uint64": descriptor_pb2.FieldDescriptorProto.TYPE_UINT64,
}

_ENUMS = {
    "DataType": (
        "TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 "
        "TYPE_INT16 TYPE_INT32 TYPE_INT64 TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16"
    ),
    "Format": "FORMAT_NONE FORMAT_NHWC FORMAT_NCHW",
    "Kind": "KIND_AUTO KIND_GPU KIND_CPU KIND_MODEL",
    "TimeoutAction": "REJECT DELAY",
}

# message -> field -> type; "*" is repeated, "%" a map from the type before it to that after it.
_MESSAGES = {
    "Reshape": {"shape": "*int64"},
    "Input": {
        "name": "string",
        "data_type": "DataType",
        "format": "Format",
        "dims": "*int64",
        "reshape": "Reshape",
        "is_shape_tensor": "bool",
        "allow_ragged_batch": "bool",
        "optional": "bool",
    },
    "Output": {
        "name": "string",
        "data_type": "DataType",
        "dims": "*int64",
        "reshape": "Reshape",
        "label_filename": "string",
        "is_shape_tensor": "bool",
    },
    "BatchTensor": {"target_name": "*string"},
    "Group": {
        "name": "string",
        "kind": "Kind",
        "count": "int32",
        "gpus": "*int32",
        "profile": "*string",
        "rate_limiter": "RateLimiter",
        "secondary_devices": "*Empty",
    },
    "RateLimiter": {"resources": "*Empty"},
    "Latest": {"num_versions": "uint32"},
    "Empty": {},
    "Specific": {"versions": "*int64"},
    "VersionPolicy": {"latest": "Latest", "all": "Empty", "specific": "Specific"},
    "QueuePolicy": {
        "timeout_action": "TimeoutAction",
        "default_timeout_microseconds": "uint64",
        "allow_timeout_override": "bool",
        "max_queue_size": "uint32",
    },
    "DynamicBatching": {
        "preferred_batch_size": "*int32",
        "max_queue_delay_microseconds": "uint64",
        "preserve_ordering": "bool",
        "priority_levels": "uint64",
        "default_priority_level": "uint64",
        "default_queue_policy": "QueuePolicy",
        "priority_queue_policy": "uint64%QueuePolicy",
    },
    "Sequences": {"control_input": "*Control", "state": "*State"},
    "Control": {"control": "*Empty"},
    "State": {"initial_state": "*Empty"},
    "Ensemble": {"step": "*Empty"},
    "Optimization": {"cuda": "Cuda", "execution_accelerators": "Accelerators"},
    "Cuda": {"graph_spec": "*Empty"},
    "Accelerators": {"gpu_execution_accelerator": "*Empty", "cpu_execution_accelerator": "*Empty"},
    "Agents": {"agents": "*Empty"},
    "Metrics": {"metric_control": "*Empty"},
    "WarmupInput": {
        "data_type": "DataType",
        "dims": "*int64",
        "zero_data": "bool",
        "random_data": "bool",
        "input_data_file": "string",
    },
    "Warmup": {
        "name": "string",
        "batch_size": "uint32",
        "inputs": "string%WarmupInput",
        "count": "uint32",
    },
    "Parameter": {"string_value": "string"},
    "Transaction": {"decoupled": "bool"},
    "Cache": {"enable": "bool"},
    "Config": {
        "name": "string",
        "platform": "string",
        "backend": "string",
        "version_policy": "VersionPolicy",
        "max_batch_size": "int32",
        "input": "*Input",
        "output": "*Output",
        "batch_input": "*BatchTensor",
        "batch_output": "*BatchTensor",
        "instance_group": "*Group",
        "default_model_filename": "string",
        "dynamic_batching": "DynamicBatching",
        "sequence_batching": "Sequences",
        "ensemble_scheduling": "Ensemble",
        "parameters": "string%Parameter",
        "model_transaction_policy": "Transaction",
        "response_cache": "Cache",
        "model_warmup": "*Warmup",
        "optimization": "Optimization",
        "model_repository_agents": "Agents",
        "model_metrics": "Metrics",
    },
}


def parse_config_text(source: str) -> dict[str, Any]:
    """The JSON form of a `config.pbtxt`.

    Fields that are not known are skipped, and listed in the parameter `unknown_fields`.

    Raises:
        LoadFailed: It is not protobuf text, a field has a value of the wrong type, or the name of
            one is nearly that of a known one. The message says where, and repeats no value.
    """
    unknown = _unknown(source)
    message = _config_class()()
    try:
        text.Parse(source, message, allow_unknown_field=True)
    except (text.ParseError, ValueError) as error:
        raise LoadFailed(f"config.pbtxt: {_without_values(error)}") from None
    data: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if unknown:
        told = {"unknown_fields": {"string_value": ", ".join(unknown)}}
        data["parameters"] = {**data.get("parameters", {}), **told}
    return data


def _unknown(source: str) -> list[str]:
    """The fields that nobody knows.

    Raises:
        LoadFailed: One has nearly the name of a known one.
    """
    found = []
    for name, near in unknown_fields(source, _MESSAGES, "Config"):
        if name in _ELSEWHERE:
            continue
        if near:
            raise LoadFailed(
                f"config.pbtxt: unknown field '{name[:64]}'; the nearest known name is '{near}'"
            )
        found.append(name[:64])
    return list(dict.fromkeys(found))[:_MAX_TOLD]


def _without_values(error: Exception) -> str:
    """What a parser says, without what it read: a configuration may hold what is not to be told."""
    if isinstance(error, text.ParseError) and error.GetLine():
        where = f"line {error.GetLine()}, column {error.GetColumn()}: "
    else:
        where = ""
    said = str(error).rpartition("': ")[2]
    reason = next((told for mark, told in _REASONS if mark in said), "it is not protobuf text")
    return where + reason


@cache
def _config_class() -> type[Message]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Config"))


def _file() -> descriptor_pb2.FileDescriptorProto:
    # proto2: a field that is not there can be told from one that is 0.
    file = descriptor_pb2.FileDescriptorProto(
        name="aiaas/config.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values.split()):
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            _add_field(message, field, number, kind)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number)
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    if kind.startswith("*") or "%" in kind:
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    if "%" in kind:
        key, _, value = kind.partition("%")
        entry = message.nested_type.add(name=_entry_name(name))
        entry.options.map_entry = True
        _add_field(entry, "key", 1, key)
        _add_field(entry, "value", 2, value)
        field.type = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{message.name}.{entry.name}"
        return
    _set_type(field, kind.removeprefix("*"))


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    is_enum = kind in _ENUMS
    field.type = (
        descriptor_pb2.FieldDescriptorProto.TYPE_ENUM
        if is_enum
        else descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    )
    field.type_name = f".{_PACKAGE}.{kind}"


def _entry_name(field: str) -> str:
    """The name that the text format expects of a map's entry: PriorityQueuePolicyEntry."""
    return "".join(part.capitalize() for part in field.split("_")) + "Entry"
