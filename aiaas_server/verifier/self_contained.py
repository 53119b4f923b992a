"""A model whose weights lie in other files, as one that ONNX's checker can look at by itself.

By path the checker refuses files that have several hard links, as those of the cache do, and
whatever its shape inference would have to read from another file. Nothing here is run: the runtime
loads the model as it was brought.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import onnx

from aiaas_server.registry.verification.tensors import declared_bytes

_SHAPES: Final = 16 << 10
"""Bytes of a tensor that inference may want to know the values of, such as a shape."""


def self_contained(content: bytes, directory: Path) -> bytes:
    """The model with everything in it.

    Weights of the main graph become inputs of the same type and shape; small ones, and those that
    stand elsewhere, get their values.

    Args:
        content: A model that was looked through: its places in other files are right.
        directory: Where those files are.
    """
    model: Any = onnx.ModelProto.FromString(content)
    graph = model.graph
    inputs = {one.name for one in graph.input}
    kept = []
    for tensor in graph.initializer:
        if not _is_elsewhere(tensor) or declared_bytes(tensor) <= _SHAPES:
            kept.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    if len(kept) < len(graph.initializer):
        left = [onnx.TensorProto.FromString(one.SerializeToString()) for one in kept]
        del graph.initializer[:]
        graph.initializer.extend(left)
    for tensor in _tensors(model):
        if _is_elsewhere(tensor):
            _take_in(tensor, directory)
    found: bytes = model.SerializeToString()
    return found


def _is_elsewhere(tensor: Any) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _tensors(model: Any) -> Iterator[Any]:
    """All there are, in whichever graph, function or attribute."""
    waiting: list[Any] = [model]
    while waiting:
        message = waiting.pop()
        if message.DESCRIPTOR.name == "TensorProto":
            yield message
            continue
        for described, value in message.ListFields():
            if described.message_type is not None:
                waiting.extend((value,) if hasattr(value, "DESCRIPTOR") else value)


def _take_in(tensor: Any, directory: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (directory / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset") or 0))
        tensor.raw_data = file.read(declared_bytes(tensor))
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
