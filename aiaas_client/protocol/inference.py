"""An inference as arrays: what is asked for, what comes back, and what a body may get wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.tensors import Array

Scalar = str | int | float | bool


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
