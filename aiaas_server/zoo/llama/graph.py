"""The graph of a decoder of the Llama family: RMS norm, rotary positions, grouped heads, SwiGLU.

Two forms of one network, which differ in who keeps the keys and values of the tokens before:

* `shared`: a buffer of the caller's, bound as input and output of a run, which each run extends in
  place (`GroupQueryAttention` of onnxruntime). Nothing is copied, rows have lengths of their own.
* `separate`: standard operators alone; `past_key_values.*` in, `present.*` out, one longer a token.

Source: Touvron et al. 2023, *LLaMA*; Su et al. 2021, *RoFormer*; Ainslie et al. 2023, *GQA*.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from aiaas_server.zoo.llama.attention import SeparateAttention, SharedAttention, normed
from aiaas_server.zoo.llama.checkpoint import Weights, check_weights
from aiaas_server.zoo.llama.config import LlamaConfig
from aiaas_server.zoo.llama.projections import MICROSOFT, Precision, Projections
from aiaas_server.zoo.llama.writer import External, Writer

__all__ = ["Cache", "LlamaConfig", "build", "build_outside", "cache_for"]

Cache = Literal["shared", "separate"]

OPSET = 23  # the first with `RMSNormalization`
SHARED_HEAD = 16  # the operator over a shared buffer wants heads of a multiple of this


def cache_for(config: LlamaConfig) -> Cache:
    """The faster form that the network's measures allow."""
    return "separate" if config.head % SHARED_HEAD else "shared"


def build(
    config: LlamaConfig, weights: Weights, cache: Cache, precision: Precision = "float32"
) -> onnx.ModelProto:
    """Write the graph with the weights in it, below 2 GB.

    Args:
        weights: By the names of Hugging Face's checkpoints; projections as `(out, in)`. Without
            `lm_head.weight` the embedding is the output's projection too. Biases
            (`...q_proj.bias`) and norms of queries and keys (`...q_norm.weight`) may be there.
    Returns:
        `input_ids` int64 `(batch, sequence)`, `attention_mask` int64 `(batch, past + sequence)`,
        `past_key_values.{layer}.{key,value}` float32 `(batch, kv_heads, past, head)`; of a
        `separate` cache also `position_ids` int64 `(batch, sequence)`, and `num_logits_to_keep`
        int64 `()`, which may be 0 -> `logits` float32 `(batch, kept, vocabulary)`, `present.*`.
    Raises:
        UnusableCheckpoint: A weight is missing, too many, or of another shape.
    """
    graph = _Graph(config, weights, cache, precision)
    return graph.finish(graph.writer.inline())


def build_outside(
    config: LlamaConfig, weights: Weights, cache: Cache, precision: Precision, location: str
) -> External:
    """The same with the weights in a file beside it, of any size, which is named `location`."""
    graph = _Graph(config, weights, cache, precision)
    tensors, size = graph.writer.outside(location)
    return External(graph.finish(tensors), size, graph.writer.chunks)


class _Graph:
    """Every method takes and returns a tensor's name."""

    def __init__(
        self, config: LlamaConfig, weights: Weights, cache: Cache, precision: Precision
    ) -> None:
        check_weights(config, weights)
        self.config = config
        self.cache = cache
        self.writer = Writer()
        self.weights = Projections(self.writer, weights, precision, fuses=cache == "shared")
        embedding = self.weights.table("model.embed_tokens.weight")
        x = self.writer.node("Gather", [embedding, "input_ids"])  # (B, S, W)
        kind = SharedAttention if cache == "shared" else SeparateAttention
        self.attention = kind(config, self.writer, self.weights)
        for layer in range(config.layers):
            x = self.layer(x, layer)
        x = self.kept(self.norm(x, "model.norm.weight"))
        self.writer.node("Reshape", [self.project(x), "logits.shape"], "logits", allowzero=1)

    def layer(self, x: str, layer: int) -> str:
        add, name = "Add", f"model.layers.{layer}"
        y = self.norm(x, f"{name}.input_layernorm.weight")
        y = self.attention.attend(y, f"{name}.self_attn", layer)
        x = self.writer.node(add, [x, self.weights.linear(y, [f"{name}.self_attn.o_proj"])])
        y = self.norm(x, f"{name}.post_attention_layernorm.weight")
        return self.writer.node(add, [x, self.feed_forward(y, f"{name}.mlp")])

    def feed_forward(self, x: str, name: str) -> str:
        node = self.writer.node
        gate = self.weights.linear(x, [f"{name}.gate_proj"])
        up = self.weights.linear(x, [f"{name}.up_proj"])
        gate = node("Mul", [gate, node("Sigmoid", [gate])])
        return self.weights.linear(node("Mul", [gate, up]), [f"{name}.down_proj"])

    def norm(self, x: str, weight: str) -> str:
        return normed(self.writer, self.weights, x, weight, self.config.epsilon)

    def kept(self, x: str) -> str:
        """Only the positions that are asked for are worth the vocabulary's width."""
        node, constant = self.writer.node, self.writer.constant
        constant("one.axis", np.array([1]))
        constant("far", np.array([np.iinfo(np.int64).max]))
        constant("none", np.array([0]))
        count = node("Reshape", ["num_logits_to_keep", "one.axis"])
        begin = node("Sub", [node("Shape", [x], start=1, end=2), count])  # behind all where K is 0
        begin = node("Max", [begin, "none"])
        x = node("Slice", [x, begin, "far", "one.axis"])  # (B, K, W)
        batch = node("Shape", [x], start=0, end=2)
        constant("vocabulary", np.array([self.config.vocabulary]))
        node("Concat", [batch, "vocabulary"], "logits.shape", axis=0)
        constant("flat", np.array([-1, self.config.width]))
        return node("Reshape", [x, "flat"])

    def project(self, x: str) -> str:
        own = "lm_head.weight"
        name = own if self.weights.has(own) else "model.embed_tokens.weight"
        return self.writer.node("Gemm", [x, self.weights.table(name)], transB=1)

    def finish(self, tensors: list[onnx.TensorProto]) -> onnx.ModelProto:
        config = self.config
        whole: int = TensorProto.INT64
        value = helper.make_tensor_value_info
        inputs = [
            value("input_ids", whole, ["batch", "sequence"]),
            value("attention_mask", whole, ["batch", "total"]),
        ]
        if self.cache == "separate":
            inputs.append(value("position_ids", whole, ["batch", "sequence"]))
        inputs.append(value("num_logits_to_keep", whole, []))
        outputs = [value("logits", TensorProto.FLOAT, ["batch", "kept", config.vocabulary])]
        for layer in range(config.layers):
            for part in ("key", "value"):
                for infos, side, name in (
                    (inputs, "past", f"past_key_values.{layer}.{part}"),
                    (outputs, "present", f"present.{layer}.{part}"),
                ):
                    shape: list[str | int | None] = ["batch", config.kv_heads, side, config.head]
                    infos.append(value(name, TensorProto.FLOAT, shape))
        graph = helper.make_graph(self.writer.nodes, "llama", inputs, outputs, tensors)
        sets = [helper.make_opsetid("", OPSET)]
        if self.cache == "shared":
            sets.append(helper.make_opsetid(MICROSOFT, 1))
        return helper.make_model(graph, opset_imports=sets, ir_version=10)
