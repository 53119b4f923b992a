"""What a request says besides its tensors: its id, its parameters, the outputs it wants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiaas_client.protocol.inference import CodecError, RequestedOutput, Scalar, SharedMemory

MAX_OUTPUTS = 1024
MAX_PARAMETERS = 64
MAX_PARAMETER_BYTES = 1024
MAX_ID_LENGTH = 128


def shared_memory_of(name: str, parameters: Mapping[str, Any]) -> SharedMemory:
    """Read where a tensor lies in shared memory.

    Raises:
        CodecError: The place is malformed.
    """
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


def read_id(value: Any) -> str:
    """Read the id, "" where there is none.

    Raises:
        CodecError: It is not text, or too long.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CodecError(f"expected 'id' as a string, got {type(value).__name__}")
    if len(value) > MAX_ID_LENGTH:
        raise CodecError(f"expected 'id' of at most {MAX_ID_LENGTH} characters, got {len(value)}")
    return value


def read_parameters(value: Any) -> dict[str, Scalar]:
    """Read the parameters of a request.

    Raises:
        CodecError: Too many, too long, or of a type that they cannot have.
    """
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


def read_outputs(value: Any) -> list[RequestedOutput]:
    """Read the outputs that a request lists.

    Raises:
        CodecError: Too many, malformed, or one twice.
    """
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
    if parameters is None:
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
    return RequestedOutput(name, binary, 0, shared_memory_of(name, parameters))
