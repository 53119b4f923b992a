"""A complete configuration and signature from a stored configuration and the graph itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from aiaas_client.protocol.tensors import (
    TensorError,
    config_name_of,
    datatype_from_config,
    dtype_of,
    element_count,
)
from aiaas_server.core.describe.config import (
    DynamicBatching,
    InputConfig,
    InstanceGroup,
    ModelConfig,
    OutputConfig,
    StringParameter,
)
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.session import Described
from aiaas_server.core.signature import Signature, TensorSpec

_log = logging.getLogger("aiaas_server")
_CPU_ONLY = ("CPUExecutionProvider",)
GRAPH_CHANGES = "graph_changes"
"""The parameter of a configuration that says what was done to the graph in memory."""
_FULL_BATCH_BYTES = 4 * 1024 * 1024


_Tensor = TypeVar("_Tensor", InputConfig, OutputConfig)


def complete(
    name: str,
    stored: ModelConfig,
    graph: Described,
    *,
    default_max_batch_size: int,
    instances: int,
) -> ModelConfig:
    """Fill in what `stored` leaves out, and hold the rest against the graph.

    Args:
        default_max_batch_size: For a graph that can batch and a configuration that does not say.
        instances: Runs at a time on the CPU where the configuration does not say; elsewhere 1.
    Raises:
        LoadFailed: The configuration contradicts the graph or asks for what is not offered.
    """
    stored.refuse_unsupported()
    _same_names("input", [i.name for i in stored.input], graph.inputs)
    _same_names("output", [o.name for o in stored.output], graph.outputs)
    derives = stored.max_batch_size is None
    size = _batch_size(stored, graph, default_max_batch_size)
    batching = stored.dynamic_batching
    if batching is None and derives and size > 1:
        batching = DynamicBatching()
    if batching is not None and size == 0:
        _log.warning("model '%s': max_batch_size is 0, so dynamic_batching is left out", name)
        batching = None
    if batching is not None and max(batching.preferred_batch_size, default=0) > size:
        raise LoadFailed(
            f"preferred_batch_size {max(batching.preferred_batch_size)} is larger than "
            f"max_batch_size {size}"
        )
    return stored.model_copy(
        update={
            "name": name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": size,
            "input": _tensors(InputConfig, stored.input, graph.inputs, size),
            "output": _tensors(OutputConfig, stored.output, graph.outputs, size),
            "instance_group": _groups(name, stored, graph, instances),
            "default_model_filename": stored.default_model_filename or "model.onnx",
            "dynamic_batching": batching,
            "parameters": _told(stored, graph),
        }
    )


def without_batch(config: ModelConfig) -> ModelConfig:
    """The configuration of a model whose first axis turned out to be no batch."""
    return config.model_copy(
        update={
            "max_batch_size": 0,
            "dynamic_batching": None,
            "input": tuple(_with_first_axis(tensor) for tensor in config.input),
            "output": tuple(_with_first_axis(tensor) for tensor in config.output),
        }
    )


def with_instances(config: ModelConfig, count: int) -> ModelConfig:
    """The configuration with `count` runs at a time in its one instance group."""
    (group,) = config.instance_group
    return config.model_copy(
        update={"instance_group": (group.model_copy(update={"count": count}),)}
    )


def signature_of(config: ModelConfig) -> Signature:
    """The signature that a complete configuration describes."""
    size = config.max_batch_size or 0
    lead = (-1,) if size else ()
    return Signature(
        config.name,
        [
            TensorSpec(
                tensor.name,
                datatype_from_config(tensor.data_type),
                lead + tensor.dims,
                tensor.optional,
                tensor.is_shape_tensor,
            )
            for tensor in config.input
        ],
        [
            TensorSpec(tensor.name, datatype_from_config(tensor.data_type), lead + tensor.dims)
            for tensor in config.output
        ],
        size,
    )


def can_batch(graph: Described) -> bool:
    """Whether every first dimension is variable and, where named, of one name."""
    specs = (*graph.inputs, *graph.outputs)
    if not graph.inputs or any(not spec.shape or spec.shape[0] != -1 for spec in specs):
        return False
    return len({spec.symbols[0] for spec in specs if spec.symbols and spec.symbols[0]}) <= 1


def _batch_size(stored: ModelConfig, graph: Described, default: int) -> int:
    if stored.max_batch_size is None:
        batches = can_batch(graph) and not _lists_full_shapes(stored, graph)
        return _fitting_size(graph, default) if batches else 0
    if stored.max_batch_size == 0:
        return 0
    for spec in (*graph.inputs, *graph.outputs):
        if spec.shape and spec.shape[0] not in (-1, stored.max_batch_size):
            raise LoadFailed(
                f"'{spec.name}': max_batch_size is {stored.max_batch_size}, but the first "
                f"dimension of the graph is {spec.shape[0]}, not variable"
            )
    return stored.max_batch_size


def _fitting_size(graph: Described, default: int) -> int:
    """`default`, or up to sixteen times it for small items, whose full batch is small still.

    Each request of a bulk job is at most one batch, so 64 rows of a few numbers would be mostly
    overhead. Where a dimension varies the size of an item is not known, and `default` stands.
    """
    item = 0
    for spec in (*graph.inputs, *graph.outputs):
        if -1 in spec.shape[1:] or spec.datatype == "BYTES":
            return default
        item += element_count(spec.shape[1:]) * dtype_of(spec.datatype).itemsize
    rows = _FULL_BATCH_BYTES // max(item, 1)
    return max(default, min(16 * default, 1 << max(rows.bit_length() - 1, 0)))


def _lists_full_shapes(stored: ModelConfig, graph: Described) -> bool:
    """Whether the configuration's dims include the first dimension: it then means no batching."""
    ranks = {spec.name: len(spec.shape) for spec in graph.inputs}
    return any(tensor.dims and len(tensor.dims) == ranks[tensor.name] for tensor in stored.input)


def _same_names(role: str, given: Sequence[str], specs: Sequence[TensorSpec]) -> None:
    known = [spec.name for spec in specs]
    for name in given:
        if name not in known:
            raise LoadFailed(
                f"configuration: the graph has no {role} '{name}', only {', '.join(known)}"
            )
    if len(set(given)) != len(given):
        raise LoadFailed(f"configuration: an {role} is listed twice")


def _tensors(
    kind: type[_Tensor], given: Sequence[_Tensor], specs: Sequence[TensorSpec], size: int
) -> tuple[_Tensor, ...]:
    """The inputs or outputs of the graph, with what the configuration says of each."""
    by_name = {tensor.name: tensor for tensor in given}
    found = []
    for spec in specs:
        tensor = by_name.get(spec.name) or kind(name=spec.name)
        update = {
            "data_type": _datatype(spec, tensor.data_type),
            "dims": _dims(spec, tensor.dims, size),
        }
        found.append(tensor.model_copy(update=update))
    return tuple(found)


def _with_first_axis(tensor: _Tensor) -> _Tensor:
    return tensor.model_copy(update={"dims": (-1, *tensor.dims)})


def _told(stored: ModelConfig, graph: Described) -> dict[str, StringParameter]:
    """The parameters, with what was done to the graph in memory."""
    if not graph.graph.changes:
        return stored.parameters
    text = "; ".join(graph.graph.changes)
    return {**stored.parameters, GRAPH_CHANGES: StringParameter(string_value=text)}


def _datatype(spec: TensorSpec, given: str) -> str:
    if given != "TYPE_INVALID":
        try:
            asked = datatype_from_config(given)
        except TensorError as error:
            raise LoadFailed(f"configuration: '{spec.name}': {error}") from error
        if asked != spec.datatype:
            raise LoadFailed(
                f"configuration: '{spec.name}': expected data_type "
                f"{config_name_of(spec.datatype)} as in the graph, got {given}"
            )
    return config_name_of(spec.datatype)


def _dims(spec: TensorSpec, given: tuple[int, ...], size: int) -> tuple[int, ...]:
    graph = spec.shape[1:] if size else spec.shape
    if not given or not spec.shape:  # the graph of an unknown rank says as much as one of rank 0
        return given or graph
    agree = len(given) == len(graph) and all(
        real in (-1, dim) or dim == -1 for dim, real in zip(given, graph, strict=True)
    )
    if not agree or any(dim < -1 for dim in given):
        raise LoadFailed(
            f"configuration: '{spec.name}': expected dims {list(graph)} as in the graph"
            f"{' without the batch' if size else ''}, got {list(given)}"
        )
    return tuple(dim if real == -1 else real for dim, real in zip(given, graph, strict=True))


def _groups(
    name: str, stored: ModelConfig, graph: Described, instances: int
) -> tuple[InstanceGroup, ...]:
    on_cpu = tuple(graph.providers) in ((), _CPU_ONLY)
    kind = "KIND_CPU" if on_cpu else "KIND_GPU"
    if not stored.instance_group:
        count = instances if on_cpu else 1
        return (InstanceGroup.model_validate({"name": f"{name}_0", "kind": kind, "count": count}),)
    if on_cpu and any(group.kind == "KIND_GPU" for group in stored.instance_group):
        _log.warning("model '%s': instance_group asks for KIND_GPU, and it runs on the CPU", name)
    return tuple(
        group.model_copy(
            update={
                "name": group.name or f"{name}_{index}",
                "kind": kind if group.kind == "KIND_AUTO" else group.kind,
                "count": group.count or 1,
            }
        )
        for index, group in enumerate(stored.instance_group)
    )
