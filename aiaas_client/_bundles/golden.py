"""`Golden`: what a version must answer before it is accepted; it travels as `golden.json`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aiaas_client._errors import InputError
from aiaas_client.protocol.tensors import Array, as_bytes_elements, datatype_of, tensor_bytes


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Inputs, and what a model has to make of them: outputs, or labels it has to get right.

        Golden({"x": x}, {"y": y}, rtol=1e-3)
        Golden({"x": images}, labels=digits, floor=0.95)
        Golden(instances=reviews, labels=moods, floor=0.9)

    Attributes:
        inputs: Arrays by input name.
        outputs: The expected arrays by output name, compared within the tolerances.
        labels: The right answer for each row, in place of `outputs`.
        output: The output that is compared with `labels`.
        metric: How: "accuracy".
        floor: The least that the metric may be.
        rtol, atol: Relative and absolute tolerance of `outputs`.
        instances: In place of `inputs`: what the task of the card takes, as JSON has it; `labels`
            are then held against the label, value or text of each prediction.
    """

    inputs: Mapping[str, Any] | None = None
    outputs: Mapping[str, Any] | None = None
    labels: Sequence[Any] | Array | None = None
    output: str | None = None
    metric: str = "accuracy"
    floor: float | None = None
    rtol: float = 1e-3
    atol: float = 1e-5
    instances: Sequence[Any] | None = None

    def document(self) -> dict[str, Any]:
        """What `golden.json` says.

        Raises:
            InputError: neither outputs nor labels, or both; or something that is no array.
        """
        document = self._asked()
        if (self.outputs is None) == (self.labels is None):
            raise InputError("golden: expected outputs, or labels with a floor")
        if self.outputs is not None:
            expected = _tensors("outputs", self.outputs)
            return {**document, "outputs": expected, "rtol": self.rtol, "atol": self.atol}
        if self.floor is None:
            raise InputError("golden: labels: expected a floor with them")
        labels = np.asarray(self.labels).tolist()
        document |= {"labels": labels, "metric": self.metric, "floor": self.floor}
        return document if self.output is None else {**document, "output": self.output}

    def _asked(self) -> dict[str, Any]:
        if self.instances is None:
            if not self.inputs:
                raise InputError("golden: expected at least one input, or instances")
            return {"inputs": _tensors("inputs", self.inputs)}
        if self.inputs is not None:
            raise InputError("golden: expected inputs or instances, not both")
        if self.outputs is not None or self.output is not None:
            raise InputError("golden: instances: expected labels with a floor, and no output")
        if len(self.instances) == 0:
            raise InputError("golden: instances: expected at least one")
        return {"instances": list(self.instances)}

    def to_bytes(self) -> bytes:
        """`golden.json`."""
        try:
            return json.dumps(self.document(), indent=1, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise InputError(f"golden: {error}") from None


def with_tensors(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of `golden.json` whose arrays and lists are tensors; what is one stays.

    Raises:
        InputError: something that is no array.
    """
    found = dict(document)
    for kind in ("inputs", "outputs"):
        if isinstance(given := found.get(kind), Mapping):
            found[kind] = {
                name: value
                if isinstance(value, Mapping)
                else _tensor(f"golden: {kind}: {name!r}", value)
                for name, value in given.items()
            }
    for kind in ("labels", "instances", "floor", "rtol", "atol"):
        if isinstance(given := found.get(kind), np.ndarray | np.generic):
            found[kind] = given.tolist()
        elif isinstance(given, list | tuple):
            found[kind] = [v.tolist() if isinstance(v, np.generic) else v for v in given]
    return found


def _tensors(kind: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tensor(f"golden: {kind}: {name!r}", array) for name, array in arrays.items()}


def _tensor(where: str, value: Any) -> dict[str, Any]:
    try:
        array = np.asarray(value)
        told = {"datatype": datatype_of(array), "shape": list(array.shape)}
        if told["datatype"] == "BYTES":
            texts = [element.decode("utf-8") for element in as_bytes_elements(array)]
            return {**told, "data": texts}
        return {**told, "raw": base64.b64encode(tensor_bytes(array)).decode("ascii")}
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from None
