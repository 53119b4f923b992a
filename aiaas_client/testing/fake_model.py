"""A model that is a Python function: what it tells of itself, checks, and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import time
from typing import Any

import numpy as np

from aiaas_client.protocol.inference import InferRequest
from aiaas_client.protocol.messages import TensorMetadata
from aiaas_client.protocol.tensors import Array, config_name_of, datatype_of

ModelFunction = Callable[..., "Mapping[str, Any] | Array"]
CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    422: "invalid_request",
    429: "rate_limited",
    500: "internal",
    501: "not_supported",
    503: "queue_full",
    504: "deadline_exceeded",
}


class FakeError(Exception):
    """Raised by a model function to answer with `status`, a code and a text of its own."""

    def __init__(self, status: int, text: str, *, code: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code or CODES.get(status, "internal")


def tensor(name: str, datatype: str, shape: Sequence[int]) -> TensorMetadata:
    """Declare an input or output; `shape` has -1 for what varies, the batch included."""
    return TensorMetadata(name=name, datatype=datatype, shape=tuple(shape))


@dataclass(slots=True)
class FakeModel:
    """One served function and what is told about it.

    Attributes:
        function: Called with the inputs as keyword arrays; gives arrays by output name, or one
            array for the only output. `ValueError` answers 400, `FakeError` as it says, anything
            else 500.
        inputs, outputs: The signature told and checked; without `inputs` there is no metadata to
            be had (404) and nothing is checked, as on a server that lacks it.
        max_batch_size: Told in the configuration; rows above it are refused. 0: no batching.
        versions: Served versions; the last one answers a request that names none.
        optional: Inputs that may be left out.
        calls, rows: Executions and rows so far.
    """

    name: str
    function: ModelFunction
    inputs: Sequence[TensorMetadata] = ()
    outputs: Sequence[TensorMetadata] = ()
    max_batch_size: int = 0
    versions: Sequence[str] = ("1",)
    optional: frozenset[str] = frozenset()
    loaded: bool = True
    calls: int = 0
    rows: int = 0

    def run(self, request: InferRequest) -> dict[str, Array]:
        """Check, call, and select what was asked for."""
        rows = self._check(request.inputs)
        answer = self.function(**request.inputs)
        outputs = self._named(answer)
        self.calls += 1
        self.rows += rows
        if not request.outputs:
            return outputs
        for wanted in request.outputs:
            if wanted.name not in outputs:
                text = f"unexpected inference output {wanted.name!r} for model {self.name!r}"
                raise FakeError(400, text)
        return {
            wanted.name: _top(outputs[wanted.name], wanted.classification, self.max_batch_size > 0)
            for wanted in request.outputs
        }

    def _named(self, answer: Mapping[str, Any] | Array) -> dict[str, Array]:
        if isinstance(answer, Mapping):
            return {name: np.asarray(value) for name, value in answer.items()}
        return {self.outputs[0].name if self.outputs else "output": np.asarray(answer)}

    def _check(self, inputs: Mapping[str, Array]) -> int:
        for spec in self.inputs:
            if spec.name not in inputs and spec.name not in self.optional:
                raise FakeError(400, f"model {self.name!r}: missing input {spec.name!r}")
        known = {spec.name: spec for spec in self.inputs}
        for name, array in inputs.items():
            if known:
                _check_tensor(name, array, known.get(name), self.name)
        rows = {array.shape[0] for array in inputs.values() if array.ndim}
        if self.max_batch_size and (len(rows) > 1 or max(rows, default=1) > self.max_batch_size):
            text = f"expected one batch of at most {self.max_batch_size} rows, got {sorted(rows)}"
            raise FakeError(400, f"model {self.name!r}: {text}")
        return max(rows, default=1) if self.max_batch_size else 1

    def metadata(self, version: str) -> dict[str, Any]:
        """The document of `GET /v2/models/{m}`."""
        return {
            "name": self.name,
            "versions": [version] if version else list(self.versions),
            "platform": "python",
            "inputs": [_described(spec) for spec in self.inputs],
            "outputs": [_described(spec) for spec in self.outputs],
        }

    def config(self) -> dict[str, Any]:
        """The document of `GET /v2/models/{m}/config`."""
        skip = 1 if self.max_batch_size else 0
        return {
            "name": self.name,
            "platform": "python",
            "max_batch_size": self.max_batch_size,
            "input": [
                {**_configured(spec, skip), "optional": spec.name in self.optional}
                for spec in self.inputs
            ],
            "output": [_configured(spec, skip) for spec in self.outputs],
        }

    def statistics(self, version: str) -> dict[str, Any]:
        """One entry of `GET /v2/models/stats`."""
        spent = {"count": self.calls, "ns": 1000 * self.calls}
        nothing = {"count": 0, "ns": 0}
        return {
            "name": self.name,
            "version": version or self.versions[-1],
            "last_inference": int(time() * 1000) if self.calls else 0,
            "inference_count": self.rows,
            "execution_count": self.calls,
            "inference_stats": {
                "success": spent,
                "fail": nothing,
                "queue": spent,
                "compute_input": spent,
                "compute_infer": spent,
                "compute_output": spent,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
        }


def _check_tensor(name: str, array: Array, spec: TensorMetadata | None, model: str) -> None:
    if spec is None:
        raise FakeError(400, f"model {model!r}: unexpected input {name!r}")
    if datatype_of(array) != spec.datatype:
        text = f"input {name!r}: expected {spec.datatype}, got {datatype_of(array)}"
        raise FakeError(400, text)
    pairs = zip(spec.shape, array.shape, strict=False)
    if len(spec.shape) != array.ndim or any(want not in (-1, got) for want, got in pairs):
        text = f"input {name!r}: expected shape {spec.shape}, got {array.shape}"
        raise FakeError(400, text)


def _top(array: Array, count: int, batched: bool) -> Array:
    """The classification extension: the `count` greatest of each row as `value:index`."""
    if not count:
        return array
    rows = array.reshape(array.shape[0], -1) if batched else array.reshape(1, -1)  # (rows, n)
    kept = min(count, rows.shape[1])
    order = np.argsort(-rows, axis=1, kind="stable")[:, :kept]
    texts = np.empty(order.shape, dtype=object)
    for place, index in np.ndenumerate(order):
        texts[place] = f"{rows[place[0], index]}:{index}".encode()
    return texts if batched else texts[0]


def _described(spec: TensorMetadata) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _configured(spec: TensorMetadata, skip: int) -> dict[str, Any]:
    dims = list(spec.shape[skip:])
    return {"name": spec.name, "data_type": config_name_of(spec.datatype), "dims": dims}
