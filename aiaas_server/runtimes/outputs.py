"""Outputs that are no tensors, made tensors where that is possible."""

from __future__ import annotations

from typing import Any, Final

from aiaas_server.runtimes.graph import FLOAT, attribute
from aiaas_server.runtimes.wire import ModelFile, message, text

_LABELS_TOLD: Final = 64


def drop_zipmaps(model: ModelFile) -> list[str]:
    """Give the scores of classifiers as tensors (rows, classes), as they are before a ZipMap.

    Returns:
        What was changed, a text an output.
    """
    graph = model.message.graph
    outputs = {value.name: value for value in graph.output}
    used = {name for node in graph.node for name in node.input}
    changes = []
    for node in graph.node:
        if node.op_type != b"ZipMap" or node.domain != b"ai.onnx.ml" or len(node.input) != 1:
            continue
        value = outputs.get(node.output[0]) if node.output else None
        if value is None or value.name in used:
            continue
        labels = _labels(node)
        value.type.CopyFrom(_scores(value, len(labels)))
        node.op_type, node.domain = b"Identity", b""
        del node.attribute[:]
        told = ", ".join(labels[:_LABELS_TOLD]) + (", ..." if len(labels) > _LABELS_TOLD else "")
        changes.append(f"output '{text(value.name)}' is a tensor of scores by class: {told}")
    return changes


def _labels(node: Any) -> list[str]:
    texts, numbers = attribute(node, b"classlabels_strings"), attribute(node, b"classlabels_int64s")
    if texts is not None and texts.strings:
        return [text(label) for label in texts.strings]
    return [] if numbers is None else [str(label) for label in numbers.ints]


def _scores(value: Any, classes: int) -> Any:
    """The type of a tensor of so many scores a row."""
    element = value.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type
    width = message("Dim", value=classes) if classes else message("Dim")
    shape = message("Shape", dim=[message("Dim"), width])
    tensor = message("TensorType", elem_type=element or FLOAT, shape=shape)
    return message("Type", tensor_type=tensor)
