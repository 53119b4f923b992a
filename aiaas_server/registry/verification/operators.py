"""Operators that an uploaded model may use, beside those of ONNX itself."""

from __future__ import annotations

from typing import Final

STANDARD: Final = frozenset({"", "ai.onnx", "ai.onnx.ml"})
CONTRIB: Final = "com.microsoft"
OWN: Final = (CONTRIB, "com.ms", "ai.onnx", "ai.onnxruntime")
"""Beginnings of the domains of ONNX and of the runtime: a model's own functions have others."""

_KNOWN: Final = """
    Attention AttnLSTM BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu CDist
    CausalConvWithState ComplexMul ComplexMulConj ConvTransposeWithDynamicPads CropAndResize
    DecoderAttention DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DequantizeBFP
    DequantizeLinear DequantizeWithOrder DynamicQuantizeLSTM DynamicQuantizeMatMul
    DynamicTimeWarping EmbedLayerNormalization ExpandDims FastGelu FusedConv FusedGemm
    FusedMatMul FusedMatMulActivation GatedDeltaNet GatedRelativePositionBias
    GatherBlockQuantized GatherND Gelu GemmFastGelu GemmFloat8 GemmaRotaryEmbedding GridSample
    GroupNorm GroupQueryAttention Inverse Irfft IsAllFinite LinearAttention LongformerAttention
    MRotaryEmbedding MatMulBnb4 MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits
    MaxpoolWithMask MoE MulInteger MultiHeadAttention MurmurHash3 NGramRepeatBlock NhwcConv
    NhwcFusedConv NhwcMaxPool PackedAttention PackedMultiHeadAttention Pad PagedAttention
    QAttention QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool QLinearConcat
    QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean
    QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QOrderedAttention QOrderedGelu
    QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul QuantizeBFP
    QuantizeLinear QuantizeWithOrder QuickGelu Range ReduceSumInteger RelativePositionBias
    RemovePadding RestorePadding Rfft RotaryEmbedding SkipGroupNorm SkipLayerNormalization
    SkipSimplifiedLayerNormalization SparseAttention SparseToDenseMatMul SwiGLU Tokenizer
    TorchEmbedding TransposeMatMul Trilu UnfoldTensor Unique WordConvEmbedding
"""
LISTED: Final = frozenset(_KNOWN.split())
"""Of `com.microsoft`: what exporters, quantisers and the runtime's own optimiser write. Not those
that name a file or hold another runtime's program (EPContext, Snpe), nor whole searches."""
