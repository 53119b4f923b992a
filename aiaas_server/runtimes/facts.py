"""What is found in a graph, and done to it, before a runtime opens it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aiaas_server.core.session import GraphFacts
from aiaas_server.runtimes.division import guard_divisions
from aiaas_server.runtimes.empties import ends_without_elements, guard_empties
from aiaas_server.runtimes.graph import scopes
from aiaas_server.runtimes.limits import refuse_unusable
from aiaas_server.runtimes.outputs import drop_zipmaps
from aiaas_server.runtimes.values import cost_in_values
from aiaas_server.runtimes.wire import ModelFile, read_model

_WORDS: Final = 32
_SHARES: Final = b"GroupQueryAttention"
_VOCABULARIES: Final = (b"cats_strings", b"keys_strings", b"pool_strings", b"string_vocabulary")


def look_into(model: Path | bytes) -> tuple[GraphFacts, Path | bytes, bool]:
    """Read a model's graph and make it fit to be served.

    Returns:
        What was found; what to open, `model` itself where nothing had to be changed; and whether
        an input without elements would end the process.
    Raises:
        LoadFailed: It cannot be read, or is not fit; the message says why.
    """
    file = read_model(model)
    refuse_unusable(file)
    costs = cost_in_values(file)
    words = tuple(_words(file))
    refuses_empty = any(
        ends_without_elements(node, scope) for scope in scopes(file) for node in scope.body.node
    )
    changes = drop_zipmaps(file)
    changes += filter(None, (guard_divisions(file), guard_empties(file)))
    shared = any(node.op_type == _SHARES for scope in scopes(file) for node in scope.body.node)
    facts = GraphFacts(costs, shared, tuple(changes), words)
    return facts, file.written() if changes else model, refuses_empty


def _words(file: ModelFile) -> Iterator[str]:
    found = 0
    for node in file.message.graph.node:
        for attribute in node.attribute:
            if attribute.name not in _VOCABULARIES:
                continue
            for word in attribute.strings[: _WORDS - found]:
                found += 1
                yield word.decode("utf-8", "replace")
