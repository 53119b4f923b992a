"""Which datatype the tensors of a graph have, as far as a look at each node tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiaas_server.runtimes.graph import (
    BOOL,
    FLOAT,
    INT32,
    INT64,
    UINT8,
    Scope,
    attribute,
    initializers,
    is_standard,
)
from aiaas_server.runtimes.wire import ModelFile

_FIXED: Final[Mapping[str, tuple[int, ...]]] = {
    "Shape": (INT64,),
    "Size": (INT64,),
    "NonZero": (INT64,),
    "ArgMax": (INT64,),
    "ArgMin": (INT64,),
    "NonMaxSuppression": (INT64,),
    "SequenceLength": (INT64,),
    "MatMulInteger": (INT32,),
    "ConvInteger": (INT32,),
    "Multinomial": (INT32,),
    "DynamicQuantizeLinear": (UINT8, FLOAT, UINT8),
    "ImageDecoder": (UINT8,),
    "TfIdfVectorizer": (FLOAT,),
    **dict.fromkeys(
        [
            "Equal",
            "Less",
            "LessOrEqual",
            "Greater",
            "GreaterOrEqual",
            "Not",
            "And",
            "Or",
            "Xor",
            "IsNaN",
            "IsInf",
            "RegexFullMatch",
            "OptionalHasElement",
        ],
        (BOOL,),
    ),
}
_LIKE: Final = {"Where": 1, "CastLike": 1, "OneHot": 2, "DequantizeLinear": 1}
_LATER: Final = {"TopK": INT64, "Unique": INT64, "MaxPool": INT64, "Dropout": BOOL}
_BY_ATTRIBUTE: Final = {
    "Cast": b"to",
    "EyeLike": b"dtype",
    "RandomNormal": b"dtype",
    "RandomUniform": b"dtype",
    "RandomNormalLike": b"dtype",
    "RandomUniformLike": b"dtype",
    "Bernoulli": b"dtype",
    "HannWindow": b"output_datatype",
    "HammingWindow": b"output_datatype",
    "BlackmanWindow": b"output_datatype",
    "MelWeightMatrix": b"output_datatype",
}
_SAME_AS_INPUT: Final = ("EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli")
_UNKNOWN: Final = frozenset(
    [
        "If",
        "Loop",
        "Scan",
        "SequenceMap",
        "SequenceAt",
        "SequenceEmpty",
        "SequenceConstruct",
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "QuantizeLinear",
        "QLinearMatMul",
        "QLinearConv",
        "StringSplit",
        "BitCast",
    ]
)
_FLOATS: Final = (b"value_float", b"value_floats")
_INTEGERS: Final = (b"value_int", b"value_ints")


def datatypes(scope: Scope, model: ModelFile) -> dict[bytes, int]:
    """ONNX's number of the datatype of each tensor in a scope; without those not known.

    Not known are the inputs of a function, and what a subgraph takes from around it.
    """
    body = scope.body
    known: dict[bytes, int] = {tensor.name: tensor.data_type for tensor in initializers(body)}
    if not scope.function:
        known |= {name: weight.data_type for name, weight in model.weights.items()}
        for value in (*body.input, *body.output, *body.value_info):  # the runtime checks these
            if value.type.HasField("tensor_type"):
                known[value.name] = value.type.tensor_type.elem_type
    for node in body.node:
        for index, name in enumerate(node.output):
            if name and name not in known:
                found = _of_output(node, index, known)
                if found:
                    known[name] = found
    return known


def _of_output(node: Any, index: int, known: Mapping[bytes, int]) -> int:
    """The datatype of a node's output; 0 where a look does not tell."""
    name = node.op_type.decode("utf-8", "replace")
    if not is_standard(node) or name in _UNKNOWN:
        return 0
    if name in _FIXED:
        fixed = _FIXED[name]
        return fixed[index] if index < len(fixed) else 0
    if index and name in _LATER:
        return _LATER[name]
    if name == "Constant":
        return _of_constant(node)
    if name == "ConstantOfShape":
        value = attribute(node, b"value")
        return FLOAT if value is None else value.t.data_type
    if name in _BY_ATTRIBUTE:
        asked = attribute(node, _BY_ATTRIBUTE[name])
        if asked is not None:
            return int(asked.i)
        if name not in _SAME_AS_INPUT:
            return FLOAT
    return _of_input(node, _LIKE.get(name, 0), known)


def _of_input(node: Any, index: int, known: Mapping[bytes, int]) -> int:
    return known.get(node.input[index], 0) if index < len(node.input) else 0


def _of_constant(node: Any) -> int:
    for found in node.attribute:
        if found.name == b"value":
            return int(found.t.data_type)
        if found.name in _FLOATS:
            return FLOAT
        if found.name in _INTEGERS:
            return INT64
    return 0
