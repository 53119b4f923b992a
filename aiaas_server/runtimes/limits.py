"""What a graph may not be, found by arithmetic before a runtime sees it.

A runtime expands functions before it looks at anything: two kilobytes of functions that call one
another twice are a billion nodes. So nodes are counted, never expanded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.graph import (
    FunctionKey,
    callees_first,
    constant_of,
    functions_of,
    initializers,
    key_of,
    scopes,
    subgraphs,
)
from aiaas_server.runtimes.wire import ModelFile, weight_problem

MAX_NODES: Final = 50_000
MAX_FUNCTIONS: Final = 1_000
MAX_DEPTH: Final = 16
MAX_TENSORS: Final = 1_024


def refuse_unusable(model: ModelFile) -> int:
    """Refuse a graph that is too large, endless, or can be read in two ways.

    Returns:
        How many nodes it is after functions are expanded.
    Raises:
        LoadFailed: It is; the message says what was expected and what came.
    """
    message = model.message
    if not message.HasField("graph"):
        raise LoadFailed("the model has no graph")
    tensors = len(message.graph.input) + len(message.graph.output)
    if tensors > MAX_TENSORS:
        raise LoadFailed(f"expected at most {MAX_TENSORS} inputs and outputs, got {tensors}")
    if not message.graph.output:
        raise LoadFailed("the graph has no outputs: there is nothing to answer with")
    if len(message.functions) > MAX_FUNCTIONS:
        raise LoadFailed(
            f"expected at most {MAX_FUNCTIONS} functions, got {len(message.functions)}"
        )
    if sum(len(scope.body.node) for scope in scopes(model)) > MAX_NODES:
        raise LoadFailed(f"expected at most {MAX_NODES} nodes, got more")
    if model.problem:
        raise LoadFailed(model.problem)
    return _Count(functions_of(model)).body(message.graph)


class _Count:
    """Counts what a body becomes, each function once."""

    def __init__(self, functions: Mapping[FunctionKey, Any]) -> None:
        self._known: dict[FunctionKey, int] = {}
        for key in callees_first(functions):
            self._known[key] = self.body(functions[key])

    def body(self, body: Any, depth: int = 0) -> int:
        """The nodes of a body after every function in it is expanded."""
        if depth > MAX_DEPTH:
            raise LoadFailed(f"expected graphs within graphs {MAX_DEPTH} deep at most")
        for tensor in initializers(body):
            _refuse_weight(tensor)
        count = 0
        for node in body.node:
            count += self._known.get(key_of(node, node.op_type), 1)
            if (constant := constant_of(node)) is not None:
                _refuse_weight(constant)
            for inner in subgraphs(node):
                count += self.body(inner, depth + 1)
            if count > MAX_NODES:
                raise LoadFailed(
                    f"expected at most {MAX_NODES} nodes after functions are expanded, got more"
                )
        return count


def _refuse_weight(tensor: Any) -> None:
    if problem := weight_problem(tensor):
        raise LoadFailed(problem)
