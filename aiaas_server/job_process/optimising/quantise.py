"""Weights in 8 bits: with activations quantised as they come, or by ranges seen beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime import quantization
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from aiaas_server.job_process.optimising.made import Feed, NotPossible, kinds, listed, write

_PREPARED: Final = "prepared.onnx"
_MADE: Final = "quantised.onnx"
# Operators that only a quantised graph has.
_QUANTISED: Final = frozenset(
    {
        *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
        *("DequantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeLSTM"),
        *("QAttention", "QGemm", "QLinearConv", "QLinearMatMul"),
    }
)
# Those with weights that it may become one of.
_QUANTISABLE: Final = frozenset(
    {
        *("Attention", "Conv", "ConvTranspose", "EmbedLayerNormalization", "Gather", "Gemm"),
        *("LSTM", "MatMul"),
    }
)
# What makes scores: in 255 steps they would add up to 1 no more, and rare classes would get 0.
_SCORES: Final = frozenset({"Sigmoid", "Softmax"})
_CPU: Final = Path("/proc/cpuinfo")


def dynamic(source: Path, out: Path, samples: Sequence[Feed]) -> None:
    """Quantise weights, and activations by the range that each run has."""
    prepared, made = _prepared(source, out), out.with_name(_MADE)
    quantization.quantize_dynamic(
        prepared,
        made,
        weight_type=quantization.QuantType.QInt8,
        reduce_range=_saturates(),
    )
    _keep(prepared, made, out)


def static(source: Path, out: Path, samples: Sequence[Feed]) -> None:
    """Quantise weights and activations, these by the ranges that they have over the samples.

    A tensor at a time: by channel the library fails on graphs of scikit-learn.
    """
    if not samples:
        raise NotPossible("there are no rows to calibrate by")
    prepared, made = _prepared(source, out), out.with_name(_MADE)
    quantization.quantize_static(
        prepared,
        made,
        _Reader(samples),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry} - _SCORES),
        per_channel=False,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        reduce_range=_saturates(),
    )
    _keep(prepared, made, out)


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # the library is untyped
    """Samples, one after the other."""

    def __init__(self, samples: Sequence[Feed]) -> None:
        self._left: Iterator[Feed] = iter(samples)

    def get_next(self) -> Any:
        """The next one, a document by input; None once there are no more."""
        found = next(self._left, None)
        return None if found is None else dict(found)


def _prepared(source: Path, out: Path) -> Path:
    """The graph simplified and with shapes, without which many operators are passed over."""
    prepared = out.with_name(_PREPARED)
    model = onnx.load(source)
    names = {name for _, name in kinds(model)}
    if names & _QUANTISED:
        raise NotPossible("it is quantised already")
    if not names & _QUANTISABLE:
        raise NotPossible(_nothing(model))
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    return prepared


def _keep(prepared: Path, made: Path, out: Path) -> None:
    model = onnx.load(made)
    prepared.unlink()
    made.unlink()
    if not any(name in _QUANTISED for _, name in kinds(model)):
        raise NotPossible(_nothing(model))
    write(model, out)


def _nothing(model: Any) -> str:
    return f"it has no operator that can run in 8 bits, only {listed(model)}"


def _saturates() -> bool:
    """Whether 16-bit sums of this processor overflow, so that weights may have 7 bits only.

    Those of x86 without VNNI do; see onnxruntime, *Quantize ONNX models*, "reduce range".
    """
    try:
        told = _CPU.read_text("ascii", "replace")
    except OSError:
        return True
    return "avx" in told and "vnni" not in told
