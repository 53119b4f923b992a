"""Whether the values of an input, not only its size, set how long a run of a graph takes.

`Expand` by a shape that a request carries makes any number of elements of a few bytes; `Expand` by
the shape of another tensor, as every exported transformer has it, does not. So it is followed
through the graph what comes from values and what from shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, Final

from aiaas_server.runtimes.graph import (
    STRING,
    FunctionKey,
    callees_first,
    functions_of,
    is_standard,
    key_of,
    subgraphs,
)
from aiaas_server.runtimes.wire import ModelFile

_EVERY: Final = tuple(range(16))
# Operator -> its inputs whose values set the size of an output, or the work.
_DECIDING: Final[Mapping[bytes, Sequence[int]]] = {
    b"AffineGrid": (1,),
    b"BlackmanWindow": (0,),
    b"CenterCropPad": (1,),
    b"Col2Im": (1, 2),
    b"Compress": (1,),
    b"ConstantOfShape": (0,),
    b"DFT": (1,),
    b"Expand": (1,),
    b"HammingWindow": (0,),
    b"HannWindow": (0,),
    b"ImageDecoder": (0,),
    b"MaxUnpool": (2,),
    b"MelWeightMatrix": (0, 1),
    b"NonMaxSuppression": _EVERY,
    b"NonZero": (0,),
    b"OneHot": (1,),
    b"Pad": (1,),
    b"Range": _EVERY,
    b"Resize": (1, 2, 3),
    b"RegexFullMatch": (0,),
    b"STFT": (1, 3),
    b"StringNormalizer": (0,),
    b"StringSplit": (0,),
    b"Tile": (1,),
    b"TopK": (1,),
    b"Unique": (0,),
    b"Upsample": (1,),
}
# What repeats or branches is not followed: its time is taken to lie in values.
_BRANCHING: Final = (b"Loop", b"Scan", b"If", b"SequenceMap")
_GENERATING: Final = (b"BeamSearch", b"GreedySearch", b"Sampling", b"WhisperBeamSearch")
_SHAPES_ONLY: Final = (b"Shape", b"Size")


@dataclass(frozen=True, slots=True)
class _Summary:
    """What a function does with the values of its inputs; inputs are bits.

    Attributes:
        deciding: Those whose values set the work.
        outputs: For each output, those whose values it carries.
    """

    deciding: int
    outputs: tuple[int, ...]


_ALWAYS: Final = -1  # every input, and the work of a node that has none


def cost_in_values(model: ModelFile) -> bool:
    """Whether a run's time lies in its input's values."""
    graph = model.message.graph
    inputs = [value for value in graph.input if value.name not in model.weights]
    if any(value.type.tensor_type.elem_type == STRING for value in inputs):
        return True  # the length of a text is a value
    functions = functions_of(model)
    summaries: dict[FunctionKey, _Summary] = {}
    for key in callees_first(functions):
        function = functions[key]
        carried = {name: 1 << index for index, name in enumerate(function.input)}
        deciding = _follow(function.node, carried, summaries)
        outputs = tuple(carried.get(name, 0) for name in function.output)
        summaries[key] = _Summary(deciding, outputs)
    return bool(_follow(graph.node, {value.name: 1 for value in graph.input}, summaries))


def _follow(
    nodes: Iterable[Any], carried: dict[bytes, int], summaries: Mapping[FunctionKey, _Summary]
) -> int:
    """Note in `carried` whose values each tensor carries; gives whose values set the work."""
    deciding = 0
    for node in nodes:
        inputs = [carried.get(name, 0) for name in node.input]
        every = reduce(or_, inputs, 0)
        summary = summaries.get(key_of(node, node.op_type))
        if summary is not None:
            deciding |= _joined(inputs, summary.deciding)
            for name, bits in zip(node.output, summary.outputs, strict=False):
                carried[name] = _joined(inputs, bits)
            continue
        if _branches(node):
            return _ALWAYS
        for index in _DECIDING.get(node.op_type, ()):
            deciding |= inputs[index] if index < len(inputs) else 0
        if node.op_type not in _SHAPES_ONLY:
            carried.update((name, every) for name in node.output if name)
    return deciding


def _branches(node: Any) -> bool:
    if node.op_type in _GENERATING or any(True for _ in subgraphs(node)):
        return True
    return is_standard(node) and node.op_type in _BRANCHING


def _joined(inputs: Sequence[int], bits: int) -> int:
    """What the inputs of a call carry, of those in `bits`; all of it, and more, for `_ALWAYS`."""
    if bits == _ALWAYS:
        return _ALWAYS
    chosen = (carried for index, carried in enumerate(inputs) if bits >> index & 1)
    return reduce(or_, chosen, 0)
