"""What a way of optimising makes, and the ways there are.

Each is a function `make(source, out, samples)` that reads one whole model file and writes another.
Whatever a library raises on the way is told as the candidate's reason: a graph that cannot be
quantised is no fault of the job's.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from aiaas_server.core.errors import ServerError
from aiaas_server.repository.external_data import external_files

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]
"""Tensors of one run, by input."""

MOST_BYTES: Final = 1900 << 20
"""Of a model that is held whole in one message, which takes 2 GiB at most."""
_MODULES: Final = {
    "int8-dynamic": ("quantise", "dynamic"),
    "int8-static": ("quantise", "static"),
    "fp16": ("half", "halve"),
    "graph": ("graph", "simplify"),
}
MIXES_ROWS: Final = frozenset({"int8-dynamic"})
"""Those that scale a whole batch by its largest number: a row is answered beside others as they
have it."""
_LONGEST: Final = 200  # characters of a reason


class NotPossible(Exception):
    """It changes nothing, or cannot be done; the message says why, for the table."""


def make(target: str, source: Path, out: Path, samples: Sequence[Feed]) -> None:
    """Write the candidate of that name.

    Args:
        source: A model file with all its weights in it.
        samples: What the model gets for rows of the data set, to calibrate by.
    Raises:
        NotPossible: There is none.
    """
    module, function = _MODULES[target]
    try:
        getattr(import_module(f"{__package__}.{module}"), function)(source, out, samples)
    except (NotPossible, MemoryError, ServerError):
        raise
    except Exception as error:  # libraries raise whatever they please
        traceback.print_exc()
        raise NotPossible(_reason(error)) from None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}".rstrip(": ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def kinds(model: Any) -> list[tuple[str, str]]:
    """Domain and operator of every node, those of nested graphs included, in order."""
    return [(node.domain, node.op_type) for node in nodes(model.graph)]


def nodes(graph: Any) -> Iterator[Any]:
    """Every node of a graph and of those nested in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def listed(model: Any) -> str:
    """Its operators in words, for a reason."""
    names = sorted({name for _, name in kinds(model)})
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def write(model: Any, out: Path) -> None:
    """Write a model into one file, without domains that it does not use."""
    used = {node.domain for node in nodes(model.graph)} | {""}
    used |= {node.domain for function in model.functions for node in function.node}
    _import(model, [one for one in model.opset_import if one.domain in used])
    out.write_bytes(model.SerializeToString(deterministic=True))


def _import(model: Any, kept: Sequence[Any]) -> None:
    """Have a model import those sets of operators; of one that comes twice the newest."""
    newest: dict[str, int] = {}
    for one in kept:
        domain = "" if one.domain == "ai.onnx" else one.domain
        newest[domain] = max(newest.get(domain, 0), one.version)
    del model.opset_import[:]
    model.opset_import.extend(
        onnx.helper.make_opsetid(domain, number) for domain, number in newest.items()
    )


def whole(directory: Path, name: str, out: Path) -> frozenset[str]:
    """Write a model with its weights in it, wherever they lay.

    Returns:
        The files beside it that held weights.
    Raises:
        NotPossible: It is too large for one file.
    """
    places = frozenset(path.name for path in external_files(directory / name))
    size = sum((directory / place).stat().st_size for place in {*places, name})
    if size > MOST_BYTES:
        raise NotPossible(
            f"it has {size >> 20} MiB; models of more than {MOST_BYTES >> 20} MiB are not optimised"
        )
    model = onnx.load(directory / name)
    # Converters of scikit-learn import the standard operators twice, which others take for none.
    _import(model, model.opset_import)
    out.write_bytes(model.SerializeToString(deterministic=True))
    return places
