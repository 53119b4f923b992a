"""A graph to be walked: every scope of it, constants, functions, datatypes."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.wire import ModelFile, message, text

FLOAT: Final = 1
UINT8: Final = 2
INT32: Final = 6
INT64: Final = 7
STRING: Final = 8
BOOL: Final = 9
_STANDARD: Final = (b"", b"ai.onnx")

FunctionKey = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Scope:
    """The nodes of one graph, of a subgraph, or of a function.

    Attributes:
        body: The `Graph` or `Function` message.
        constants: Constant tensors in sight, by name: `Tensor` messages.
        function: Whether the body is a function's: its inputs have no types.
        opset: Of the standard domain.
    """

    body: Any
    constants: Mapping[bytes, Any]
    function: bool
    opset: int


def scopes(model: ModelFile) -> Iterator[Scope]:
    """The main graph, all subgraphs, and all functions with theirs."""
    graph = model.message.graph
    overridable = {value.name for value in graph.input}
    weights = {name: w for name, w in model.weights.items() if name not in overridable}
    yield from _within(graph, ChainMap(weights), False, opset_of(model.message))
    for function in model.message.functions:
        yield from _within(function, ChainMap(), True, opset_of(function))


def _within(body: Any, outer: ChainMap[bytes, Any], function: bool, opset: int) -> Iterator[Scope]:
    constants = outer.new_child({tensor.name: tensor for tensor in initializers(body)})
    for node in body.node:
        found = constant_of(node)
        if found is not None:
            constants[node.output[0]] = found
    yield Scope(body, constants, function, opset)
    for node in body.node:
        for inner in subgraphs(node):
            yield from _within(inner, constants, function, opset)


def initializers(body: Any) -> Any:
    """The weights that stand in the message itself; none in a function."""
    return body.initializer if hasattr(body, "initializer") else ()


def subgraphs(node: Any) -> Iterator[Any]:
    """The bodies of a node that branches or repeats."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def opset_of(model: Any) -> int:
    """The version of the standard operators that a model or a function is written in."""
    versions = (entry.version for entry in model.opset_import if entry.domain in _STANDARD)
    return max(versions, default=1)


def standard(node: Any, *names: str) -> bool:
    """Whether a node is one of these standard operators."""
    return node.domain in _STANDARD and node.op_type in [name.encode() for name in names]


def is_standard(node: Any) -> bool:
    """Whether a node's operator is one of ONNX itself."""
    return node.domain in _STANDARD


def attribute(node: Any, name: bytes) -> Any:
    """A node's attribute, or None."""
    return next((found for found in node.attribute if found.name == name), None)


def constant_of(node: Any) -> Any:
    """The tensor of a Constant that holds one of numbers; None otherwise."""
    if not standard(node, "Constant") or len(node.output) != 1:
        return None
    for found in node.attribute:
        if found.name == b"value" and found.HasField("t"):
            return found.t
        if found.name in (b"value_int", b"value_ints"):
            values = [found.i] if found.name == b"value_int" else found.ints
            return message("Tensor", data_type=INT64, int64_data=values)
    return None


def functions_of(model: ModelFile) -> dict[FunctionKey, Any]:
    """The model's own functions by what calls them."""
    return {key_of(f, f.name): f for f in model.message.functions}


def key_of(called: Any, name: bytes) -> FunctionKey:
    """What a node calls, or what a function is called by."""
    return (b"" if called.domain in _STANDARD else called.domain, name, called.overload)


def callees_first(functions: Mapping[FunctionKey, Any]) -> list[FunctionKey]:
    """The functions, each after those that it calls.

    Without recursion, since a chain of calls may be as long as there are functions.

    Raises:
        LoadFailed: One calls itself, by itself or through others.
    """
    ordered: dict[FunctionKey, None] = {}
    called = {key: _called(body, functions) for key, body in functions.items()}
    for wanted in functions:
        stack, opened = [wanted], set[FunctionKey]()
        while stack:
            key = stack[-1]
            missing = called[key] - ordered.keys()
            if key in ordered or not missing:
                ordered[key] = None
                stack.pop()
                continue
            opened.add(key)
            # What is open and not ordered yet waits, below on the stack, for this one.
            if missing & opened:
                raise LoadFailed(f"the function '{text(key[1])}' calls itself")
            stack += missing
    return list(ordered)


def _called(body: Any, functions: Mapping[FunctionKey, Any]) -> set[FunctionKey]:
    found = {key_of(node, node.op_type) for node in body.node} & functions.keys()
    for node in body.node:
        for inner in subgraphs(node):
            found |= _called(inner, functions)
    return found
