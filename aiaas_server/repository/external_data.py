"""Where an ONNX model says that its weights lie, read before a runtime follows it.

Only the fields that lead to `external_data` are described; a descriptor is built when first
needed, so the onnx package is not.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from aiaas_server.core.errors import LoadFailed

_PACKAGE = "aiaas.onnx"
_LOCATION = b"location"

# message -> field -> (number, type); "*" is repeated. Numbers are those of onnx.proto.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Entry": {"key": (1, "bytes"), "value": (2, "bytes")},
    "Tensor": {"external_data": (13, "*Entry")},
    "SparseTensor": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "*Tensor"),
        "graphs": (11, "*Graph"),
        "sparse_tensor": (22, "SparseTensor"),
        "sparse_tensors": (23, "*SparseTensor"),
    },
    "Node": {"attribute": (5, "*Attribute")},
    "Graph": {
        "node": (1, "*Node"),
        "initializer": (5, "*Tensor"),
        "sparse_initializer": (15, "*SparseTensor"),
    },
    "Function": {"node": (7, "*Node"), "attribute_proto": (11, "*Attribute")},
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Model": {
        "graph": (7, "Graph"),
        "training_info": (20, "*Training"),
        "functions": (25, "*Function"),
    },
}


def external_files(model: Path) -> list[Path]:
    """The files beside `model` that hold weights of it, each once.

    Raises:
        LoadFailed: A location is not the plain name of a file in the model's own directory, or
            the model cannot be read.
    """
    try:
        with model.open("rb") as file:
            if file.seek(0, 2) == 0:
                return []
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                # An entry is keyed by this word; most models lack it and are not parsed at all.
                locations = set(_locations(view)) if view.find(_LOCATION) >= 0 else set()
    except OSError as error:
        raise LoadFailed(f"the model file cannot be read: {error.strerror}") from error
    return [_beside(model, location) for location in sorted(locations)]


def _locations(view: mmap.mmap) -> Iterator[str]:
    message: Any = _model_class()()
    try:
        message.ParseFromString(view[:])
    except DecodeError as error:
        raise LoadFailed("the model file is damaged: it is not an ONNX protobuf") from error
    yield from _found(message)


def _found(message: Any) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name == "external_data":
            for entry in value:
                if entry.key == _LOCATION:
                    yield entry.value.decode("utf-8", "replace")
            continue
        for item in (value,) if isinstance(value, Message) else value:
            yield from _found(item)


def _beside(model: Path, location: str) -> Path:
    plain = location and location not in (".", "..") and not set(location) & set("/\\\0:")
    if not plain:
        raise LoadFailed(
            f"weights in a further file: expected a plain file name beside the model, "
            f"got {location[:64]!r}"
        )
    file = model.with_name(location)
    if not file.is_file() or file.resolve().parent != model.parent.resolve():
        raise LoadFailed(f"weights in a further file: there is no file '{location}' beside it")
    return file


@cache
def _model_class() -> type[Message]:
    file = descriptor_pb2.FileDescriptorProto(
        name="aiaas/onnx.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            entry = message.field.add(name=field, number=number)
            repeated = kind.startswith("*")
            entry.label = entry.LABEL_REPEATED if repeated else entry.LABEL_OPTIONAL
            kind = kind.removeprefix("*")
            if kind == "bytes":
                entry.type = entry.TYPE_BYTES
            else:
                entry.type = entry.TYPE_MESSAGE
                entry.type_name = f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))
