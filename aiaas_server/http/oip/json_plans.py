"""Remembers what stands around the numbers of a JSON request, since only they are new each time."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

import numpy as np

from aiaas_client.protocol.inference import InferRequest, RequestedOutput, Scalar
from aiaas_client.protocol.jsontensor import STRUCT_CODES
from aiaas_client.protocol.jsontext import JsonText
from aiaas_client.protocol.tensors import datatype_of
from aiaas_server.http.oip.plans import CAPACITY, DATA, LONGEST_TEXT, Slot, make_room, slot_of

_keys_of_data = re.compile(rb'"data"\s*:').findall


class _JsonPlan(NamedTuple):
    """What stands around the numbers of one tensor in JSON, and what it says.

    Whatever stands between the same two texts, and is one JSON array, makes the same document but
    for these numbers.
    """

    suffix: bytes
    slot: Slot
    numbers: struct.Struct
    outputs: list[RequestedOutput]
    parameters: dict[str, Scalar]
    binary_output: bool


class JsonPlans:
    """The memory of `decode_request` for JSON alone; give one to each event loop.

    Requests that share a text share their `outputs` and `parameters`: treat both as read-only.

    Args:
        json: The JSON reader.
        capacity: Texts remembered; the memory is at most this times 2 KiB.
    """

    def __init__(self, json: JsonText, capacity: int = CAPACITY) -> None:
        self._json = json
        self._capacity = capacity
        self._plans: dict[bytes, _JsonPlan] = {}

    def recall(self, body: bytes) -> InferRequest | None:
        """What `decode_request` would give of JSON alone; None unless it is like one before."""
        start = body.find(DATA) + len(DATA)
        plan = self._plans.get(body[:start])
        if plan is None or not body.endswith(plan.suffix):
            return None
        end = len(body) - len(plan.suffix)
        # A letter of `true` and of `false` that no number has: packing would take them for 1 and 0.
        if body.find(b"u", start, end) >= 0 or body.find(b"l", start, end) >= 0:
            return None
        slot = plan.slot
        try:
            values = plan.numbers.pack(*self._json.loads(body[start:end]))
        except (ValueError, TypeError, OverflowError, struct.error):
            return None  # `decode_request` tells what is wrong
        tensor = np.frombuffer(values, slot.dtype).reshape(slot.shape)
        return InferRequest(
            {slot.name: tensor}, plan.outputs, "", plan.parameters,
            binary_output=plan.binary_output,
        )  # fmt: skip

    def learn(self, body: bytes, request: InferRequest) -> None:
        """Remember what a body said that was just decoded, if it holds one plain tensor."""
        start = body.find(DATA) + len(DATA)
        end = body.find(b"]", start) + 1
        if (
            body.count(DATA) != 1
            # Of two keys the last one counts, which may be written in another way.
            or len(_keys_of_data(body)) != 1
            or b"\\" in body
            or body.count(b"[", start, end) != 1  # one list, with none inside
            or len(request.inputs) != 1
            or request.id
            or request.shared_inputs
            or start + len(body) - end > LONGEST_TEXT
        ):
            return
        ((name, tensor),) = request.inputs.items()
        code = STRUCT_CODES.get(datatype_of(tensor))
        if code is None or not tensor.size:
            return
        make_room(self._plans, self._capacity)
        self._plans[body[:start]] = _JsonPlan(
            body[end:], slot_of(name, tensor), struct.Struct(f"<{tensor.size}{code}"),
            request.outputs, request.parameters, request.binary_output,
        )  # fmt: skip
