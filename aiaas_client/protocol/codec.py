"""Inference bodies: JSON, binary, mixed and raw, to and from arrays.

A body is a JSON object, followed, when the inference header tells its length, by the bytes of the
binary tensors in the order of the JSON. Decoding makes views on the body, never copies, unless
the bytes lie unaligned in memory. Every length is compared with the body before anything of that
length is allocated; whatever the bytes are, only `CodecError` is raised.

`protocol.md` sections 5 and 6 name the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import (
    CodecError,
    InferRequest,
    InferResponse,
    RequestedOutput,
    SharedInput,
)
from aiaas_client.protocol.inference import (
    Encoded as Encoded,  # part of what this module gives
)
from aiaas_client.protocol.jsontensor import count_booleans, tensor_from_json, tensor_to_json
from aiaas_client.protocol.jsontext import PYDANTIC_JSON, JsonText
from aiaas_client.protocol.options import read_id, read_outputs, read_parameters, shared_memory_of
from aiaas_client.protocol.tensors import (
    Array,
    Body,
    TensorError,
    check_shape,
    datatype_of,
    dtype_of,
    tensor_bytes,
    tensor_from_bytes,
)

K = TypeVar("K")
V = TypeVar("V")

MAX_INPUTS = 1024  # as many as a served graph may have of both
_ALIGNMENT = 8
_REMEMBERED = 256  # texts of each direction
_REMEMBERED_BYTES = 4096  # of each text


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
    request = InferRequest({}, id=read_id(document.get("id")))
    tail = _Tail(body, offset)
    may_hold_booleans = _any_json_data(inputs) and _data_may_hold_booleans(document, text)
    for entry in inputs:
        _read_input(entry, request, tail, may_hold_booleans)
    tail.expect_end()
    if "outputs" in document:
        request.outputs = read_outputs(document["outputs"])
    if "parameters" in document:
        request.parameters = read_parameters(document["parameters"])
        chosen = request.parameters.get("binary_data_output", False)
        if not isinstance(chosen, bool):
            raise CodecError("parameter 'binary_data_output' must be true or false")
        request.binary_output = chosen
    return request


def _split(
    body: Body, json_length: int | None, json: JsonText, max_json_bytes: int | None
) -> tuple[dict[str, Any], bytes | bytearray, int]:
    length = len(body) if json_length is None else json_length
    if max_json_bytes is not None and length > max_json_bytes:
        reason = f"the JSON part has {length} bytes, the limit is {max_json_bytes}"
        raise CodecError(reason, ErrorCode.PAYLOAD_TOO_LARGE)
    text = body if length == len(body) else body[:length]
    if isinstance(text, memoryview):
        text = bytes(text)
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


def _data_may_hold_booleans(document: Mapping[str, Any], text: bytes | bytearray) -> bool:
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
        memory = shared_memory_of(name, parameters)
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


def decode_response(
    body: Body, json_length: int | None, *, json: JsonText = PYDANTIC_JSON
) -> InferResponse:
    """Read an inference answer, as distrustfully as a server reads a request.

    Pass a `bytearray` and the arrays are writable views that share it.

    Raises:
        CodecError: Anything that breaks the protocol; never a wrong array.
    """
    if json_length is not None and json_length <= _REMEMBERED_BYTES:
        known = _answers.get(bytes(memoryview(body)[:json_length]))
        if known is not None:
            return known.read(_Tail(body, json_length))
    document, text, offset = _split(body, json_length, json, None)
    outputs = document.get("outputs")
    if not isinstance(outputs, list):
        raise CodecError("expected 'outputs' as an array of tensors")
    tail = _Tail(body, offset)
    heads: list[_Head] = []
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
            heads.append((name, datatype, shape, size))
        else:
            tensors[name] = _json_tensor(entry["data"], name, datatype, shape, may_hold_booleans)
    tail.expect_end()
    told = document.get("parameters")
    answer = InferResponse(
        model_name=str(document.get("model_name") or ""),
        model_version=str(document.get("model_version") or ""),
        outputs=tensors,
        id=str(document.get("id") or ""),
        parameters=told if isinstance(told, dict) else {},
    )
    if len(heads) == len(tensors) and not (answer.id or answer.parameters):
        said = bytes(text)
        known = _Answer(answer.model_name, answer.model_version, heads)
        _remember(_answers, said, known, said)
    return answer


_Head = tuple[str, str, tuple[int, ...], int]  # a tensor's name, datatype, shape and bytes
_Form = tuple[tuple[Any, ...], ...]  # what the JSON of a request is made of


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the JSON of an answer said that had all its tensors behind it."""

    model_name: str
    model_version: str
    heads: list[_Head]

    def read(self, tail: _Tail) -> InferResponse:
        outputs = {head[0]: tail.take(*head) for head in self.heads}
        tail.expect_end()
        return InferResponse(self.model_name, self.model_version, outputs)


# Between two messages of the same form only the bytes behind the JSON change.
_answers: dict[bytes, _Answer] = {}
_requests: dict[_Form, bytes] = {}


def _remember(known: dict[K, V], key: K, value: V, text: bytes) -> None:
    if len(text) <= _REMEMBERED_BYTES:
        if len(known) >= _REMEMBERED:
            known.clear()
        known[key] = value


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
    form = _form_of(request) if binary and json is PYDANTIC_JSON else None
    text = None if form is None else _requests.get(form)
    if text is not None:
        pieces = map(tensor_bytes, request.inputs.values())
        return Encoded([text, *filter(len, pieces)], len(text))
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
    encoded = _assemble(document, chunks, json, has_binary=binary and bool(request.inputs))
    if form is not None:
        written = bytes(encoded.chunks[0])
        _remember(_requests, form, written, written)
    return encoded


def _form_of(request: InferRequest) -> _Form | None:
    """What the JSON part of a request depends on; None where it says more than forms."""
    if request.id or request.parameters or not request.inputs:
        return None
    form: list[tuple[Any, ...]] = [tuple(request.outputs)]
    for name, tensor in request.inputs.items():
        if tensor.dtype.kind in "OSUT":  # its bytes have no length of their own
            return None
        form.append((name, tensor.dtype, tensor.shape))
    return tuple(form)


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
