"""Tiny graphs as the tests of this room write them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
value = helper.make_tensor_value_info
TYPES = {
    "FP32": TensorProto.FLOAT,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
}


def constant(name: str, array: Any) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: Any,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    functions: Any = (),
) -> bytes:
    """The bytes of a model; inputs and outputs by name: `(datatype, dims)`, or a value itself."""

    def values(given: dict[str, Any]) -> list[Any]:
        return [
            value(name, TYPES[of[0]], of[1]) if isinstance(of, tuple) else of
            for name, of in given.items()
        ]

    graph = helper.make_graph(
        nodes,
        "g",
        values(inputs),
        values(outputs),
        [constant(name, array) for name, array in (constants or {}).items()],
    )
    domains = {"", "ai.onnx.ml", *(function.domain for function in functions)}
    versions = {"": opset, "ai.onnx.ml": 3}
    opsets = [helper.make_opsetid(domain, versions.get(domain, 1)) for domain in sorted(domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))
    return made.SerializeToString()
