"""The graph of a decoder of the Llama family: RMS norm, rotary positions, grouped heads, SwiGLU.

Two forms of one network, which differ in who keeps the keys and values of the tokens before:

* `shared`: a buffer of the caller's, bound as input and output of a run, which each run extends in
  place (`GroupQueryAttention` of onnxruntime). Nothing is copied, rows have lengths of their own.
* `separate`: standard operators alone; `past_key_values.*` in, `present.*` out, one longer a token.

Source: Touvron et al. 2023, *LLaMA*; Su et al. 2021, *RoFormer*; Ainslie et al. 2023, *GQA*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Cache = Literal["shared", "separate"]
Floats = npt.NDArray[np.float32]

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The measures of one network.

    Attributes:
        vocabulary: Tokens that it knows.
        width: Of the stream between the layers.
        inner: Of the feed-forward part.
        heads: That ask; `kv_heads`, that are asked, divide them.
        head: Numbers of one head.
        context: Most tokens, prompt and answer together.
        theta: Base of the rotary positions.
        epsilon: Of the norms.
    """

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    context: int = 2048
    theta: float = 10_000.0
    epsilon: float = 1e-5


def build(config: LlamaConfig, weights: Mapping[str, Floats], cache: Cache) -> onnx.ModelProto:
    """Write the graph around the weights.

    Args:
        weights: By the names of Hugging Face's checkpoints; projections as `(out, in)`. Without
            `lm_head.weight` the embedding is the output's projection too.
    Returns:
        `input_ids` int64 `(batch, sequence)`, `attention_mask` int64 `(batch, past + sequence)`,
        `past_key_values.{layer}.{key,value}` float32 `(batch, kv_heads, past, head)`; of a
        `separate` cache also `position_ids` int64 `(batch, sequence)`, and `num_logits_to_keep`
        int64 `()` -> `logits` float32 `(batch, kept, vocabulary)`, `present.*`.
    """
    return _Graph(config, weights, cache).build()


class _Graph:
    """Writes nodes one after another; every method takes and returns a tensor's name."""

    def __init__(self, config: LlamaConfig, weights: Mapping[str, Floats], cache: Cache) -> None:
        self.config = config
        self.weights = weights
        self.cache = cache
        self.turns: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.ModelProto:
        config = self.config
        self.constant("model.embed_tokens.weight", self.weights["model.embed_tokens.weight"])
        x = self.node("Gather", ["model.embed_tokens.weight", "input_ids"])  # (B, S, W)
        self.prepare()
        for layer in range(config.layers):
            name = f"model.layers.{layer}"
            y = self.norm(x, f"{name}.input_layernorm.weight")
            x = self.node("Add", [x, self.attention(y, layer)])
            y = self.norm(x, f"{name}.post_attention_layernorm.weight")
            x = self.node("Add", [x, self.feed_forward(y, name)])
        x = self.kept(self.norm(x, "model.norm.weight"))
        self.nodes.append(
            helper.make_node("Reshape", [self.project(x), "logits.shape"], ["logits"])
        )
        return self.serialise()

    # The head: only the positions that are asked for are worth the vocabulary's width

    def kept(self, x: str) -> str:
        self.constant("one.axis", np.array([1]))
        self.constant("far", np.array([np.iinfo(np.int64).max]))
        count = self.node("Reshape", ["num_logits_to_keep", "one.axis"])
        begin = self.node("Neg", [count])
        x = self.node("Slice", [x, begin, "far", "one.axis"])  # (B, K, W)
        batch = self.node("Shape", [x], start=0, end=2)
        self.constant("vocabulary", np.array([self.config.vocabulary]))
        self.nodes.append(
            helper.make_node("Concat", [batch, "vocabulary"], ["logits.shape"], axis=0)
        )
        self.constant("flat", np.array([-1, self.config.width]))
        return self.node("Reshape", [x, "flat"])

    def project(self, x: str) -> str:
        name = "lm_head.weight" if "lm_head.weight" in self.weights else "model.embed_tokens.weight"
        self.constant(name, self.weights[name])
        return self.node("Gemm", [x, name], transB=1)

    # Attention

    def prepare(self) -> None:
        """What all layers share: positions, and which tokens are seen."""
        config = self.config
        half = config.head // 2
        turns = config.theta ** (-np.arange(half, dtype=np.float64) / half)
        angles = np.arange(config.context)[:, None] * turns  # (context, half)
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        self.constant("cos", cos)
        self.constant("sin", sin)
        if self.cache == "shared":
            self._prepare_shared()
        else:
            self._prepare_separate()

    def _prepare_shared(self) -> None:
        self.constant("one.axis", np.array([1]))
        self.constant("one", np.int64(1))
        total = self.node("ReduceSum", ["attention_mask", "one.axis"], keepdims=0)
        self.lengths = self.node("Cast", [self.node("Sub", [total, "one"])], to=TensorProto.INT32)
        shape = self.node("Shape", ["attention_mask"])
        longest = self.node("Gather", [shape, "one"])
        self.longest = self.node("Cast", [longest], to=TensorProto.INT32)

    def _prepare_separate(self) -> None:
        """Cosines and sines by token, and what is added to scores: 0 where seen, else -inf."""
        self.constant("one.axis", np.array([1]))
        for name in ("cos", "sin"):
            table = self.node("Gather", [name, "position_ids"])  # (B, S, half)
            both = self.node("Concat", [table, table], axis=-1)
            self.turns[name] = self.node("Unsqueeze", [both, "one.axis"])  # (B, 1, S, D)
        self.constant("zero", np.int64(0))
        self.constant("one", np.int64(1))
        self.constant("two.axis", np.array([2]))
        self.constant("both.axes", np.array([1, 2]))
        total = self.node("Gather", [self.node("Shape", ["attention_mask"]), "one"])
        steps = self.node("Gather", [self.node("Shape", ["input_ids"]), "one"])
        past = self.node("Sub", [total, steps])
        keys = self.node("Range", ["zero", total, "one"])  # (T,)
        queries = self.node("Add", [self.node("Range", ["zero", steps, "one"]), past])  # (S,)
        before = self.node(
            "LessOrEqual", [keys, self.node("Unsqueeze", [queries, "one.axis"])]
        )  # (S, T)
        valid = self.node("Cast", ["attention_mask"], to=TensorProto.BOOL)
        valid = self.node("Unsqueeze", [valid, "both.axes"])  # (B, 1, 1, T)
        seen = self.node("And", [before, valid])  # (B, 1, S, T)
        self.constant("nothing", np.float32(0))
        self.constant("never", np.float32(np.finfo(np.float32).min))
        self.bias = self.node("Where", [seen, "nothing", "never"])

    def attention(self, x: str, layer: int) -> str:
        name = f"model.layers.{layer}.self_attn"
        if self.cache == "shared":
            y = self._attend_shared(x, name, layer)
        else:
            y = self._attend_separate(x, name, layer)
        return self.linear(y, [f"{name}.o_proj"])

    def _attend_shared(self, x: str, name: str, layer: int) -> str:
        config = self.config
        packed = self.linear(x, [f"{name}.{part}_proj" for part in "qkv"])
        kept = [f"past_key_values.{layer}.key", f"past_key_values.{layer}.value"]
        given = [f"present.{layer}.key", f"present.{layer}.value"]
        out = f"{name}.out"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [packed, "", "", *kept, self.lengths, self.longest, "cos", "sin"],
                [out, *given],
                domain=MICROSOFT,
                num_heads=config.heads,
                kv_num_heads=config.kv_heads,
                do_rotary=1,
                scale=config.head**-0.5,
            )
        )
        return out

    def _attend_separate(self, x: str, name: str, layer: int) -> str:
        config = self.config
        groups = config.heads // config.kv_heads
        query = self.turned(self.heads(x, f"{name}.q_proj", config.heads))  # (B, H, S, D)
        key = self.turned(self.heads(x, f"{name}.k_proj", config.kv_heads))
        value = self.heads(x, f"{name}.v_proj", config.kv_heads)
        key = self.extended(key, f"{layer}.key")  # (B, K, T, D)
        value = self.extended(value, f"{layer}.value")
        # (B, H, S, D) as (B, K, G, S, D): each key head meets its group of asking heads
        self.constant("grouped", np.array([0, config.kv_heads, groups, -1, config.head]))
        query = self.node("Reshape", [query, "grouped"])
        key, value = (self.node("Unsqueeze", [part, "two.axis"]) for part in (key, value))
        key = self.node("Transpose", [key], perm=[0, 1, 2, 4, 3])  # (B, K, 1, D, T)
        self.constant("scale", np.float32(config.head**-0.5))
        scores = self.node("Mul", [self.node("MatMul", [query, key]), "scale"])  # (B, K, G, S, T)
        bias = self.node("Unsqueeze", [self.bias, "two.axis"])  # (B, 1, 1, S, T)
        scores = self.node("Softmax", [self.node("Add", [scores, bias])], axis=-1)
        y = self.node("MatMul", [scores, value])  # (B, K, G, S, D)
        self.constant("joined", np.array([0, config.heads, -1, config.head]))
        y = self.node("Transpose", [self.node("Reshape", [y, "joined"])], perm=[0, 2, 1, 3])
        self.constant("wide", np.array([0, 0, config.heads * config.head]))
        return self.node("Reshape", [y, "wide"])  # (B, S, H * D)

    def heads(self, x: str, name: str, count: int) -> str:
        shape = f"heads.{count}"
        self.constant(shape, np.array([0, 0, count, self.config.head]))
        y = self.node("Reshape", [self.linear(x, [name]), shape])
        return self.node("Transpose", [y], perm=[0, 2, 1, 3])  # (B, heads, S, D)

    def turned(self, x: str) -> str:
        """Rotate by position: `x cos + (-second half, first half) sin`."""
        half = self.config.head // 2
        self.constant("halves", np.array([half, half]))
        first, second = f"{x}.first", f"{x}.second"
        self.nodes.append(helper.make_node("Split", [x, "halves"], [first, second], axis=-1))
        swapped = self.node("Concat", [self.node("Neg", [second]), first], axis=-1)
        straight, across = (
            self.node("Mul", [part, self.turns[name]])
            for part, name in ((x, "cos"), (swapped, "sin"))
        )
        return self.node("Add", [straight, across])

    def extended(self, x: str, name: str) -> str:
        inputs = [f"past_key_values.{name}", x]
        self.nodes.append(helper.make_node("Concat", inputs, [f"present.{name}"], axis=2))
        return f"present.{name}"

    # Parts

    def feed_forward(self, x: str, name: str) -> str:
        gate = self.linear(x, [f"{name}.mlp.gate_proj"])
        up = self.linear(x, [f"{name}.mlp.up_proj"])
        gate = self.node("Mul", [gate, self.node("Sigmoid", [gate])])
        return self.linear(self.node("Mul", [gate, up]), [f"{name}.mlp.down_proj"])

    def norm(self, x: str, weight: str) -> str:
        self.constant(weight, self.weights[weight])
        if self.cache == "shared":  # one kernel of onnxruntime's
            return self.node(
                "SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=self.config.epsilon
            )
        self.constant("epsilon", np.float32(self.config.epsilon))
        self.constant("last.axis", np.array([-1]))
        square = self.node("ReduceMean", [self.node("Mul", [x, x]), "last.axis"], keepdims=1)
        root = self.node("Sqrt", [self.node("Add", [square, "epsilon"])])
        return self.node("Mul", [self.node("Div", [x, root]), weight])

    def linear(self, x: str, names: Sequence[str]) -> str:
        """One or more projections side by side."""
        name = names[0] if len(names) == 1 else f"{names[0]}.packed"
        parts = [self.weights[f"{part}.weight"] for part in names]  # (out, in)
        matrix = np.ascontiguousarray(np.concatenate(parts).T)
        self.constant(f"{name}.weight", matrix)
        y = self.node("MatMul", [x, f"{name}.weight"])
        if f"{names[0]}.bias" not in self.weights:
            return y
        biases = np.concatenate([self.weights[f"{part}.bias"] for part in names])
        self.constant(f"{name}.bias", biases)
        return self.node("Add", [y, f"{name}.bias"])

    def constant(self, name: str, value: Any) -> None:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"{kind}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def serialise(self) -> onnx.ModelProto:
        config = self.config
        whole: int = TensorProto.INT64
        kept: list[str | int | None] = ["batch", config.kv_heads, "past", config.head]
        inputs = [
            helper.make_tensor_value_info("input_ids", whole, ["batch", "sequence"]),
            helper.make_tensor_value_info("attention_mask", whole, ["batch", "total"]),
        ]
        if self.cache == "separate":
            positions = helper.make_tensor_value_info("position_ids", whole, ["batch", "sequence"])
            inputs.append(positions)
        inputs.append(helper.make_tensor_value_info("num_logits_to_keep", whole, []))
        logits: list[str | int | None] = ["batch", "kept", config.vocabulary]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)]
        present: list[str | int | None] = ["batch", config.kv_heads, "present", config.head]
        for layer in range(config.layers):
            for part in ("key", "value"):
                name = f"past_key_values.{layer}.{part}"
                info = helper.make_tensor_value_info(name, TensorProto.FLOAT, kept)
                inputs.append(info)
                name = f"present.{layer}.{part}"
                info = helper.make_tensor_value_info(name, TensorProto.FLOAT, present)
                outputs.append(info)
        graph = helper.make_graph(
            self.nodes, "llama", inputs, outputs, list(self.constants.values())
        )
        sets = [helper.make_opsetid("", 18)]
        if self.cache == "shared":
            sets.append(helper.make_opsetid(MICROSOFT, 1))
        return helper.make_model(graph, opset_imports=sets, ir_version=9)
