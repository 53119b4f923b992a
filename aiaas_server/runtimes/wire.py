"""ONNX files as protobuf fields: a model read without its weights, and written with them again.

Weights are most of a file and nothing here looks into them. So a model is cut along the wire
format into its weights, which stay where they are, and all the rest, which is parsed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from aiaas_server.core.errors import LoadFailed

_PACKAGE = "aiaas.graph"
_GRAPH: Final = 7  # of a model
_INITIALIZER: Final = 5  # of a graph
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_SMALL: Final = 1 << 16  # bytes of a weight whose values are worth a look
_DAMAGED: Final = "the model file is damaged: it is not an ONNX protobuf"
_ORT_MARK: Final = b"ORTM"

# message -> field -> (number, type); "*" is repeated. Numbers are those of onnx.proto. What is not
# named here is kept as it is when a message is written again.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Tensor": {
        "dims": (1, "*int64"),
        "data_type": (2, "int32"),
        "float_data": (4, "*float"),
        "int32_data": (5, "*int32"),
        "string_data": (6, "*bytes"),
        "int64_data": (7, "*int64"),
        "name": (8, "bytes"),
        "raw_data": (9, "bytes"),
        "double_data": (10, "*double"),
        "uint64_data": (11, "*uint64"),
        "data_location": (14, "int32"),
    },
    "Attribute": {
        "name": (1, "bytes"),
        "i": (3, "int64"),
        "s": (4, "bytes"),
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "ints": (8, "*int64"),
        "strings": (9, "*bytes"),
        "tensors": (10, "*Tensor"),
        "graphs": (11, "*Graph"),
    },
    "Node": {
        "input": (1, "*bytes"),
        "output": (2, "*bytes"),
        "name": (3, "bytes"),
        "op_type": (4, "bytes"),
        "attribute": (5, "*Attribute"),
        "domain": (7, "bytes"),
        "overload": (8, "bytes"),
    },
    "Dim": {"value": (1, "int64"), "param": (2, "bytes")},
    "Shape": {"dim": (1, "*Dim")},
    "TensorType": {"elem_type": (1, "int32"), "shape": (2, "Shape")},
    "SequenceType": {"elem_type": (1, "Type")},
    "MapType": {"key_type": (1, "int32"), "value_type": (2, "Type")},
    "Type": {
        "tensor_type": (1, "TensorType"),
        "sequence_type": (4, "SequenceType"),
        "map_type": (5, "MapType"),
    },
    "Value": {"name": (1, "bytes"), "type": (2, "Type")},
    "Graph": {
        "node": (1, "*Node"),
        "initializer": (5, "*Tensor"),
        "input": (11, "*Value"),
        "output": (12, "*Value"),
        "value_info": (13, "*Value"),
    },
    "Opset": {"domain": (1, "bytes"), "version": (2, "int64")},
    "Function": {
        "name": (1, "bytes"),
        "input": (4, "*bytes"),
        "output": (5, "*bytes"),
        "node": (7, "*Node"),
        "opset_import": (9, "*Opset"),
        "domain": (10, "bytes"),
        "overload": (13, "bytes"),
    },
    "Model": {
        "graph": (7, "Graph"),
        "opset_import": (8, "*Opset"),
        "functions": (25, "*Function"),
    },
}


@dataclass(slots=True)
class ModelFile:
    """A model taken apart.

    Attributes:
        message: The `Model` message; its main graph lacks the weights.
        weights: Those of the main graph by name, as messages. The values of large ones are left
            out: a few zeros stand for them.
        problem: What is wrong with a weight; "" for none.
    """

    message: Any
    weights: dict[bytes, Any]
    problem: str
    _view: memoryview
    _spans: list[tuple[int, int]]

    def written(self) -> bytes:
        """The model as bytes, with what was changed in `message` and all weights."""
        rest = type(self.message)()
        rest.CopyFrom(self.message)
        rest.ClearField("graph")
        graph = self.message.graph.SerializeToString()
        weights = sum(stop - start for start, stop in self._spans)
        return b"".join(
            [
                rest.SerializeToString(),
                _tag(_GRAPH, len(graph) + weights),
                graph,
                *(self._view[start:stop] for start, stop in self._spans),
            ]
        )


def read_model(model: Path | bytes) -> ModelFile:
    """Take a model apart.

    Raises:
        LoadFailed: It cannot be read, or is not an ONNX protobuf.
    """
    view = _view_of(model)
    if bytes(view[4:8]) == _ORT_MARK:
        raise LoadFailed("the model is in onnxruntime's own format: expected ONNX protobuf")
    try:
        return _cut(view)
    except (DecodeError, IndexError, _Broken) as error:
        raise LoadFailed(_DAMAGED) from error


def message(name: str, **fields: Any) -> Any:
    """A message of a name in `_MESSAGES`."""
    made: Any = _classes()[name]
    return made(**fields)


def _view_of(model: Path | bytes) -> memoryview:
    if isinstance(model, bytes):
        if not model:
            raise LoadFailed("the model file is empty")
        return memoryview(model)
    try:
        with model.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise LoadFailed("the model file is empty")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise LoadFailed(f"the model file cannot be read: {error.strerror}") from error


def _cut(view: memoryview) -> ModelFile:
    head: list[bytes | memoryview] = []
    body: list[bytes | memoryview] = []
    spans: list[tuple[int, int]] = []
    weights: dict[bytes, Any] = {}
    problem = ""
    for field in _fields(view, 0, len(view)):
        if field.number != _GRAPH or field.kind != _LENGTH:
            head.append(view[field.start : field.stop])
            continue
        for part in _fields(view, field.content, field.stop):
            if part.number != _INITIALIZER or part.kind != _LENGTH:
                body.append(view[part.start : part.stop])
                continue
            spans.append((part.start, part.stop))
            weight = _weight(view, part)
            weights[weight.name] = weight
            problem = problem or weight_problem(weight)
    graph = b"".join(body)
    parsed = message("Model")
    parsed.ParseFromString(b"".join([*head, _tag(_GRAPH, len(graph)), graph]))
    return ModelFile(parsed, weights, problem, view, spans)


def _weight(view: memoryview, part: _Field) -> Any:
    weight = message("Tensor")
    if part.stop - part.content <= _SMALL:
        weight.ParseFromString(bytes(view[part.content : part.stop]))
        return weight
    kept = []
    for field in _fields(view, part.content, part.stop):
        if field.stop - field.content <= _SMALL:
            kept.append(bytes(view[field.start : field.stop]))
        elif field.kind == _LENGTH:
            # Enough to see that it is there: an element of zeros, whatever the type.
            kept.append(_tag(field.number, 8) + bytes(8))
    weight.ParseFromString(b"".join(kept))
    return weight


def weight_problem(weight: Any) -> str:
    """Why a tensor could be read in two ways; "" for a sound one."""
    typed = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
    if weight.HasField("raw_data") and any(len(getattr(weight, field)) for field in typed):
        name = weight.name.decode("utf-8", "replace")[:64]
        return f"the tensor '{name}' has both raw_data and typed data: expected one of them"
    return ""


class _Broken(Exception):
    """The bytes are not fields of protobuf."""


class _Field(NamedTuple):
    number: int
    kind: int
    start: int
    content: int
    stop: int


def _fields(view: memoryview, start: int, end: int) -> Iterator[_Field]:
    while start < end:
        key, content = _varint(view, start)
        kind = key & 7
        if kind == _LENGTH:
            size, content = _varint(view, content)
            stop = content + size
        elif kind == _VARINT:
            _, stop = _varint(view, content)
        elif kind in (_FIXED64, _FIXED32):
            stop = content + (8 if kind == _FIXED64 else 4)
        else:
            raise _Broken
        if stop > end:
            raise _Broken
        yield _Field(key >> 3, kind, start, content, stop)
        start = stop


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise _Broken


def _tag(number: int, size: int) -> bytes:
    return _as_varint(number << 3 | _LENGTH) + _as_varint(size)


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@cache
def _classes() -> dict[str, type[Message]]:
    file = descriptor_pb2.FileDescriptorProto(
        name="aiaas/graph.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _describe(described.field.add(name=field, number=number), kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def _describe(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    repeated = kind.startswith("*")
    kind = kind.removeprefix("*")
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    if kind in _MESSAGES:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
        return
    field.type = field.Type.Value(f"TYPE_{kind.upper()}")
    if repeated and kind != "bytes":
        field.options.packed = True


def text(raw: Sequence[int] | bytes) -> str:
    """A name of the file, fit for a message: cut, one line."""
    return " ".join(bytes(raw).decode("utf-8", "replace").split())[:64]
