"""The two graphs of Whisper: an encoder of sound, and a decoder that writes what it heard.

The encoder gives at once what every layer of the decoder asks of it, its cross-attention's keys and
values, so that this is computed once for a window and not once for a token. Keys come transposed:
the decoder multiplies by them as they are.

Source: Radford et al. 2022, *Robust Speech Recognition via Large-Scale Weak Supervision*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aiaas_client.protocol.tensors import Array

HEAD: Final = 64  # numbers of one head, in every size of Whisper
MELS: Final = 80
FRAMES: Final = 3000  # of 10 ms
EPSILON: Final = 1e-5
OPSET: Final = 18


@dataclass(frozen=True, slots=True)
class WhisperSize:
    """What the weights tell of the network's measures."""

    layers: int
    width: int
    vocabulary: int
    context: int
    heard: int

    @property
    def heads(self) -> int:
        return self.width // HEAD


def size_of(weights: Mapping[str, Array]) -> WhisperSize:
    """The measures of a network, by its weights."""
    vocabulary, width = weights["decoder/embeddings/weight"].shape
    layers = sum(name.endswith("/attention/linear_0/weight") for name in weights)
    context = len(weights["decoder/position_encodings/encodings"])
    heard = len(weights["encoder/position_encodings/encodings"])
    return WhisperSize(layers, width, vocabulary, context, heard)


def cross_names(layers: int) -> tuple[str, ...]:
    """What the encoder gives and the decoder asks for."""
    return tuple(f"cross.{layer}.{part}" for layer in range(layers) for part in ("key", "value"))


def encoder(weights: Mapping[str, Array]) -> onnx.ModelProto:
    """Sound to what the decoder asks of it.

    Args:
        weights: By CTranslate2's names; query, key and value of self-attention stacked.
    Returns:
        `input_features` float32 `(batch, 80, 3000)` -> `cross.{layer}.key` float32
        `(batch, heads, 64, 1500)` and `cross.{layer}.value` `(batch, heads, 1500, 64)`.
    """
    graph = _Graph(weights)
    size = graph.size
    x = "input_features"
    for number, stride in ((1, 1), (2, 2)):
        kernel = [graph.weight(f"encoder/conv{number}/{part}") for part in ("weight", "bias")]
        pads = [1, 1]
        x = graph.gelu(graph.node("Conv", [x, *kernel], strides=[stride], pads=pads))
    x = graph.node("Transpose", [x], perm=[0, 2, 1])  # (B, 1500, W)
    x = graph.node("Add", [x, graph.weight("encoder/position_encodings/encodings")])
    for layer in range(size.layers):
        name = f"encoder/layer_{layer}"
        query, key, value = graph.packed(x, f"{name}/self_attention")
        key = graph.node("Transpose", [key], perm=[0, 1, 3, 2])
        y = graph.attend(query, key, value)
        x = graph.node("Add", [x, graph.linear(y, f"{name}/self_attention/linear_1")])
        x = graph.feed_forward(x, name)
    x = graph.norm(x, "encoder/layer_norm")
    for layer in range(size.layers):
        both = graph.linear(x, f"decoder/layer_{layer}/attention/linear_1")
        key, value = graph.parts(both, 2)
        graph.end("Transpose", [graph.heads(key)], f"cross.{layer}.key", perm=[0, 1, 3, 2])
        graph.end("Identity", [graph.heads(value)], f"cross.{layer}.value")
    inputs = [_floats("input_features", ["batch", MELS, FRAMES])]
    return graph.model("whisper-encoder", inputs, _cross(size))


def decoder(weights: Mapping[str, Array]) -> onnx.ModelProto:
    """Tokens to the logits of the next ones; what is masked is neither seen nor needed.

    Returns:
        `input_ids` and `position_ids` int64 `(batch, sequence)`, `attention_mask` int64
        `(batch, past + sequence)`, `num_logits_to_keep` int64 `()`, `cross.*` as the encoder gives
        them, `past_key_values.{layer}.{key,value}` float32 `(batch, heads, past, 64)` ->
        `logits` float32 `(batch, kept, vocabulary)`, `present.*`.
    """
    graph = _Graph(weights)
    size = graph.size
    embedding = graph.weight("decoder/embeddings/weight")
    places = graph.weight("decoder/position_encodings/encodings")
    words = graph.node("Gather", [embedding, "input_ids"])  # (B, S, W)
    x = graph.node("Add", [words, graph.node("Gather", [places, "position_ids"])])
    bias = graph.bias()
    for layer in range(size.layers):
        name = f"decoder/layer_{layer}"
        query, key, value = graph.packed(x, f"{name}/self_attention")
        key = graph.extended(key, f"{layer}.key")  # (B, H, T, D)
        value = graph.extended(value, f"{layer}.value")
        key = graph.node("Transpose", [key], perm=[0, 1, 3, 2])
        y = graph.attend(query, key, value, bias)
        x = graph.node("Add", [x, graph.linear(y, f"{name}/self_attention/linear_1")])
        y = graph.norm(x, f"{name}/attention/layer_norm")
        query = graph.heads(graph.linear(y, f"{name}/attention/linear_0"))
        y = graph.attend(query, f"cross.{layer}.key", f"cross.{layer}.value")
        x = graph.node("Add", [x, graph.linear(y, f"{name}/attention/linear_2")])
        x = graph.feed_forward(x, name)
    graph.logits(graph.kept(graph.norm(x, "decoder/layer_norm")), embedding)
    past: list[Any] = ["batch", size.heads, "past", HEAD]
    present: list[Any] = ["batch", size.heads, "present", HEAD]
    kept = [name.removeprefix("cross.") for name in cross_names(size.layers)]
    inputs = [
        _whole("input_ids", ["batch", "sequence"]),
        _whole("attention_mask", ["batch", "total"]),
        _whole("position_ids", ["batch", "sequence"]),
        _whole("num_logits_to_keep", []),
        *_cross(size),
        *(_floats(f"past_key_values.{name}", past) for name in kept),
    ]
    outputs = [
        _floats("logits", ["batch", "kept", size.vocabulary]),
        *(_floats(f"present.{name}", present) for name in kept),
    ]
    return graph.model("whisper-decoder", inputs, outputs)


class _Graph:
    """Writes nodes one after another; every method takes and returns tensors' names."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.size = size_of(weights)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    # Parts of a layer

    def packed(self, x: str, name: str) -> list[str]:
        """Query, key and value of self-attention, `(B, H, S, D)` each."""
        y = self.linear(self.norm(x, f"{name}/layer_norm"), f"{name}/linear_0")
        return [self.heads(part) for part in self.parts(y, 3)]

    def attend(self, query: str, key: str, value: str, bias: str = "") -> str:
        """`key` is transposed, `(B, H, D, T)`; `bias` is added to the scores."""
        scale = self.constant("scale", np.float32(HEAD**-0.5))
        query = self.node("Mul", [query, scale])
        scores = self.node("MatMul", [query, key])  # (B, H, S, T)
        if bias:
            scores = self.node("Add", [scores, bias])
        y = self.node("MatMul", [self.node("Softmax", [scores], axis=-1), value])  # (B, H, S, D)
        wide = self.constant("wide", np.array([0, 0, self.size.width]))
        return self.node("Reshape", [self.node("Transpose", [y], perm=[0, 2, 1, 3]), wide])

    def feed_forward(self, x: str, name: str) -> str:
        y = self.norm(x, f"{name}/ffn/layer_norm")
        y = self.gelu(self.linear(y, f"{name}/ffn/linear_0"))
        return self.node("Add", [x, self.linear(y, f"{name}/ffn/linear_1")])

    def norm(self, x: str, name: str) -> str:
        gamma, beta = (self.weight(f"{name}/{part}") for part in ("gamma", "beta"))
        return self.node("LayerNormalization", [x, gamma, beta], axis=-1, epsilon=EPSILON)

    def gelu(self, x: str) -> str:
        """`x / 2 * (1 + erf(x / sqrt(2)))`."""
        root = self.constant("root", np.float32(2**0.5))
        one = self.constant("one", np.float32(1))
        half = self.constant("half", np.float32(0.5))
        y = self.node("Add", [self.node("Erf", [self.node("Div", [x, root])]), one])
        return self.node("Mul", [self.node("Mul", [x, y]), half])

    def linear(self, x: str, name: str) -> str:
        y = self.node("MatMul", [x, self.turned(f"{name}/weight")])
        return self.node("Add", [y, self.weight(f"{name}/bias")])

    def heads(self, x: str) -> str:
        shape = self.constant("heads", np.array([0, 0, self.size.heads, HEAD]))
        return self.node("Transpose", [self.node("Reshape", [x, shape])], perm=[0, 2, 1, 3])

    def parts(self, x: str, count: int) -> list[str]:
        names = [f"{x}.part.{index}" for index in range(count)]
        node = helper.make_node("Split", [x], names, axis=-1, num_outputs=count)
        self.nodes.append(node)
        return names

    # The decoder's past

    def extended(self, x: str, name: str) -> str:
        return self.end("Concat", [f"past_key_values.{name}", x], f"present.{name}", axis=2)

    def bias(self) -> str:
        """`(B, 1, S, T)`: 0 where a token sees another, and next to -inf where not."""
        zero, step = self.constant("zero", np.int64(0)), self.constant("step", np.int64(1))
        first = self.constant("first.axis", np.array([1]))
        both = self.constant("both.axes", np.array([1, 2]))
        total = self.node("Gather", [self.node("Shape", ["attention_mask"]), step])
        count = self.node("Gather", [self.node("Shape", ["input_ids"]), step])
        keys = self.node("Range", [zero, total, step])  # (T,)
        past = self.node("Sub", [total, count])
        queries = self.node("Add", [self.node("Range", [zero, count, step]), past])  # (S,)
        before = self.node("LessOrEqual", [keys, self.node("Unsqueeze", [queries, first])])
        there = self.node("Cast", ["attention_mask"], to=TensorProto.BOOL)
        seen = self.node("And", [before, self.node("Unsqueeze", [there, both])])
        nothing = self.constant("nothing", np.float32(0))
        never = self.constant("never", np.float32(np.finfo(np.float32).min))
        return self.node("Where", [seen, nothing, never])

    def kept(self, x: str) -> str:
        """The last positions alone: each costs a product as wide as the vocabulary."""
        axis = self.constant("first.axis", np.array([1]))
        far = self.constant("far", np.array([np.iinfo(np.int64).max]))
        begin = self.node("Neg", [self.node("Reshape", ["num_logits_to_keep", axis])])
        return self.node("Slice", [x, begin, far, axis])

    def logits(self, x: str, embedding: str) -> None:
        """The embedding once more: a `Gemm` needs it in one order alone, but rows without batch."""
        flat = self.constant("flat", np.array([-1, self.size.width]))
        vocabulary = self.constant("vocabulary", np.array([self.size.vocabulary]))
        shape = self.node("Concat", [self.node("Shape", [x], end=2), vocabulary], axis=0)
        y = self.node("Gemm", [self.node("Reshape", [x, flat]), embedding], transB=1)
        self.end("Reshape", [y, shape], "logits")

    # Writing

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name].astype(np.float32))

    def turned(self, name: str) -> str:
        """A matrix of `(out, in)` as `(in, out)`."""
        matrix = np.ascontiguousarray(self.weights[name].astype(np.float32).T)
        return self.constant(f"{name}.turned", matrix)

    def constant(self, name: str, value: Any) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        return self.end(kind, inputs, f"{kind}.{len(self.nodes)}", **attributes)

    def end(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node whose output has this name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def model(self, name: str, inputs: list[Any], outputs: list[Any]) -> onnx.ModelProto:
        constants = list(self.constants.values())
        graph = helper.make_graph(self.nodes, name, inputs, outputs, constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )


def _cross(size: WhisperSize) -> list[onnx.ValueInfoProto]:
    shapes: dict[str, list[Any]] = {
        "key": ["batch", size.heads, HEAD, size.heard],
        "value": ["batch", size.heads, size.heard, HEAD],
    }
    return [_floats(name, shapes[name.rpartition(".")[2]]) for name in cross_names(size.layers)]


def _floats(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _whole(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)
