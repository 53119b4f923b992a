"""What an uploaded graph may not hold, found before anything but a parser has seen it.

Imported only in the throw-away process: it needs the package `onnx`. Every refusal says what was
expected and what came. What functions expand to is counted elsewhere, in `runtimes.limits`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import onnx
from google.protobuf.message import DecodeError, Message

from aiaas_server.core.errors import Rejected
from aiaas_server.registry.verification.operators import CONTRIB, LISTED, OWN, STANDARD
from aiaas_server.registry.verification.tensors import declared_bytes, refuse_size

MAX_NESTING: Final = 50
MAX_NODES: Final = 50_000
MAX_NAME: Final = 512  # bytes
MAX_METADATA: Final = 64 << 10  # bytes
MAX_RANK: Final = 16  # dimensions of an input or output: what a request may have
MAX_DIM: Final = 2**31 - 1
MAX_INFLATION: Final = 1.2
_SLACK: Final = 1 << 20  # bytes: small whole numbers take one in the file, eight in memory
_ADDRESSES: Final = ("_ORT_MEM_ADDR_", "_ORT_NATIVE_ENDIAN_MEM_ADDR_")
_ENTRIES: Final = frozenset({"location", "offset", "length", "checksum"})
_FREE_TEXT: Final = frozenset({"doc_string", "value"})
_SINGULAR_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# First bytes of what people bring instead of ONNX.
_FORMATS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (4, b"ORTM", "onnxruntime's own format"),
    (4, b"TFL3", "TensorFlow Lite"),
    (0, b"PK\x03\x04", "a zip archive, as PyTorch and Keras write them"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x80\x02", "a pickle"),
    (0, b"\x80\x03", "a pickle"),
    (0, b"\x80\x04", "a pickle"),
    (0, b"\x80\x05", "a pickle"),
    (0, b"\x89HDF", "HDF5, as Keras writes it"),
    (0, b"GGUF", "GGUF"),
    (0, b"\x7fELF", "a program"),
    (0, b"{", "JSON"),
    (0, b"<", "XML or HTML"),
)

# Gives size in bytes of a sibling file and its SHA-256; None where there is no such plain file.
Sibling = Callable[[str], tuple[int, str] | None]


@dataclass(frozen=True, slots=True)
class Structure:
    """What was found in a graph that holds nothing forbidden.

    Attributes:
        opset: By operator domain; the standard one is `ai.onnx`.
        nodes: As written, in all subgraphs and functions.
        siblings: Files that hold weights of it.
    """

    opset: dict[str, int]
    ir_version: int
    nodes: int
    siblings: tuple[str, ...]


def examine(content: bytes, sibling: Sibling, declared: Mapping[str, str]) -> Structure:
    """Look through a model file.

    Args:
        content: The whole file.
        sibling: Looks at a file beside it.
        declared: The digests that the card declares, by file name.
    Raises:
        Rejected: It is no ONNX model, or holds what is not accepted.
    """
    refuse_other_formats(content)
    refuse_junk(content)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        raise Rejected(_NOT_ONNX) from None
    return _Look(model, len(content), sibling, declared).all()


_NOT_ONNX: Final = (
    "expected an ONNX protobuf, got bytes that are none, or that are nested more than 100 deep"
)


def refuse_other_formats(content: bytes) -> None:
    """Raises `Rejected` for an empty file, and names the format of what is clearly not ONNX."""
    if not content:
        raise Rejected("the model file is empty: expected an ONNX protobuf")
    for at, mark, name in _FORMATS:
        if content[at : at + len(mark)] == mark:
            raise Rejected(f"expected an ONNX protobuf, got {name}")


def refuse_junk(content: bytes) -> None:
    """Hold the outermost fields against those of a model.

    A parser joins what was appended to a model with what was there before, and keeps what it does
    not know.

    Raises:
        Rejected: A field that a model does not have, or one twice that it has once.
    """
    known = onnx.ModelProto.DESCRIPTOR.fields_by_number
    repeated = {"opset_import", "metadata_props", "training_info", "functions", "configuration"}
    seen = set[int]()
    for number, start in _fields(content):
        described = known.get(number)
        if described is None and not start:
            raise Rejected(_NOT_ONNX)
        if described is None:
            raise Rejected(
                f"expected an ONNX protobuf and nothing else, got bytes at {start} that are no "
                "part of a model"
            )
        if number in seen and described.name not in repeated:
            raise Rejected(
                f"expected one '{described.name}' in the model file, got a second one at byte "
                f"{start}"
            )
        seen.add(number)
    if onnx.ModelProto.GRAPH_FIELD_NUMBER not in seen:
        raise Rejected("expected an ONNX model, got one without a graph")


def _fields(content: bytes) -> Iterator[tuple[int, int]]:
    """Number and place of each outermost field."""
    at, end = 0, len(content)
    while at < end:
        start = at
        try:
            key, at = _varint(content, at)
            kind = key & 7
            if kind == _LENGTH:
                size, at = _varint(content, at)
                at += size
            elif kind == _SINGULAR_VARINT:
                _, at = _varint(content, at)
            else:
                at += {_FIXED64: 8, _FIXED32: 4}[kind]
        except (IndexError, KeyError):
            raise Rejected(_NOT_ONNX) from None
        if at > end:
            raise Rejected(
                f"expected a whole model file, got one that ends {at - end} bytes too early"
            )
        yield key >> 3, start


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError


@dataclass(slots=True)
class _Look:
    """One walk over a model: every message of it, once."""

    model: Any
    size: int
    sibling: Sibling
    declared: Mapping[str, str]
    nodes: int = 0
    weights: int = 0  # bytes as declared
    siblings: dict[str, int] = field(default_factory=dict)
    functions: set[tuple[str, str, str]] = field(default_factory=set)

    def all(self) -> Structure:
        """Look at everything; raises `Rejected`."""
        model = self.model
        opset = self._opsets()
        if model.training_info:
            raise Rejected(
                "expected a model for inference, got one with training_info: export it without"
            )
        self._metadata()
        _refuse_ends("input", model.graph.input)
        _refuse_ends("output", model.graph.output)
        for function in model.functions:
            self._function(function)
        self._walk(model)
        room = MAX_INFLATION * (self.size + sum(self.siblings.values())) + _SLACK
        if self.weights > room:
            raise Rejected(
                f"expected weights of about the size of the file, {self.size} bytes, "
                f"got tensors of {self.weights} bytes"
            )
        return Structure(opset, model.ir_version, self.nodes, tuple(sorted(self.siblings)))

    def _opsets(self) -> dict[str, int]:
        model = self.model
        if not 1 <= model.ir_version <= onnx.IR_VERSION:
            raise Rejected(
                f"expected an IR version of 1 to {onnx.IR_VERSION}, got {model.ir_version}"
            )
        opset: dict[str, int] = {}
        for entry in model.opset_import:
            _refuse_names(entry)
            domain = entry.domain or "ai.onnx"
            opset[domain[:64]] = max(entry.version, opset.get(domain[:64], 0))
        if len(opset) > 100:
            raise Rejected(f"expected at most 100 operator domains, got {len(opset)}")
        newest = {"ai.onnx": onnx.defs.onnx_opset_version(), "ai.onnx.ml": _newest_ml()}
        for domain, version in opset.items():
            if version < 1 or version > newest.get(domain, 2**31):
                raise Rejected(
                    f"expected an opset of '{domain}' of 1 to {newest.get(domain, 2**31)}, "
                    f"got {version}"
                )
        return opset

    def _metadata(self) -> None:
        for entry in self.model.metadata_props:
            _refuse_names(entry)
        found = sum(
            len(entry.key.encode()) + len(entry.value.encode())
            for entry in self.model.metadata_props
        )
        if found > MAX_METADATA:
            raise Rejected(f"expected at most {MAX_METADATA} bytes of metadata, got {found}")

    def _function(self, function: Any) -> None:
        _refuse_names(function)
        domain = function.domain
        if any(domain == own or domain.startswith(f"{own}.") for own in OWN) or not domain:
            raise Rejected(
                f"function '{function.name[:64]}': expected an operator domain of its own, got "
                f"'{domain[:64]}', which is the runtime's"
            )
        key = (domain, function.name, function.overload)
        if key in self.functions:
            raise Rejected(f"expected one function '{function.name[:64]}', got two of that name")
        self.functions.add(key)

    def _walk(self, model: Any) -> None:
        """Look at each message; those inside it later, so that depth costs no stack."""
        waiting: list[tuple[Any, int]] = [(model, 1)]
        while waiting:
            message, depth = waiting.pop()
            if depth > MAX_NESTING:
                raise Rejected(f"expected messages nested at most {MAX_NESTING} deep, got more")
            kind = message.DESCRIPTOR.name
            if kind == "TensorProto":
                self._tensor(message)
                continue  # nothing is inside it, and to list its fields would copy its values
            for described, value in message.ListFields():
                if described.message_type is not None:
                    inner = (value,) if isinstance(value, Message) else value
                    waiting.extend((item, depth + 1) for item in inner)
                elif described.type == described.TYPE_STRING:
                    _refuse_name(described.name, value)
            if kind == "NodeProto":
                self._node(message)

    def _node(self, node: Any) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise Rejected(f"expected at most {MAX_NODES} nodes, got more")
        domain = node.domain
        if domain in STANDARD or (domain, node.op_type, node.overload) in self.functions:
            return
        if domain == CONTRIB and node.op_type in LISTED:
            return
        raise Rejected(
            f"operator '{node.op_type[:64]}' of domain '{domain[:64]}': expected operators of "
            f"ONNX, functions of the model itself, or known ones of {CONTRIB}"
        )

    def _tensor(self, tensor: Any) -> None:
        _refuse_name("name", tensor.name)
        refuse_size(tensor)
        self.weights += declared_bytes(tensor)
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            self._external(tensor)

    def _external(self, tensor: Any) -> None:
        name = tensor.name[:64]
        for entry in tensor.external_data:
            _refuse_names(entry)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if unknown := entries.keys() - _ENTRIES:
            raise Rejected(
                f"tensor '{name}': external_data: expected location, offset and length, got "
                f"{min(unknown)[:64]!r}"
            )
        location = entries.get("location", "")
        if any(mark in location for mark in _ADDRESSES):
            raise Rejected(f"tensor '{name}': it names a memory address as the place of its values")
        if location in ("", ".", "..") or set(location) & set("/\\\0:"):
            raise Rejected(
                f"tensor '{name}': expected its values in the model or in a plain file of the "
                f"bundle, got the location {location[:64]!r}"
            )
        found = self.sibling(location)
        if found is None:
            raise Rejected(
                f"tensor '{name}': its values lie in '{location[:64]}', which is not in the bundle"
            )
        size, digest = found
        expected = self.declared.get(location, "").lower()
        if not expected:
            raise Rejected(
                f"tensor '{name}': its values lie in '{location[:64]}', whose SHA-256 the card "
                'does not declare: add it to "assets" of model.json'
            )
        if expected != digest:
            raise Rejected(f"file '{location[:64]}': expected sha256 {expected[:64]}, got {digest}")
        self.siblings[location] = size
        self._extent(tensor, entries, location, size)

    def _extent(self, tensor: Any, entries: Mapping[str, str], location: str, size: int) -> None:
        numbers: dict[str, int] = {}
        for key in ("offset", "length"):
            text = entries.get(key, "")
            if text and not (text.isascii() and text.isdecimal() and len(text) < 20):
                raise Rejected(
                    f"tensor '{tensor.name[:64]}': expected a whole number as its {key}, "
                    f"got {text[:64]!r}"
                )
            if text:
                numbers[key] = int(text)
        needed = declared_bytes(tensor)
        length = numbers.get("length", needed)
        if length != needed:
            raise Rejected(
                f"tensor '{tensor.name[:64]}': expected {needed} bytes for its dims, got a length "
                f"of {length}"
            )
        end = numbers.get("offset", 0) + length
        if end > size:
            raise Rejected(
                f"tensor '{tensor.name[:64]}': its values end at byte {end} of "
                f"'{location[:64]}', which has {size}"
            )


def _refuse_ends(what: str, values: Any) -> None:
    """Refuse inputs, or outputs, that no request could name or fill."""
    names = set[Any]()
    for value in values:
        shown = value.name[:64]
        if value.name in names:
            raise Rejected(f"expected one {what} '{shown}', got two of that name")
        names.add(value.name)
        dims = value.type.tensor_type.shape.dim
        if len(dims) > MAX_RANK:
            raise Rejected(
                f"{what} '{shown}': expected at most {MAX_RANK} dimensions, got {len(dims)}"
            )
        for dim in dims:
            if dim.dim_value > MAX_DIM:
                raise Rejected(
                    f"{what} '{shown}': expected dimensions of at most {MAX_DIM}, "
                    f"got {dim.dim_value}"
                )


def _refuse_names(message: Any) -> None:
    for described, value in message.ListFields():
        if described.type == described.TYPE_STRING:
            _refuse_name(described.name, value)


def _refuse_name(place: str, value: Any) -> None:
    """Refuse a text, or one of several, that is none or too long for a name.

    The parser gives bytes in the place of a text that is not UTF-8.
    """
    for name in (value,) if isinstance(value, str | bytes) else value:
        if isinstance(name, bytes):
            raise Rejected(f"a text in the model is not UTF-8: {name[:32]!r}")
        if place in _FREE_TEXT or len(name) <= MAX_NAME // 4:
            continue
        if len(name.encode()) > MAX_NAME:
            raise Rejected(
                f"expected names of at most {MAX_NAME} bytes, got {name[:32]!r}... of "
                f"{len(name.encode())}"
            )


def _newest_ml() -> int:
    """The newest operators of `ai.onnx.ml` that the installed packages know."""
    return max(int(row[3]) for row in onnx.helper.VERSION_TABLE)
