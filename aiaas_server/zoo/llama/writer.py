"""Nodes and constants of a graph that is written piece by piece, its weights read last.

A constant is known by its shape and type; its numbers are made when the file is written, one tensor
after another, so that a model need not fit the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aiaas_client.protocol.tensors import Array

PAGE = 4096  # what maps a file into memory wants offsets to be multiples of
INLINE = 1024  # bytes up to which a constant stays in the graph


class External(NamedTuple):
    """A graph whose weights are in a file beside it.

    Attributes:
        size: Of that file, in bytes.
        chunks: Its content, made anew at each call.
    """

    graph: onnx.ModelProto
    size: int
    chunks: Callable[[], Iterator[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class _Constant:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Array]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self) -> Array:
        array = np.ascontiguousarray(self.make(), self.dtype).reshape(self.shape)
        return array


class Writer:
    """Writes nodes one after another; what takes and returns texts does so with tensors' names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, _Constant] = {}

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node of one output, which is named if no name is given."""
        output = output or f"{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def add(
        self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Add a node of several outputs."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))

    def constant(self, name: str, value: Any) -> str:
        """A constant whose numbers are known now; a name that is there already stands."""
        array = np.asarray(value)
        return self.later(name, array.shape, array.dtype, lambda: array)

    def later(
        self, name: str, shape: tuple[int, ...], dtype: Any, make: Callable[[], Array]
    ) -> str:
        """A constant whose numbers are made when the file is written."""
        self._constants.setdefault(name, _Constant(shape, np.dtype(dtype), make))
        return name

    def inline(self) -> list[onnx.TensorProto]:
        """All constants with their numbers."""
        return [numpy_helper.from_array(c.array(), name) for name, c in self._constants.items()]

    def outside(self, location: str) -> tuple[list[onnx.TensorProto], int]:
        """The constants as places in a file of that name, and that file's size."""
        tensors: list[onnx.TensorProto] = []
        offset = 0
        for name, constant in self._constants.items():
            if constant.size <= INLINE:
                tensors.append(numpy_helper.from_array(constant.array(), name))
                continue
            tensors.append(_placed(name, constant, location, offset))
            offset += -(-constant.size // PAGE) * PAGE
        return tensors, offset

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The content of that file."""
        for constant in self._constants.values():
            if constant.size > INLINE:
                yield constant.array().data.cast("B")
                yield bytes(-constant.size % PAGE)


def _placed(name: str, constant: _Constant, location: str, offset: int) -> onnx.TensorProto:
    kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=constant.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", constant.size)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
