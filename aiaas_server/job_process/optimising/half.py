"""Weights and sums in 16 bits: half the size; inputs and outputs stay as they were."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnxconverter_common import float16

from aiaas_server.job_process.optimising.made import Feed, NotPossible, listed, write

_HALF = onnx.TensorProto.FLOAT16


def halve(source: Path, out: Path, samples: Sequence[Feed]) -> None:
    """Turn what can be turned into 16 bits."""
    model = onnx.load(source)
    if any(one.data_type == _HALF for one in model.graph.initializer):
        raise NotPossible("its weights have 16 bits already")
    names = listed(model)
    with warnings.catch_warnings(record=True):  # of each number that is cut: accuracy is measured
        warnings.simplefilter("always")
        made = float16.convert_float_to_float16(model, keep_io_types=True)
    if not any(one.data_type == _HALF for one in made.graph.initializer):
        raise NotPossible(f"it has no weights that can have 16 bits, only {names}")
    write(made, out)
