"""The graph as the runtime simplifies it when it loads, done once and for all.

Not at the highest level: that chooses layouts for the processor it runs on, and what it writes is
of no use on another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx
import onnxruntime as ort

from aiaas_server.job_process.optimising.made import Feed, NotPossible, kinds, write

_MADE: Final = "simplified.onnx"


def simplify(source: Path, out: Path, samples: Sequence[Feed]) -> None:
    """Fold constants, drop what does nothing, and join operators."""
    made = out.with_name(_MADE)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(made)
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    before, model = onnx.load(source), onnx.load(made)
    made.unlink()
    if kinds(before) == kinds(model):
        raise NotPossible("the runtime finds nothing to simplify in it")
    write(model, out)
