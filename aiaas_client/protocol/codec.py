"""Inference bodies: JSON, binary, mixed and raw, to and from arrays.

A body is a JSON object, followed, when the inference header tells its length, by the bytes of the
binary tensors in the order of the JSON. Decoding makes views on the body, never copies, unless
the bytes lie unaligned in memory. Every length is compared with the body before anything of that
length is allocated; whatever the bytes are, only `CodecError` is raised.

`protocol.md` sections 5 and 6 name the rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.jsontensor import count_booleans, tensor_from_json, tensor_to_json
from aiaas_client.protocol.jsontext import PYDANTIC_JSON, JsonText
from aiaas_client.protocol.tensors import (
    Array,
    TensorError,
    check_shape,
    datatype_of,
    dtype_of,
    element_count,
    object_array,
    pack_bytes,
    unpack_bytes,
)

Body = bytes | bytearray | memoryview
Scalar = str | int | float | bool

MAX_INPUTS = 256
MAX_OUTPUTS = 256
MAX_PARAMETERS = 64
MAX_PARAMETER_BYTES = 1024
MAX_ID_LENGTH = 128
_ALIGNMENT = 8
_SMALL_BYTES = 4096  # below this a copy costs less than a view


class CodecError(ValueError):
    """A body that does not follow the protocol.

    Attributes:
        message: What was expected and what came.
        code: The stable code an answer carries.
    """

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INVALID_REQUEST) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class SharedMemory:
    """A place in a registered shared-memory region, in bytes."""

    region: str
    byte_size: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class SharedInput:
    """An input whose bytes lie in shared memory instead of the body."""

    memory: SharedMemory
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output that the caller listed.

    Attributes:
        binary: The caller's choice for this output; None leaves it to the request.
        classification: Give the best k as `value:index[:label]` texts; 0 gives the tensor.
        shared_memory: Where to write the tensor instead of into the answer.
    """

    name: str
    binary: bool | None = None
    classification: int = 0
    shared_memory: SharedMemory | None = None


@dataclass(slots=True)
class InferRequest:
    """An inference request as arrays.

    Attributes:
        inputs: Name to tensor, in the order of the body.
        outputs: What the caller listed; empty asks for all outputs.
        binary_output: `binary_data_output`: the form of outputs that do not say their own.
    """

    inputs: dict[str, Array]
    outputs: list[RequestedOutput] = field(default_factory=list)
    id: str = ""
    parameters: dict[str, Scalar] = field(default_factory=dict)
    binary_output: bool = False
    shared_inputs: dict[str, SharedInput] = field(default_factory=dict)


@dataclass(slots=True)
class InferResponse:
    """An inference answer as arrays, in the order of the body."""

    model_name: str
    model_version: str
    outputs: dict[str, Array]
    id: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Encoded:
    """A body ready to be sent.

    Attributes:
        chunks: The JSON, then the tensors as views on the arrays.
        json_length: The inference header's value; None when the body is JSON alone.
    """

    chunks: list[bytes | memoryview]
    json_length: int | None

    @property
    def content_length(self) -> int:
        """Bytes of the whole body."""
        return sum(len(chunk) for chunk in self.chunks)

    @property
    def content_type(self) -> str:
        """`application/octet-stream` with binary tensors, else `application/json`."""
        return "application/json" if self.json_length is None else "application/octet-stream"

    def join(self) -> bytes:
        """Copy the chunks into one piece."""
        return b"".join(self.chunks)


def parse_header_length(value: str | bytes, body_length: int) -> int:
    """Read `Inference-Header-Content-Length`.

    Raises:
        CodecError: Not one to ten digits, or more than the body holds.
    """
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        shown = repr(text[:64])
        raise CodecError(f"Inference-Header-Content-Length must be 1 to 10 digits, got {shown}")
    length = int(text)
    if length > body_length:
        got = f"the body has {body_length} bytes"
        raise CodecError(f"Inference-Header-Content-Length is {length} but {got}")
    return length


def decode_request(
    body: Body,
    json_length: int | None,
    *,
    json: JsonText = PYDANTIC_JSON,
    max_json_bytes: int | None = None,
) -> InferRequest:
    """Read an inference request.

    Args:
        body: The whole, inflated body; it must outlive the arrays, which are views on it.
        json_length: Bytes of the JSON part; None when the inference header is absent.
        json: The JSON reader.
        max_json_bytes: Longest JSON part accepted.
    Raises:
        CodecError: Anything that breaks the protocol.
    """
    document, text, offset = _split(body, json_length, json, max_json_bytes)
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        raise CodecError("expected 'inputs' as an array of tensors")
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise CodecError(f"expected 1 to {MAX_INPUTS} inputs, got {len(inputs)}")
    request = InferRequest({}, id=_identifier(document.get("id")))
    tail = _Tail(body, offset)
    may_hold_booleans = _any_json_data(inputs) and _data_may_hold_booleans(document, text)
    for entry in inputs:
        _read_input(entry, request, tail, may_hold_booleans)
    tail.expect_end()
    if "outputs" in document:
        request.outputs = _read_outputs(document["outputs"])
    if "parameters" in document:
        request.parameters = _read_parameters(document["parameters"])
        chosen = request.parameters.get("binary_data_output", False)
        if not isinstance(chosen, bool):
            raise CodecError("parameter 'binary_data_output' must be true or false")
        request.binary_output = chosen
    return request


def _split(
    body: Body, json_length: int | None, json: JsonText, max_json_bytes: int | None
) -> tuple[dict[str, Any], Body, int]:
    length = len(body) if json_length is None else json_length
    if max_json_bytes is not None and length > max_json_bytes:
        reason = f"the JSON part has {length} bytes, the limit is {max_json_bytes}"
        raise CodecError(reason, ErrorCode.PAYLOAD_TOO_LARGE)
    text: Body = body if length == len(body) else memoryview(body)[:length]
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise CodecError(f"the body is not valid JSON: {reason}", ErrorCode.INVALID_JSON) from None
    if not isinstance(document, dict):
        raise CodecError("expected a JSON object", ErrorCode.INVALID_JSON)
    return document, text, length


def _any_json_data(inputs: list[Any]) -> bool:
    return any(isinstance(entry, dict) and "data" in entry for entry in inputs)


def _data_may_hold_booleans(document: Mapping[str, Any], text: Body) -> bool:
    """Compare the booleans in the text with those that stand where they may."""
    found = count_booleans(text)
    if found <= 0:
        return found < 0
    outputs = document.get("outputs")
    places = [document, *(outputs if isinstance(outputs, list) else ())]
    expected = 0
    for place in places:
        parameters = place.get("parameters") if isinstance(place, dict) else None
        if isinstance(parameters, dict):
            expected += sum(isinstance(value, bool) for value in parameters.values())
    return found > expected


class _Tail:
    """The bytes after the JSON, handed out in order."""

    __slots__ = ("_body", "_offset", "_size")

    def __init__(self, body: Body, offset: int) -> None:
        self._body = body
        self._offset = offset
        self._size = len(body)

    def take(self, name: str, datatype: str, shape: tuple[int, ...], size: object) -> Array:
        if type(size) is not int or size < 0:
            shown = repr(size)[:64]
            raise CodecError(f"tensor {name!r}: binary_data_size must be 0 or more, got {shown}")
        left = self._size - self._offset
        if size > left:
            raise CodecError(f"tensor {name!r}: expected {size} binary bytes, {left} are left")
        start = self._offset
        self._offset = start + size
        try:
            return tensor_from_bytes(self._body, start, size, datatype, shape)
        except TensorError as error:
            raise CodecError(f"tensor {name!r}: {error}") from None

    def expect_end(self) -> None:
        left = self._size - self._offset
        if left:
            raise CodecError(f"{left} bytes are left over after the last binary tensor")


def tensor_from_bytes(
    body: Body, start: int, size: int, datatype: str, shape: tuple[int, ...]
) -> Array:
    """View `size` bytes of `body` as a tensor (a copy if they lie unaligned).

    Raises:
        TensorError: The size differs from what the shape takes, or the elements are malformed.
    """
    dtype = dtype_of(datatype)
    count = element_count(shape)
    if datatype == "BYTES":
        piece = memoryview(body)[start : start + size]
        return unpack_bytes(piece, count).reshape(shape)
    if size != count * dtype.itemsize:
        expected = count * dtype.itemsize
        text = f"shape {list(shape)} of {datatype} takes {expected} bytes, got {size}"
        raise TensorError(text)
    if not count:
        return np.empty(shape, dtype)
    tensor = np.frombuffer(body, dtype, count, start).reshape(shape)
    if datatype == "BOOL" and tensor.view(np.uint8).max() > 1:
        raise TensorError("BOOL bytes must be 0 or 1")
    return tensor if tensor.flags.aligned else tensor.copy()


def _read_input(entry: Any, request: InferRequest, tail: _Tail, may_hold_booleans: bool) -> None:
    name, datatype, shape, parameters = _read_tensor_head(entry, "input")
    if name in request.inputs or name in request.shared_inputs:
        raise CodecError(f"input {name!r} already exists in request")
    has_data = "data" in entry
    binary_size = parameters.get("binary_data_size")
    region = parameters.get("shared_memory_region")
    if has_data + (binary_size is not None) + (region is not None) != 1:
        text = "exactly one of 'data', 'binary_data_size' and 'shared_memory_region'"
        raise CodecError(f"input {name!r}: expected {text}")
    if binary_size is not None:
        request.inputs[name] = tail.take(name, datatype, shape, binary_size)
    elif has_data:
        request.inputs[name] = _json_tensor(entry["data"], name, datatype, shape, may_hold_booleans)
    else:
        memory = _shared_memory(name, parameters)
        request.shared_inputs[name] = SharedInput(memory, datatype, shape)


def _read_tensor_head(entry: Any, kind: str) -> tuple[str, str, tuple[int, ...], Mapping[str, Any]]:
    if not isinstance(entry, dict):
        raise CodecError(f"expected each {kind} as an object")
    name = entry.get("name")
    if not isinstance(name, str):
        raise CodecError(f"expected the 'name' of each {kind} as a string")
    datatype = entry.get("datatype")
    if not isinstance(datatype, str):
        raise CodecError(f"{kind} {name[:64]!r}: expected 'datatype' as a string")
    parameters = entry.get("parameters")
    if parameters is None:
        parameters = {}
    elif not isinstance(parameters, dict):
        raise CodecError(f"{kind} {name[:64]!r}: expected 'parameters' as an object")
    try:
        dtype_of(datatype)
        return name, datatype, check_shape(entry.get("shape")), parameters
    except TensorError as error:
        raise CodecError(f"{kind} {name[:64]!r}: {error}") from None


def _json_tensor(
    data: Any, name: str, datatype: str, shape: tuple[int, ...], may_hold_booleans: bool
) -> Array:
    try:
        return tensor_from_json(data, datatype, shape, may_hold_booleans=may_hold_booleans)
    except TensorError as error:
        raise CodecError(f"tensor {name[:64]!r}: {error}") from None


def _shared_memory(name: str, parameters: Mapping[str, Any]) -> SharedMemory:
    region = parameters.get("shared_memory_region")
    size = parameters.get("shared_memory_byte_size")
    offset = parameters.get("shared_memory_offset", 0)
    if not isinstance(region, str):
        raise CodecError(f"tensor {name[:64]!r}: shared_memory_region must be a string")
    for key, number in (("byte_size", size), ("offset", offset)):
        if type(number) is not int or number < 0:
            text = f"shared_memory_{key} must be 0 or more, got {repr(number)[:64]}"
            raise CodecError(f"tensor {name[:64]!r}: {text}")
    return SharedMemory(region, size or 0, offset)


def _identifier(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CodecError(f"expected 'id' as a string, got {type(value).__name__}")
    if len(value) > MAX_ID_LENGTH:
        raise CodecError(f"expected 'id' of at most {MAX_ID_LENGTH} characters, got {len(value)}")
    return value


def _read_parameters(value: Any) -> dict[str, Scalar]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CodecError("expected 'parameters' as an object")
    if len(value) > MAX_PARAMETERS:
        raise CodecError(f"expected at most {MAX_PARAMETERS} parameters, got {len(value)}")
    for key, item in value.items():
        if not isinstance(item, str | int | float):
            text = f"must be a string, number or boolean, got {type(item).__name__}"
            raise CodecError(f"parameter {key[:64]!r} {text}")
        if isinstance(item, str) and len(item) > MAX_PARAMETER_BYTES:
            raise CodecError(f"parameter {key[:64]!r} is longer than {MAX_PARAMETER_BYTES} bytes")
    return value


def _read_outputs(value: Any) -> list[RequestedOutput]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise CodecError("expected 'outputs' as an array")
    if len(value) > MAX_OUTPUTS:
        raise CodecError(f"expected at most {MAX_OUTPUTS} outputs, got {len(value)}")
    outputs = [_read_output(entry) for entry in value]
    if len(outputs) > 1:
        seen: set[str] = set()
        for output in outputs:
            if output.name in seen:
                raise CodecError(f"output {output.name[:64]!r} already exists in request")
            seen.add(output.name)
    return outputs


def _read_output(entry: Any) -> RequestedOutput:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise CodecError("expected each output as an object with a 'name'")
    name = entry["name"]
    parameters = entry.get("parameters")
    if not parameters:
        return RequestedOutput(name)
    if not isinstance(parameters, dict):
        raise CodecError(f"output {name[:64]!r}: expected 'parameters' as an object")
    binary = parameters.get("binary_data")
    if binary is not None and not isinstance(binary, bool):
        raise CodecError(f"output {name[:64]!r}: 'binary_data' must be true or false")
    classification = parameters.get("classification", 0)
    if type(classification) is not int or classification < 0:
        raise CodecError(f"output {name[:64]!r}: 'classification' must be a positive integer")
    if "shared_memory_region" not in parameters:
        return RequestedOutput(name, binary, classification)
    if binary or classification:
        text = "shared memory excludes binary_data and classification"
        raise CodecError(f"output {name[:64]!r}: {text}")
    return RequestedOutput(name, binary, 0, _shared_memory(name, parameters))


def decode_raw_request(
    body: Body, name: str, datatype: str, shape: Sequence[int], *, batched: bool
) -> InferRequest:
    """Read the raw form: no JSON at all, the body is the model's only input.

    Args:
        name: The input's name.
        datatype: The input's datatype.
        shape: The metadata's shape, -1 for variable, the batch included.
        batched: Whether the first dimension is the batch, which is then 1.
    Raises:
        CodecError: More than one variable dimension, or a size the shape cannot take.
    """
    dims = [1, *shape[1:]] if batched else list(shape)
    if datatype == "BYTES":
        if element_count([1 if d == -1 else d for d in dims]) != 1:
            raise CodecError(f"input {name!r}: the raw form takes one BYTES element")
        element = object_array([bytes(body)]).reshape([1 if d == -1 else d for d in dims])
        return InferRequest({name: element}, binary_output=True)
    try:
        solved = _solve(dims, len(body), dtype_of(datatype).itemsize)
        tensor = tensor_from_bytes(body, 0, len(body), datatype, solved)
    except TensorError as error:
        raise CodecError(f"input {name!r}: {error}") from None
    return InferRequest({name: tensor}, binary_output=True)


def _solve(dims: list[int], size: int, itemsize: int) -> tuple[int, ...]:
    variable = [index for index, dimension in enumerate(dims) if dimension == -1]
    if len(variable) > 1:
        raise TensorError(f"the raw form needs at most one variable dimension, got {len(variable)}")
    if variable:
        unit = element_count([d for d in dims if d != -1]) * itemsize
        if not unit or size % unit:
            raise TensorError(f"{size} bytes are no multiple of {unit}, one step of the shape")
        dims[variable[0]] = size // unit
    return tuple(dims)


def decode_response(
    body: Body, json_length: int | None, *, json: JsonText = PYDANTIC_JSON
) -> InferResponse:
    """Read an inference answer, as distrustfully as a server reads a request.

    Pass a `bytearray` and the arrays are writable views that share it.

    Raises:
        CodecError: Anything that breaks the protocol; never a wrong array.
    """
    document, text, offset = _split(body, json_length, json, None)
    outputs = document.get("outputs")
    if not isinstance(outputs, list):
        raise CodecError("expected 'outputs' as an array of tensors")
    tail = _Tail(body, offset)
    may_hold_booleans = _any_json_data(outputs) and count_booleans(text) != 0
    tensors: dict[str, Array] = {}
    for entry in outputs:
        name, datatype, shape, parameters = _read_tensor_head(entry, "output")
        if name in tensors:
            raise CodecError(f"output {name[:64]!r} appears twice in the answer")
        size = parameters.get("binary_data_size")
        if (size is None) == ("data" not in entry):
            text_ = "exactly one of 'data' and 'binary_data_size'"
            raise CodecError(f"output {name[:64]!r}: expected {text_}")
        if size is not None:
            tensors[name] = tail.take(name, datatype, shape, size)
        else:
            tensors[name] = _json_tensor(entry["data"], name, datatype, shape, may_hold_booleans)
    tail.expect_end()
    told = document.get("parameters")
    return InferResponse(
        model_name=str(document.get("model_name") or ""),
        model_version=str(document.get("model_version") or ""),
        outputs=tensors,
        id=str(document.get("id") or ""),
        parameters=told if isinstance(told, dict) else {},
    )


def tensor_bytes(tensor: Array) -> bytes | memoryview:
    """Give a tensor's wire bytes: a view for numbers, packed elements for BYTES.

    Raises:
        TensorError: A BYTES element is neither bytes nor text.
    """
    if tensor.dtype.kind in "OSU":
        return pack_bytes(tensor)
    if tensor.dtype.byteorder == ">":
        tensor = tensor.astype(tensor.dtype.newbyteorder("<"))
    if tensor.nbytes <= _SMALL_BYTES:
        return tensor.tobytes()
    # viewed as bytes first, because the buffer protocol does not know bfloat16
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def encode_request(
    request: InferRequest, *, binary: bool = True, json: JsonText = PYDANTIC_JSON
) -> Encoded:
    """Write an inference request.

    Listed outputs always say `binary_data` themselves, because some servers ignore the request's
    `binary_data_output` for them.

    Args:
        request: The inputs and what is asked for.
        binary: Send the tensors as bytes and ask for bytes; False uses JSON both ways.
        json: The JSON writer.
    Raises:
        CodecError: A dtype the protocol lacks, or BYTES that JSON cannot carry.
    """
    chunks: list[bytes | memoryview] = []
    document: dict[str, Any] = {}
    if request.id:
        document["id"] = request.id
    parameters: dict[str, Any] = dict(request.parameters)
    if binary and not request.outputs:
        parameters["binary_data_output"] = True
    if parameters:
        document["parameters"] = parameters
    document["inputs"] = [
        _write_tensor(name, tensor, chunks if binary else None)
        for name, tensor in request.inputs.items()
    ]
    if request.outputs:
        document["outputs"] = [_write_requested(output, binary) for output in request.outputs]
    return _assemble(document, chunks, json, has_binary=binary and bool(request.inputs))


def _write_tensor(
    name: str, tensor: Array, chunks: list[bytes | memoryview] | None
) -> dict[str, Any]:
    try:
        head: dict[str, Any] = {
            "name": name,
            "datatype": datatype_of(tensor),
            "shape": tensor.shape,
        }
        if chunks is None:
            head["data"] = tensor_to_json(tensor)
        else:
            piece = tensor_bytes(tensor)
            head["parameters"] = {"binary_data_size": len(piece)}
            if len(piece):
                chunks.append(piece)
    except TensorError as error:
        raise CodecError(f"tensor {name!r}: {error}") from None
    return head


def _write_requested(output: RequestedOutput, binary: bool) -> dict[str, Any]:
    chosen = binary if output.binary is None else output.binary
    parameters: dict[str, Any] = {"binary_data": chosen}
    if output.classification:
        parameters["classification"] = output.classification
    return {"name": output.name, "parameters": parameters}


def encode_response(
    response: InferResponse, request: InferRequest, *, json: JsonText = PYDANTIC_JSON
) -> Encoded:
    """Write an inference answer, each output in the form its request chose.

    An output's own `binary_data` decides, else the request's `binary_data_output`, else JSON. Those
    that go to shared memory are only described.

    Raises:
        CodecError: A BYTES output asked for as JSON is not UTF-8.
    """
    chunks: list[bytes | memoryview] = []
    document: dict[str, Any] = {}
    if response.id:
        document["id"] = response.id
    document["model_name"] = response.model_name
    document["model_version"] = response.model_version
    if response.parameters:
        document["parameters"] = response.parameters
    chosen = {o.name: o.binary for o in request.outputs if o.binary is not None}
    default = request.binary_output
    elsewhere = {o.name for o in request.outputs if o.shared_memory is not None}
    document["outputs"] = [
        _describe_tensor(name, tensor)
        if name in elsewhere
        else _write_tensor(name, tensor, chunks if chosen.get(name, default) else None)
        for name, tensor in response.outputs.items()
    ]
    return _assemble(document, chunks, json, has_binary=bool(chunks))


def _describe_tensor(name: str, tensor: Array) -> dict[str, Any]:
    return {"name": name, "datatype": datatype_of(tensor), "shape": tensor.shape}


def _assemble(
    document: dict[str, Any],
    chunks: list[bytes | memoryview],
    json: JsonText,
    *,
    has_binary: bool,
) -> Encoded:
    try:
        text = json.dumps(document)
    except (TypeError, ValueError) as error:
        raise CodecError(f"the message cannot be written as JSON: {error}") from None
    if not has_binary:
        return Encoded([text], None)
    # spaces after the JSON put the first tensor on an aligned offset, where the reader may view it
    text += b" " * (-len(text) % _ALIGNMENT)
    return Encoded([text, *chunks], len(text))
