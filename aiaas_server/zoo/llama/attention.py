"""Attention in both forms of the graph; every method takes and returns tensors' names."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from aiaas_server.zoo.llama.config import LlamaConfig, rotary
from aiaas_server.zoo.llama.projections import MICROSOFT, Projections
from aiaas_server.zoo.llama.writer import Writer


class SharedAttention:
    """onnxruntime's operator over a buffer that each run extends in place."""

    def __init__(self, config: LlamaConfig, writer: Writer, weights: Projections) -> None:
        self._config = config
        self._writer = writer
        self._weights = weights
        self._cos, self._sin = _tables(config, writer)
        node, constant = writer.node, writer.constant
        constant("one.axis", np.array([1]))
        constant("one", np.int64(1))
        total = node("ReduceSum", ["attention_mask", "one.axis"], keepdims=0)  # (B,)
        self._lengths = node("Cast", [node("Sub", [total, "one"])], to=TensorProto.INT32)
        longest = node("Gather", [node("Shape", ["attention_mask"]), "one"])
        self._longest = node("Cast", [longest], to=TensorProto.INT32)

    def attend(self, x: str, name: str, layer: int) -> str:
        """`(B, S, W)` -> `(B, S, H * D)`."""
        config = self._config
        parts = [f"{name}.{part}_proj" for part in "qkv"]
        if self._weights.has(f"{name}.q_norm.weight"):
            query, key, value = (self._weights.linear(x, [p], keeps_int8=False) for p in parts)
            query = self._normed(query, f"{name}.q_norm.weight", config.heads)
            key = self._normed(key, f"{name}.k_norm.weight", config.kv_heads)
        else:
            query = self._weights.linear(x, parts, keeps_int8=False)
            key = value = ""
        kept = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        given = [f"present.{layer}.key", f"present.{layer}.value"]
        out = f"{name}.out"
        self._writer.add(
            "GroupQueryAttention",
            [query, key, value, *kept, self._lengths, self._longest, self._cos, self._sin],
            [out, *given],
            domain=MICROSOFT,
            num_heads=config.heads,
            kv_num_heads=config.kv_heads,
            do_rotary=1,
            scale=config.head**-0.5,
        )
        return out

    def _normed(self, x: str, weight: str, heads: int) -> str:
        """Norm each head by itself."""
        writer, head = self._writer, self._config.head
        split = writer.constant(f"split.{heads}", np.array([0, 0, heads, head]))
        joined = writer.constant(f"joined.{heads}", np.array([0, 0, heads * head]))
        y = writer.node("Reshape", [x, split])  # (B, S, heads, D)
        y = normed(writer, self._weights, y, weight, self._config.epsilon)
        return writer.node("Reshape", [y, joined])


class SeparateAttention:
    """Standard operators; keys and values come in, and leave one run longer."""

    def __init__(self, config: LlamaConfig, writer: Writer, weights: Projections) -> None:
        self._config = config
        self._writer = writer
        self._weights = weights
        self._prepare_turns()
        self._prepare_bias()

    def _prepare_turns(self) -> None:
        """Cosines and sines by token."""
        node = self._writer.node
        self._writer.constant("one.axis", np.array([1]))
        self._turns = []
        for name in _tables(self._config, self._writer):
            table = node("Gather", [name, "position_ids"])  # (B, S, D / 2)
            both = node("Concat", [table, table], axis=-1)
            self._turns.append(node("Unsqueeze", [both, "one.axis"]))  # (B, 1, S, D)

    def _prepare_bias(self) -> None:
        """What is added to scores: 0 where a token is seen, else the lowest number."""
        node, constant = self._writer.node, self._writer.constant
        constant("zero", np.int64(0))
        constant("one", np.int64(1))
        constant("both.axes", np.array([1, 2]))
        total = node("Gather", [node("Shape", ["attention_mask"]), "one"])
        steps = node("Gather", [node("Shape", ["input_ids"]), "one"])
        past = node("Sub", [total, steps])
        keys = node("Range", ["zero", total, "one"])  # (T,)
        queries = node("Add", [node("Range", ["zero", steps, "one"]), past])  # (S,)
        before = node("LessOrEqual", [keys, node("Unsqueeze", [queries, "one.axis"])])  # (S, T)
        valid = node("Cast", ["attention_mask"], to=TensorProto.BOOL)
        valid = node("Unsqueeze", [valid, "both.axes"])  # (B, 1, 1, T)
        seen = node("And", [before, valid])  # (B, 1, S, T)
        constant("nothing", np.float32(0))
        constant("never", np.float32(np.finfo(np.float32).min))
        self._bias = node("Where", [seen, "nothing", "never"])

    def attend(self, x: str, name: str, layer: int) -> str:
        """`(B, S, W)` -> `(B, S, H * D)`."""
        config, node, constant = self._config, self._writer.node, self._writer.constant
        groups = config.heads // config.kv_heads
        query = self._turned(self._heads(x, name, "q", config.heads))  # (B, H, S, D)
        key = self._turned(self._heads(x, name, "k", config.kv_heads))
        value = self._heads(x, name, "v", config.kv_heads)
        key = self._extended(key, f"{layer}.key")  # (B, K, T, D)
        value = self._extended(value, f"{layer}.value")
        # (B, H, S, D) as (B, K, G, S, D): each key head meets its group of asking heads
        constant("grouped", np.array([0, config.kv_heads, groups, -1, config.head]))
        constant("two.axis", np.array([2]))
        query = node("Reshape", [query, "grouped"])
        key, value = (node("Unsqueeze", [part, "two.axis"]) for part in (key, value))
        key = node("Transpose", [key], perm=[0, 1, 2, 4, 3])  # (B, K, 1, D, T)
        constant("scale", np.float32(config.head**-0.5))
        scores = node("Mul", [node("MatMul", [query, key]), "scale"])  # (B, K, G, S, T)
        bias = node("Unsqueeze", [self._bias, "two.axis"])  # (B, 1, 1, S, T)
        scores = node("Softmax", [node("Add", [scores, bias])], axis=-1)
        y = node("MatMul", [scores, value])  # (B, K, G, S, D)
        constant("joined", np.array([0, config.heads, -1, config.head]))
        y = node("Transpose", [node("Reshape", [y, "joined"])], perm=[0, 2, 1, 3])
        constant("wide", np.array([0, 0, config.heads * config.head]))
        return node("Reshape", [y, "wide"])  # (B, S, H * D)

    def _heads(self, x: str, name: str, part: str, count: int) -> str:
        writer = self._writer
        shape = writer.constant(f"heads.{count}", np.array([0, 0, count, self._config.head]))
        y = writer.node("Reshape", [self._weights.linear(x, [f"{name}.{part}_proj"]), shape])
        weight = f"{name}.{part}_norm.weight"
        if self._weights.has(weight):
            y = normed(writer, self._weights, y, weight, self._config.epsilon)
        return writer.node("Transpose", [y], perm=[0, 2, 1, 3])  # (B, heads, S, D)

    def _turned(self, x: str) -> str:
        """Rotate by position: `x cos + (-second half, first half) sin`."""
        node, half = self._writer.node, self._config.head // 2
        self._writer.constant("halves", np.array([half, half]))
        first, second = f"{x}.first", f"{x}.second"
        self._writer.add("Split", [x, "halves"], [first, second], axis=-1)
        swapped = node("Concat", [node("Neg", [second]), first], axis=-1)
        cos, sin = self._turns
        return node("Add", [node("Mul", [x, cos]), node("Mul", [swapped, sin])])

    def _extended(self, x: str, name: str) -> str:
        inputs = [f"past_key_values.{name}", x]
        return self._writer.node("Concat", inputs, f"present.{name}", axis=2)


def normed(writer: Writer, weights: Projections, x: str, weight: str, epsilon: float) -> str:
    """Divide by the root of the mean square along the last axis, times a weight."""
    inputs = [x, weights.vector(weight)]
    return writer.node("RMSNormalization", inputs, axis=-1, epsilon=epsilon)


def _tables(config: LlamaConfig, writer: Writer) -> tuple[str, str]:
    cos, sin = rotary(config)
    return writer.constant("cos", cos), writer.constant("sin", sin)
