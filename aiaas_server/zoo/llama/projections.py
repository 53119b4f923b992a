"""The weights of a graph in the precision that was chosen; what comes and goes is float32.

* `float16` halves the file; the runtime widens the weights when it loads them.
* `int8` quarters it. Feed-forward and output projections stay 8-bit in memory and are multiplied as
  such, which is faster. Queries, keys, values and the embedding are widened at loading: rounding
  what these multiply to 8 bits as well moved the next tokens of a small model four times as far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from onnx import TensorProto

from aiaas_client.protocol.tensors import Array
from aiaas_server.zoo.llama.checkpoint import Weights
from aiaas_server.zoo.llama.config import Floats, UnusableCheckpoint
from aiaas_server.zoo.llama.writer import Writer

Precision = Literal["float32", "float16", "int8"]

MICROSOFT = "com.microsoft"
BLOCK = 32  # numbers that share a scale, where 8-bit weights are multiplied as such
ZERO = 128  # stands for 0 there
TO_INT8 = 4  # `accuracy_level`: what is multiplied is rounded to 8 bits, block by block of a row


class Projections:
    """Puts weights into a graph; every method gives the name of a float32 tensor.

    Args:
        fuses: Whether operators of onnxruntime's own may be used.
    """

    def __init__(
        self, writer: Writer, weights: Weights, precision: Precision, *, fuses: bool
    ) -> None:
        self._writer = writer
        self._weights = weights
        self._precision = precision
        self._fuses = fuses

    def has(self, name: str) -> bool:
        return name in self._weights

    def vector(self, name: str) -> str:
        """A norm's or a bias's numbers, which stay float32: there are few."""
        return self._writer.later(
            name, tuple(self._weights[name].shape), np.float32, lambda: self._read(name)
        )

    def table(self, name: str) -> str:
        """A matrix as the checkpoint has it, a row a token."""
        return self._matrix(name, tuple(self._weights[name].shape), lambda: self._read(name), -1)

    def linear(self, x: str, names: Sequence[str], *, keeps_int8: bool = True) -> str:
        """One or more projections side by side: `(..., in)` -> `(..., sum of out)`."""
        name = names[0] if len(names) == 1 else f"{names[0]}.packed"
        parts = [f"{part}.weight" for part in names]
        rows = sum(self._weights[part].shape[0] for part in parts)
        columns = self._weights[parts[0]].shape[1]

        def read() -> Floats:
            return np.concatenate([self._read(part) for part in parts])  # (out, in)

        if self._precision == "int8" and self._fuses and keeps_int8 and columns % BLOCK == 0:
            y = self._multiplied(x, f"{name}.weight", rows, columns, read)
        else:
            matrix = self._matrix(f"{name}.weight", (columns, rows), lambda: read().T, 0)
            y = self._writer.node("MatMul", [x, matrix])
        return self._biased(y, f"{name}.bias", names)

    def _biased(self, y: str, name: str, names: Sequence[str]) -> str:
        biases = [f"{part}.bias" for part in names if f"{part}.bias" in self._weights]
        if not biases:
            return y
        if len(biases) != len(names):
            raise UnusableCheckpoint(
                f"tensor '{biases[0]}': expected biases for all of {', '.join(names)}, or for none"
            )
        count = sum(self._weights[bias].shape[0] for bias in biases)
        self._writer.later(
            name,
            (count,),
            np.float32,
            lambda: np.concatenate([self._read(bias) for bias in biases]),
        )
        return self._writer.node("Add", [y, name])

    def _multiplied(
        self, x: str, name: str, rows: int, columns: int, read: Callable[[], Floats]
    ) -> str:
        """8-bit weights, `(out, blocks, BLOCK)` with a scale a block, multiplied as such."""
        blocks = columns // BLOCK

        def scales() -> Floats:
            return _scales(read().reshape(rows, blocks, BLOCK), -1)

        def quants() -> Array:
            numbers = read().reshape(rows, blocks, BLOCK)
            return (_quants(numbers, _scales(numbers, -1)) + ZERO).astype(np.uint8)

        self._writer.later(f"{name}.quants", (rows, blocks, BLOCK), np.uint8, quants)
        self._writer.later(f"{name}.scales", (rows, blocks), np.float32, scales)
        return self._writer.node(
            "MatMulNBits",
            [x, f"{name}.quants", f"{name}.scales"],
            domain=MICROSOFT,
            K=columns,
            N=rows,
            bits=8,
            block_size=BLOCK,
            accuracy_level=TO_INT8,
        )

    def _matrix(
        self, name: str, shape: tuple[int, ...], read: Callable[[], Floats], axis: int
    ) -> str:
        """A matrix, widened by nodes that the runtime folds when it loads the file.

        Args:
            axis: Along which numbers share a scale, where they are 8-bit.
        """
        writer = self._writer
        if self._precision == "float32":
            return writer.later(name, shape, np.float32, read)
        if self._precision == "float16":
            half = writer.later(f"{name}.half", shape, np.float16, lambda: _halves(name, read()))
            return self._once("Cast", [half], name, to=TensorProto.FLOAT)
        shared = (shape[0], 1) if axis == -1 else (1, shape[1])
        quants = writer.later(
            f"{name}.quants",
            shape,
            np.int8,
            lambda: _quants(numbers := read(), _scales(numbers, axis)).astype(np.int8),
        )
        scales = writer.later(f"{name}.scales", shared, np.float32, lambda: _scales(read(), axis))
        wide = self._once("Cast", [quants], f"{name}.wide", to=TensorProto.FLOAT)
        return self._once("Mul", [wide, scales], name)

    def _once(self, kind: str, inputs: Sequence[str], output: str, **attributes: int) -> str:
        """A node that is written the first time it is asked for: two may read one matrix."""
        if not any(output in node.output for node in self._writer.nodes):
            self._writer.node(kind, inputs, output, **attributes)
        return output

    def _read(self, name: str) -> Floats:
        return np.asarray(self._weights[name], np.float32)


def _scales(numbers: Floats, axis: int) -> Floats:
    """What 1 stands for, so that the largest number is 127; along `axis`, which is kept."""
    most = np.abs(numbers).max(axis=axis, keepdims=True)
    most[most == 0] = 127
    scales: Floats = (most / np.float32(127)).astype(np.float32)
    return scales


def _quants(numbers: Floats, scales: Floats) -> Floats:
    quants: Floats = np.rint(numbers / scales)
    return quants


def _halves(name: str, numbers: Floats) -> Array:
    most = np.abs(numbers).max(initial=0)
    if most > np.finfo(np.float16).max:
        raise UnusableCheckpoint(
            f"tensor '{name}': float16 holds numbers up to 65504, got {most:g}; "
            "take the weights as float32"
        )
    return numbers.astype(np.float16)
