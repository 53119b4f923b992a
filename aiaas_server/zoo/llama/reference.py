"""The network in numpy, written apart from the graph, to hold the graph against.

Source: the modelling code of Hugging Face's `transformers` for Llama, Qwen2 and Qwen3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aiaas_server.zoo.llama.checkpoint import Weights
from aiaas_server.zoo.llama.config import Floats, LlamaConfig, rotary


def forward(config: LlamaConfig, weights: Weights, tokens: Sequence[int]) -> Floats:
    """Logits behind each token, `(len(tokens), vocabulary)`; all tokens at once, nothing kept."""
    network = _Network(config, weights, len(tokens))
    embedding = network.read("model.embed_tokens.weight")
    x = embedding[list(tokens)]  # (T, W)
    for layer in range(config.layers):
        x = network.layer(x, f"model.layers.{layer}")
    x = network.norm(x, "model.norm.weight")
    head = network.read("lm_head.weight") if "lm_head.weight" in weights else embedding
    logits: Floats = x @ head.T
    return logits


class _Network:
    def __init__(self, config: LlamaConfig, weights: Weights, count: int) -> None:
        self.config = config
        self.weights = weights
        cos, sin = (table[:count] for table in rotary(config))
        self.turns = (cos + 1j * sin)[:, None]  # (T, 1, D / 2): a rotation of the plane each
        self.unseen = np.triu(np.full((count, count), -np.inf, np.float32), 1)

    def read(self, name: str) -> Floats:
        return np.asarray(self.weights[name], np.float32)

    def layer(self, x: Floats, name: str) -> Floats:
        x = x + self.attention(self.norm(x, f"{name}.input_layernorm.weight"), f"{name}.self_attn")
        y = self.norm(x, f"{name}.post_attention_layernorm.weight")
        gate = self.linear(y, f"{name}.mlp.gate_proj")
        active = gate / (1 + np.exp(-gate))
        y = active * self.linear(y, f"{name}.mlp.up_proj")
        return x + self.linear(y, f"{name}.mlp.down_proj")

    def attention(self, x: Floats, name: str) -> Floats:
        config = self.config
        query, key, value = (
            self.linear(x, f"{name}.{part}_proj").reshape(len(x), -1, config.head) for part in "qkv"
        )  # (T, heads, D)
        if f"{name}.q_norm.weight" in self.weights:
            query = self.norm(query, f"{name}.q_norm.weight")
            key = self.norm(key, f"{name}.k_norm.weight")
        query, key = self.turned(query), self.turned(key)
        groups = config.heads // config.kv_heads
        out = np.empty_like(query)
        for head in range(config.heads):
            asked = head // groups
            scores = query[:, head] @ key[:, asked].T * config.head**-0.5 + self.unseen  # (T, T)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            out[:, head] = shares @ value[:, asked]
        return self.linear(out.reshape(len(x), -1), f"{name}.o_proj")

    def turned(self, x: Floats) -> Floats:
        """Number i and number i + D / 2 of a head are the two coordinates of a point."""
        first, second = np.split(x, 2, axis=-1)
        points = (first + 1j * second) * self.turns
        return np.concatenate([points.real, points.imag], axis=-1).astype(np.float32)

    def linear(self, x: Floats, name: str) -> Floats:
        y: Floats = x @ self.read(f"{name}.weight").T
        bias = f"{name}.bias"
        return y + self.read(bias) if bias in self.weights else y

    def norm(self, x: Floats, weight: str) -> Floats:
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        y: Floats = x / np.sqrt(mean + self.config.epsilon) * self.read(weight)
        return y
