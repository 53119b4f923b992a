"""Tensors without elements kept from the operators that end the process on them.

A request without elements is refused at once, see `look_into`. But a graph makes such tensors of
requests that have some, as where it cuts the first steps off a sequence that has no more. So what
these operators take is held to have elements, in memory: its size divided by itself is 1, or the
runtime's error of a division by zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, Final, NamedTuple

from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.graph import Scope, attribute, scopes, standard
from aiaas_server.runtimes.reasons import ELEMENTS
from aiaas_server.runtimes.wire import ModelFile, message, text

_OPSET: Final = 7  # from which on Div joins shapes; what is older has none of these operators
_WINDOW, _FRAME = 2, 3  # of STFT's inputs: a tensor, and the length of one


class _Place(NamedTuple):
    node: int
    taken: int


def ends_without_elements(node: Any, scope: Scope) -> bool:
    """Whether the runtime ends the process where this node gets a tensor without elements."""
    if standard(node, "LSTM", "GRU", "STFT"):
        return True
    if standard(node, "Unique"):
        return attribute(node, b"axis") is not None
    if standard(node, "ConvTranspose") and len(node.input) > 1:
        kernel = scope.constants.get(node.input[1])
        return kernel is None or len(kernel.dims) == 5
    return False


def guard_empties(model: ModelFile) -> str:
    """Guard every such operator; says what was done, "" for nothing.

    Raises:
        LoadFailed: A constant of the graph has no elements where one is needed.
    """
    given = {value.name for value in model.message.graph.input}
    guarded = 0
    for scope in reversed(list(scopes(model))):  # inner ones first: nodes are copied with them
        main = scope.body is model.message.graph
        places = set(_open(scope, given if main else set())) if scope.opset >= _OPSET else set()
        if not places:
            continue
        nodes: list[Any] = []
        for number, node in enumerate(scope.body.node):
            copy = message("Node")
            copy.CopyFrom(node)
            for index in sorted(place.taken for place in places if place.node == number):
                new = ELEMENTS + str(guarded).encode() + b"_" + (node.name or node.op_type)
                is_length = standard(node, "STFT") and index == _FRAME
                nodes += _guards(node.input[index], new, is_length=is_length)
                copy.input[index] = new
                guarded += 1
            nodes.append(copy)
        del scope.body.node[:]
        scope.body.node.extend(nodes)
    return f"{guarded} tensor(s) guarded against having no elements" if guarded else ""


def _open(scope: Scope, given: set[bytes]) -> Iterator[_Place]:
    """Where a tensor that may lack elements goes in; what is `given` is looked at in requests."""
    for number, node in enumerate(scope.body.node):
        if not ends_without_elements(node, scope):
            continue
        for index in (0, _WINDOW, _FRAME) if standard(node, "STFT") else (0,):
            name = node.input[index] if index < len(node.input) else b""
            if not name or (name in given and index != _FRAME):
                continue
            constant = scope.constants.get(name)
            if constant is None:
                yield _Place(number, index)
            elif not prod(constant.dims) or (index == _FRAME and not _value(constant)):
                raise LoadFailed(f"'{text(node.op_type)}' needs a tensor with elements, got none")


def _value(tensor: Any) -> int:
    if tensor.HasField("raw_data"):
        return int.from_bytes(tensor.raw_data, "little", signed=True)
    return next(iter([*tensor.int64_data, *tensor.int32_data]), 0)


def _guards(name: bytes, new: bytes, *, is_length: bool) -> list[Any]:
    """The nodes that give `name` once more, called `new`, if it has elements."""

    def made(operator: bytes, output: bytes, *inputs: bytes) -> Any:
        node = message("Node", op_type=operator, input=inputs, output=[output])
        node.name = new if operator == b"Div" else b""  # the one that fails
        return node

    one, size, shape, sized = (new + end for end in (b"_one", b"_size", b"_shape", b"_sized"))
    if is_length:
        return [made(b"Div", one, name, name), made(b"Mul", new, name, one)]
    return [
        made(b"Size", size, name),
        made(b"Div", one, size, size),
        made(b"Shape", shape, name),
        made(b"Mul", sized, shape, one),
        made(b"Reshape", new, name, sized),
    ]
