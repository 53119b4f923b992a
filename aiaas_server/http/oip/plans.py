"""Remembers the JSON of requests and answers, because the same text comes again and again.

A client that calls one model with one shape sends the same JSON before each binary tensor: parsing
and checking it again costs more than the model often does. The exact bytes are the key, so a hit
gives what decoding would have given; only the tensors are read anew.

Small answers of one shape differ only in their tensors, be they bytes or JSON numbers: the text
around them and the headers are kept from the first time, so that writing the next one is a join.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aiaas_client.protocol.codec import Encoded
from aiaas_client.protocol.inference import InferRequest, RequestedOutput, Scalar
from aiaas_client.protocol.jsontext import JsonText
from aiaas_client.protocol.tensors import Array, Body, datatype_of
from aiaas_server.core.model import LoadedModel
from aiaas_server.http.answers import Reply, header_block

CAPACITY = 256
LONGEST_TEXT = 2048
_LONGEST_ANSWER = 4096
DATA = b'"data":'

_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a request, but for its numbers."""

    name: str
    dtype: np.dtype[np.generic]
    count: int
    size: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    slots: tuple[Slot, ...]
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


class RequestPlans:
    """The memory of `decode_request`; give one to each event loop, it is not locked.

    Requests that share a text share their `outputs` and `parameters`: treat both as read-only.

    Args:
        capacity: Texts remembered; the memory is at most this times 2 KiB.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._plans: dict[bytes, _Plan] = {}

    def recall(self, body: Body, json_length: int | None) -> InferRequest | None:
        """What `decode_request` would give, however large; None unless it is like one before."""
        if json_length is None or not 0 < json_length <= LONGEST_TEXT:
            return None
        plan = self._plans.get(bytes(body[:json_length]))
        if plan is None or plan.tail_size != len(body) - json_length:
            return None
        return plan.apply(body, json_length)

    def learn(self, body: Body, json_length: int | None, request: InferRequest) -> None:
        """Remember what a body said that was just decoded."""
        if json_length is not None and 0 < json_length <= LONGEST_TEXT:
            text = bytes(body[:json_length])
            if text not in self._plans:
                self._remember(text, request, len(body) - json_length)

    def _remember(self, text: bytes, request: InferRequest, tail_size: int) -> None:
        sizes = [tensor.nbytes for tensor in request.inputs.values()]
        plain = all(map(_is_plain, request.inputs.values()))
        if request.id or request.shared_inputs or not plain or sum(sizes) != tail_size:
            return
        slots = tuple(map(slot_of, request.inputs, request.inputs.values()))
        make_room(self._plans, self._capacity)
        self._plans[text] = _Plan(
            slots, tail_size, request.outputs, request.parameters, request.binary_output
        )


def slot_of(name: str, tensor: Array) -> Slot:
    """What is to be remembered of a tensor."""
    return Slot(name, tensor.dtype, tensor.size, tensor.nbytes, tensor.shape)


def make_room(plans: dict[Any, Any], capacity: int) -> None:
    """Forget the oldest, so that there is room for one more."""
    if len(plans) >= capacity:
        del plans[next(iter(plans))]


def _is_plain(tensor: Array) -> bool:
    """Whether any bytes of the right number make this tensor, so that no check is left to do."""
    return bool(tensor.size) and datatype_of(tensor) not in {"BYTES", "BOOL"}


class _AnswerPlan(NamedTuple):
    """What repeats in an answer.

    `texts` stand before each tensor in JSON and after the last one; one is all the JSON before
    tensors in binary.
    """

    texts: tuple[bytes, ...]
    headers: Sequence[tuple[bytes, bytes]]
    block: bytes


class AnswerPlans:
    """Writes an answer like one that was written before; give one to each event loop.

    Args:
        json: The JSON writer.
        capacity: Texts remembered; the memory is at most this times 4 KiB.
    """

    def __init__(self, json: JsonText, capacity: int = CAPACITY) -> None:
        self._json = json
        self._capacity = capacity
        self._plans: dict[_Key, _AnswerPlan] = {}

    def recall(
        self, model: LoadedModel, request: InferRequest, outputs: dict[str, Array], timing: bytes
    ) -> Reply | None:
        """The whole answer; None when there was none such.

        Args:
            timing: Of the answer, as in `Reply`.
        """
        if request.id:
            return None
        plan = self._plans.get(_key(model, request, outputs))
        if plan is None:
            return None
        texts = plan.texts
        if len(texts) == 1:
            body = texts[0]
            for array in outputs.values():
                body += array.tobytes()
        else:
            body = texts[-1]
            for text, array in zip(reversed(texts[:-1]), reversed(outputs.values()), strict=True):
                body = b"".join((text, self._json.dumps(array.reshape(-1)), body))
        return Reply(plan.headers, (body,), len(body), plan.block, timing)

    def learn(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: dict[str, Array],
        encoded: Encoded,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """Remember an answer that was just written with `headers`, unless it is too special."""
        if request.id or not all(map(_is_wire, outputs.values())):
            return
        if any(output.classification for output in request.outputs):
            return
        text = bytes(encoded.chunks[0])
        if encoded.json_length is None:
            texts = self._around(text, outputs)
        else:
            # One chunk a tensor: every output is binary and none is empty.
            texts = (text,) if len(encoded.chunks) == 1 + len(outputs) else ()
        if not texts or sum(map(len, texts)) > _LONGEST_ANSWER:
            return
        make_room(self._plans, self._capacity)
        plan = _AnswerPlan(texts, headers, header_block(headers))
        self._plans[_key(model, request, outputs)] = plan

    def _around(self, text: bytes, outputs: dict[str, Array]) -> tuple[bytes, ...]:
        """What stands in an answer of JSON alone around the numbers; empty where not so plain."""
        if text.count(DATA) != len(outputs):  # in a text, its quotes would be escaped
            return ()
        parts: list[bytes] = []
        for array in outputs.values():
            before, mark, text = text.partition(DATA)
            numbers = self._json.dumps(array.reshape(-1))
            if not text.startswith(numbers):
                return ()
            parts.append(before + mark)
            text = text[len(numbers) :]
        return (*parts, text)


def _key(model: LoadedModel, request: InferRequest, outputs: dict[str, Array]) -> _Key:
    """All that the text of an answer without an id depends on.

    The name, the version and the datatypes are those of the signature, which every load makes anew.
    """
    signature, binary = model.signature, request.binary_output
    shapes = [array.shape for array in outputs.values()]
    if not request.outputs:
        return (signature, binary, *shapes)
    listed = [(output.name, output.binary, output.classification) for output in request.outputs]
    return (signature, binary, *listed, *shapes)


def _is_wire(array: Array) -> bool:
    """Whether `tobytes` gives the wire's bytes."""
    return array.dtype.kind != "O" and array.dtype.byteorder != ">"
