"""What one rendering of a template may cost, so that none runs for ever or fills the memory.

Jinja's sandbox keeps a template from reading what it must not. It does not keep it from nesting
loops, or from doubling a text sixty times. So each turn of a loop, each call of a macro and each
text or list that is made is paid for out of one budget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

WORK = 32_000_000  # characters that a rendering may handle in all
TURN = 500  # what a turn of a loop costs, in characters
ITEM = 16  # and an item of a list
SECONDS = 2.0  # of the thread's own time, for what is slow without making anything


class Budget:
    """What is left of a rendering's work."""

    def __init__(self) -> None:
        self._left = WORK
        self._end = time.thread_time() + SECONDS

    def spend(self, cost: int) -> None:
        """Pay for something, before it is made where that can be known.

        Raises:
            SecurityError: It is more than is left.
        """
        self._left -= cost
        if self._left < 0 or time.thread_time() > self._end:
            raise SecurityError("the template loops for too long, or writes too much")

    @property
    def left(self) -> int:
        return self._left


BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


def spend(cost: int) -> None:
    """Pay out of the budget of the rendering that goes on in this thread."""
    budget = BUDGET.get()
    if budget is not None:
        budget.spend(cost)


def spend_on(value: Any) -> None:
    """Pay for all that a value holds; what it holds twice counts twice, as when it is written."""
    budget = BUDGET.get()
    if budget is None:
        return
    cost, waiting = 0, [value]
    while waiting and cost <= budget.left:
        one = waiting.pop()
        cost += ITEM + (len(one) if isinstance(one, str) else 0)
        if isinstance(one, Mapping):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    budget.spend(cost)


class Metered(NodeTransformer):
    """Puts the payments into a template, as calls of functions that it cannot overwrite."""

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """The node that takes the place of this one, its parts replaced before it."""
        self.generic_visit(node)
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            node.body.insert(0, _statement(_turn(node.body)))
        if isinstance(node, nodes.For) and node.test is not None:
            node.test = nodes.And(_turn([]), node.test)  # what is left out takes a turn as well
        if isinstance(node, nodes.Concat):
            return _call("joined", [*node.nodes], node.lineno)
        # A tuple may also be what a loop assigns to.
        made = isinstance(node, nodes.List | nodes.Dict | nodes.Tuple)
        if made and getattr(node, "ctx", "load") == "load":
            return _call("built", [cast(nodes.Expr, node)], node.lineno)
        return node


def _turn(body: list[nodes.Node]) -> nodes.Call:
    texts = [text for node in body for text in _texts(node)]
    line = body[0].lineno if body else 1
    return _call("turn", [nodes.Const(TURN + sum(map(len, texts)), lineno=line)], line)


def _texts(node: nodes.Node) -> list[str]:
    found = [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)
    return [one.data for one in found]


def _statement(call: nodes.Call) -> nodes.ExprStmt:
    return nodes.ExprStmt(call, lineno=call.lineno)


def _call(name: str, arguments: list[nodes.Expr], line: int) -> nodes.Call:
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, arguments, [], None, None, lineno=line)
