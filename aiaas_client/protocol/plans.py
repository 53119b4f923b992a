"""Remembers what a request's JSON said, because clients send the same text again and again.

A client that calls one model with one shape sends the same JSON before each binary tensor: parsing
and checking it again costs more than the model often does. The exact bytes are the key, so a hit
gives what decoding would have given; only the tensors are read anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiaas_client.protocol.codec import (
    Body,
    InferRequest,
    RequestedOutput,
    Scalar,
    decode_request,
)
from aiaas_client.protocol.jsontext import PYDANTIC_JSON, JsonText
from aiaas_client.protocol.tensors import Array, datatype_of

CAPACITY = 256
LONGEST_TEXT = 2048


@dataclass(frozen=True, slots=True)
class _Slot:
    name: str
    dtype: np.dtype[np.generic]
    count: int
    size: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    slots: tuple[_Slot, ...]
    tail_size: int
    outputs: list[RequestedOutput]
    parameters: dict[str, Scalar]
    binary_output: bool

    def apply(self, body: Body, offset: int) -> InferRequest:
        inputs: dict[str, Array] = {}
        for slot in self.slots:
            tensor = np.frombuffer(body, slot.dtype, slot.count, offset).reshape(slot.shape)
            inputs[slot.name] = tensor if tensor.flags.aligned else tensor.copy()
            offset += slot.size
        return InferRequest(
            inputs, self.outputs, "", self.parameters, binary_output=self.binary_output
        )


class RequestDecoder:
    """`decode_request` with a memory; give one to each event loop, it is not locked.

    Requests that share a text share their `outputs` and `parameters`: treat both as read-only.

    Args:
        json: The JSON reader.
        max_json_bytes: Longest JSON part accepted.
        capacity: Texts remembered; the memory is at most this times 2 KiB.
    """

    def __init__(
        self,
        *,
        json: JsonText = PYDANTIC_JSON,
        max_json_bytes: int | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        self._json = json
        self._max_json_bytes = max_json_bytes
        self._capacity = capacity
        self._plans: dict[bytes, _Plan] = {}

    def decode(self, body: Body, json_length: int | None) -> InferRequest:
        """Read an inference request exactly as `decode_request` does.

        Raises:
            CodecError: Anything that breaks the protocol.
        """
        request = self.recall(body, json_length)
        if request is None:
            request = decode_request(
                body, json_length, json=self._json, max_json_bytes=self._max_json_bytes
            )
            self.learn(body, json_length, request)
        return request

    def recall(self, body: Body, json_length: int | None) -> InferRequest | None:
        """As `decode` for a request like one before, however large it is; None for a new one."""
        if json_length is None or not 0 < json_length <= LONGEST_TEXT:
            return None
        plan = self._plans.get(bytes(body[:json_length]))
        if plan is None or plan.tail_size != len(body) - json_length:
            return None
        return plan.apply(body, json_length)

    def learn(self, body: Body, json_length: int | None, request: InferRequest) -> None:
        """Remember what a body said that was decoded elsewhere."""
        if json_length is not None and 0 < json_length <= LONGEST_TEXT:
            text = bytes(body[:json_length])
            if text not in self._plans:
                self._remember(text, request, len(body) - json_length)

    def _remember(self, text: bytes, request: InferRequest, tail_size: int) -> None:
        sizes = [tensor.nbytes for tensor in request.inputs.values()]
        plain = all(map(_is_plain, request.inputs.values()))
        if request.id or request.shared_inputs or not plain or sum(sizes) != tail_size:
            return
        if len(self._plans) >= self._capacity:
            self._plans.pop(next(iter(self._plans)))
        slots = tuple(
            _Slot(name, tensor.dtype, tensor.size, tensor.nbytes, tensor.shape)
            for name, tensor in request.inputs.items()
        )
        self._plans[text] = _Plan(
            slots, tail_size, request.outputs, request.parameters, request.binary_output
        )


def _is_plain(tensor: Array) -> bool:
    """Whether any bytes of the right number make this tensor, so that no check is left to do."""
    return bool(tensor.size) and datatype_of(tensor) not in {"BYTES", "BOOL"}
