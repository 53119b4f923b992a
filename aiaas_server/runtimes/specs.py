"""What the runtime says of a model's inputs and outputs, in the words of the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import TensorSpec

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_HINTS: Final = (
    ("seq(map", "; export the scores as a tensor, before they are made maps"),
    ("map", "; export its keys and its values as tensors"),
    ("seq", "; export its elements as tensors of their own, or joined into one"),
    ("optional", "; export it as a tensor that is always there"),
    ("sparse", "; export it as a dense tensor"),
    ("tensor(bfloat16)", "; the runtime takes BF16 only inside a graph, so cast at its border"),
)


def servable(found: Sequence[Any]) -> tuple[tuple[TensorSpec, ...], list[str]]:
    """The outputs that are tensors, and what is said of those that are not.

    Raises:
        LoadFailed: None is.
    """
    specs: list[TensorSpec] = []
    problems: list[LoadFailed] = []
    for output in found:
        try:
            specs.append(spec_of(output, "output"))
        except LoadFailed as problem:
            problems.append(problem)
    if not specs:
        raise problems[0]
    return tuple(specs), [f"left out: {problem.message}" for problem in problems]


def spec_of(arg: Any, role: str) -> TensorSpec:
    """An input or an output as the runtime describes it; `role` is which of the two.

    Raises:
        LoadFailed: It is no tensor that can be served.
    """
    datatype = _DATATYPES.get(arg.type)
    if datatype is None:
        hint = next((hint for start, hint in _HINTS if arg.type.startswith(start)), "")
        raise LoadFailed(
            f"{role} '{arg.name[:64]}' is of type {arg.type}, which cannot be served{hint}"
        )
    return TensorSpec(
        name=arg.name,
        datatype=datatype,
        shape=tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in arg.shape),
        symbols=tuple(dim if isinstance(dim, str) else "" for dim in arg.shape),
    )


def metadata_of(meta: Any) -> dict[str, str]:
    """What the model file says about itself, without what it leaves empty."""
    known = {
        "producer_name": meta.producer_name,
        "graph_name": meta.graph_name,
        "domain": meta.domain,
        "description": meta.description,
    }
    return {
        **{key: value for key, value in known.items() if value},
        **meta.custom_metadata_map,
    }
