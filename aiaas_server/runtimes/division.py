"""Whole numbers divided so that no value of a request ends the process.

The processor traps the smallest whole number divided by -1, and onnxruntime does not catch it: one
request with these two values, and the server is gone. Where a graph may divide so, in memory, the
division is by 1 and what is divided is negated, which is the same number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Final

import numpy as np

from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.datatypes import datatypes
from aiaas_server.runtimes.graph import INT32, INT64, Scope, scopes, standard
from aiaas_server.runtimes.wire import ModelFile, message

_EXTERNAL: Final = 1  # of TensorProto.DataLocation
_NUMPY: Final[Mapping[int, np.dtype[Any]]] = {INT32: np.dtype("<i4"), INT64: np.dtype("<i8")}
_OPSET: Final = 9  # from which on Sign and Where are there and Less takes whole numbers
_MARK: Final = b"aiaas_division_"


def guard_divisions(model: ModelFile) -> str:
    """Guard every division that could trap; says what was done, "" for nothing.

    Raises:
        LoadFailed: The graph is written in operators too old to guard it.
    """
    guarded = 0
    for scope in reversed(list(scopes(model))):  # inner ones first: nodes are copied with them
        trapping = set(_trapping(scope, model))
        if not trapping:
            continue
        if scope.opset < _OPSET:
            raise LoadFailed(
                f"it divides whole numbers, where one value would end the process: expected "
                f"operators of version {_OPSET} or later to guard it, got version {scope.opset}"
            )
        nodes: list[Any] = []
        for index, node in enumerate(scope.body.node):
            if index in trapping:
                nodes += _guarded(node, guarded)
                guarded += 1
            else:
                nodes.append(_copied(node))
        del scope.body.node[:]
        scope.body.node.extend(nodes)
    if not guarded:
        return ""
    return f"{guarded} division(s) of whole numbers guarded against the smallest one by -1"


def _trapping(scope: Scope, model: ModelFile) -> Iterator[int]:
    """The places of the nodes that divide and may trap."""
    nodes = enumerate(scope.body.node)
    divisions = [(i, node) for i, node in nodes if standard(node, "Div") and len(node.input) == 2]
    if not divisions:
        return
    known = datatypes(scope, model)
    for index, node in divisions:
        dividend, divisor = node.input
        types = [known[name] for name in (dividend, divisor, *node.output) if name in known]
        if types and types[0] not in _NUMPY:
            continue
        if _lacks(scope.constants.get(divisor), "divisor"):
            continue
        if not _lacks(scope.constants.get(dividend), "dividend"):
            yield index


def _lacks(tensor: Any, role: str) -> bool:
    """Whether a constant certainly holds no value that traps in this place of a division."""
    if tensor is None or tensor.data_location == _EXTERNAL or tensor.data_type not in _NUMPY:
        return False
    dtype = _NUMPY[tensor.data_type]
    if not tensor.HasField("raw_data"):
        values = np.array([*tensor.int32_data, *tensor.int64_data], np.int64)
    elif len(tensor.raw_data) % dtype.itemsize == 0:
        values = np.frombuffer(tensor.raw_data, dtype)
    else:
        return False
    if values.size != prod(tensor.dims):
        return False  # its values were left out
    trap = -1 if role == "divisor" else np.iinfo(dtype).min
    return trap not in values.tolist()


def _guarded(node: Any, number: int) -> list[Any]:
    """The nodes that divide like `node`, of any datatype, whichever whole number comes.

    `is -1` is `below 0 and equal to its sign`, so that no constant of the datatype is needed, which
    in a function is not known.
    """
    dividend, divisor = node.input
    new = {
        name: _MARK + str(number).encode() + b"_" + name
        for name in (
            b"sign", b"zero", b"one", b"below_zero", b"below_sign", b"above_sign", b"other",
            b"is_sign", b"is_minus_one", b"negated", b"dividend", b"divisor",
        )
    }  # fmt: skip

    def made(operator: bytes, output: bytes, *inputs: bytes) -> Any:
        return message("Node", op_type=operator, input=inputs, output=[new[output]])

    sign, zero = new[b"sign"], new[b"zero"]
    minus_one = new[b"is_minus_one"]
    division = _copied(node)
    division.input[:] = [new[b"dividend"], new[b"divisor"]]
    return [
        made(b"Sign", b"sign", divisor),
        made(b"Sub", b"zero", divisor, divisor),
        made(b"Mul", b"one", sign, sign),
        made(b"Less", b"below_zero", divisor, zero),
        made(b"Less", b"below_sign", divisor, sign),
        made(b"Less", b"above_sign", sign, divisor),
        made(b"Or", b"other", new[b"below_sign"], new[b"above_sign"]),
        made(b"Not", b"is_sign", new[b"other"]),
        made(b"And", b"is_minus_one", new[b"below_zero"], new[b"is_sign"]),
        made(b"Sub", b"negated", zero, dividend),
        made(b"Where", b"dividend", minus_one, new[b"negated"], dividend),
        made(b"Where", b"divisor", minus_one, new[b"one"], divisor),
        division,
    ]


def _copied(node: Any) -> Any:
    copy = message("Node")
    copy.CopyFrom(node)
    return copy
